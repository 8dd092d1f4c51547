//! `apply` and `delete`: what is sent in which order, what is printed, what is refused.

use std::collections::BTreeSet;

use harness::scripted::{Asked, Reply, Scripted};
use serde_json::{Value, json};

use super::{name_of, refusal, run, run_with};

fn service(name: &str) -> String {
    format!("type: MeshService\nmesh: default\nname: {name}\nspec:\n  ports: [{{port: 6379}}]\n")
}

fn accept(asked: &Asked) -> Reply {
    let (status, outcome) = match name_of(asked) {
        "old" => (200, "configured"),
        "same" => (200, "unchanged"),
        _ => (201, "created"),
    };
    let headers = vec!["content-type: application/json".into(), format!("kuma-dns-outcome: {outcome}")];
    Reply::Whole(status, headers, "{}".into())
}

#[test]
fn every_document_of_files_folders_and_stdin_is_put_and_told() {
    let server = Scripted::start(accept).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    std::fs::write(dir.path().join("folder/a.yaml"), format!("{}---\n{}", service("new"), service("old")))
        .unwrap();
    let json = json!({"type": "MeshService", "mesh": "shop", "name": "same", "spec": {"ports": [{"port": 1}]}, "status": {"vips": []}});
    std::fs::write(dir.path().join("folder/b.json"), json.to_string()).unwrap();
    let folder = dir.path().join("folder").display().to_string();
    let args = ["apply", "-f", &folder, "-f", "-", "--address", &server.url()];
    let said = run_with(&args, "type: Mesh\nname: shop\n");
    let want = [
        "mesh/shop created",
        "meshservice/new created",
        "meshservice/old configured",
        "meshservice/same unchanged",
    ];
    assert_eq!(said.rows().iter().map(|row| row.join(" ")).collect::<Vec<_>>(), want);
    let asked = server.asked();
    assert_eq!(
        (asked[0].method.as_str(), asked[0].path.as_str()),
        ("PUT", "/meshes/shop"),
        "a mesh comes first"
    );
    let paths: BTreeSet<&str> = asked[1..].iter().map(|asked| asked.path.as_str()).collect();
    let want = [
        "/meshes/default/meshservices/new",
        "/meshes/default/meshservices/old",
        "/meshes/shop/meshservices/same",
    ];
    assert_eq!(paths, BTreeSet::from(want));
    let sent: Value =
        serde_json::from_str(&asked.iter().find(|asked| name_of(asked) == "same").unwrap().body).unwrap();
    assert_eq!(
        sent,
        json!({"type": "MeshService", "mesh": "shop", "name": "same", "spec": {"ports": [{"port": 1}]}}),
        "what others decide is not sent"
    );
}

#[test]
fn many_resources_share_few_connections_and_are_printed_in_order() {
    let server = Scripted::start(accept).unwrap();
    let text: String = (0..500).map(|n| format!("---\n{}", service(&format!("s{n:03}")))).collect();
    let said = run_with(&["apply", "-f", "-", "--address", &server.url()], &text);
    let names: Vec<String> = said.rows().iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(names, (0..500).map(|n| format!("meshservice/s{n:03}")).collect::<Vec<_>>());
    let connections: BTreeSet<usize> = server.asked().iter().map(|asked| asked.connection).collect();
    assert!((2..=16).contains(&connections.len()), "{} connections", connections.len());
}

#[test]
fn a_mistake_anywhere_and_nothing_is_sent() {
    let server = Scripted::start(accept).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let twice = format!("{}---\n{}", service("a"), service("a"));
    for (text, parts) in [
        (service("a").replace("6379", "0"), &["a.yaml:5", "spec.ports[0].port", "0 is not allowed"][..]),
        (format!("{}---\ntype: Pod\nname: x\n", service("a")), &["a.yaml:7", "\"Pod\" is no kind"]),
        (twice, &["a.yaml:9", "is given already at", "a.yaml:3"]),
        ("services: [{service: a}]\n".into(), &["a.yaml:1: type", "`up -f`"]),
        ("a: [\n".into(), &["a.yaml", "YAML"]),
        (String::new(), &["a.yaml", "empty"]),
        ("apiVersion: kuma.io/v1alpha1\nkind: Mesh\n".into(), &["a.yaml:1", "apiVersion", "Universal"]),
    ] {
        std::fs::write(&file, &text).unwrap();
        let args = ["apply", "-f", file.to_str().unwrap(), "--address", &server.url()];
        run(&args).failed(2, parts);
    }
    run(&["apply", "-f", "/nowhere.yaml", "--address", &server.url()]).failed(2, &["/nowhere.yaml"]);
    run(&["apply"]).failed(2, &["--file"]);
    assert_eq!(server.asked(), []);
}

#[test]
fn what_is_refused_is_listed_with_its_fields_and_the_rest_is_applied() {
    let server = Scripted::start(|asked| match name_of(asked) {
        "bad" => {
            refusal(400, "Resource is not valid", &[("spec.ports[0].port", "is taken"), ("name", "is odd")])
        }
        "file" => refusal(409, "mesh.yaml gives this resource", &[]),
        _ => accept(asked),
    })
    .unwrap();
    let text = ["a", "bad", "file", "z"].map(|name| format!("---\n{}", service(name))).concat();
    let said = run_with(&["apply", "-f", "-", "--address", &server.url()], &text);
    said.failed(
        1,
        &[
            "2 of 4 not applied",
            "stdin:",
            "meshservice/bad:",
            "spec.ports[0].port: is taken",
            "name: is odd",
            "meshservice/file: mesh.yaml gives",
        ],
    );
    assert_eq!(said.out, "meshservice/a created\nmeshservice/z created\n");
    let only = run_with(&["apply", "-f", "-", "--address", &server.url()], &service("file"));
    only.failed(1, &["meshservice/file: mesh.yaml gives this resource"]);
}

#[test]
fn what_stops_everything_is_told_once_and_how_far_it_came() {
    let server = Scripted::start(|asked| match name_of(asked) {
        "s1" => refusal(403, "Access Denied", &[]),
        _ => accept(asked),
    })
    .unwrap();
    let text: String = (0..300).map(|n| format!("---\n{}", service(&format!("s{n}")))).collect();
    let said = run_with(&["apply", "-f", "-", "--address", &server.url()], &text);
    said.failed(4, &["1 of 300 applied, then it stopped", "Access Denied", "--token-file"]);
    assert_eq!(said.err.matches("Access Denied").count(), 1, "{}", said.err);
    assert!(server.asked().len() < 300, "it stopped");
}

#[test]
fn a_dry_run_checks_and_sends_nothing() {
    let said =
        run_with(&["apply", "-f", "-", "--dry-run", "--address", "http://127.0.0.1:9"], &service("redis"));
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "meshservice/redis is well (dry run)\n"),
        "{}",
        said.err
    );
    run_with(&["apply", "-f", "-", "--dry-run"], &service("a").replace("6379", "no")).failed(2, &["stdin:5"]);
}

#[test]
fn resources_are_deleted_by_name_or_by_their_file_and_a_mesh_goes_last() {
    let server = Scripted::start(|asked| match name_of(asked) {
        "gone" => refusal(404, "Not Found", &[]),
        _ => accept(asked),
    })
    .unwrap();
    let url = server.url();
    let said = run(&["delete", "meshservice", "a", "b", "-m", "shop", "--address", &url]);
    assert_eq!(said.out, "meshservice/a deleted\nmeshservice/b deleted\n", "{}", said.err);
    let paths: BTreeSet<String> =
        server.asked().into_iter().map(|asked| asked.method + " " + &asked.path).collect();
    let want = ["a", "b"].map(|name| format!("DELETE /meshes/shop/meshservices/{name}"));
    assert_eq!(paths, BTreeSet::from(want));
    let text = format!("type: Mesh\nname: shop\n---\n{}", service("c"));
    let said = run_with(&["delete", "-f", "-", "--address", &url], &text);
    assert_eq!(said.out, "meshservice/c deleted\nmesh/shop deleted\n", "{}", said.err);
    run(&["delete", "meshservice", "gone", "--address", &url]).failed(1, &["meshservice/gone: Not Found"]);
    let said = run(&["delete", "meshservice", "gone", "--ignore-not-found", "--address", &url]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "meshservice/gone not there\n"));
    run(&["delete", "vip", "redis", "--address", &url]).failed(2, &["follows from"]);
    run(&["delete", "meshservice", "--address", &url]).failed(2, &["NAME"]);
    run(&["delete"]).failed(2, &["KIND"]);
}
