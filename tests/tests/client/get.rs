//! `get`: kinds, tables, pages, following, and every way in which it fails.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::process::Process;
use harness::scripted::{Reply, Scripted};
use harness::wait::wait_until;
use serde_json::{Value, json};

use super::{command, list, mesh_service, refusal, run};

#[test]
fn a_list_is_read_page_by_page_and_shown_as_a_table() {
    let server = Scripted::start(|asked| match asked.path.as_str() {
        "/meshes/default/meshservices?size=1000" => Reply::json(
            200,
            &json!({ "total": 3, "items": [mesh_service("default", "b", "241.0.0.2"), mesh_service("default", "c", "241.0.0.3")],
                     "next": "http://elsewhere.invalid/meshes/default/meshservices?offset=default%2Fc&size=1000" }),
        ),
        "/meshes/default/meshservices?offset=default%2Fc&size=1000" => {
            list(&[mesh_service("default", "a", "fd00:fd01::1")])
        }
        other => panic!("{other} was asked"),
    })
    .unwrap();
    let said = run(&["get", "meshservices", "--address", &server.url()]);
    let rows = said.rows();
    assert_eq!(rows[0], ["MESH", "NAME", "VIP4", "VIP6", "HOSTNAME", "PORTS", "AGE"]);
    assert_eq!(rows[1], ["default", "a", "-", "fd00:fd01::1", "a.svc.mesh.local", "6379/tcp", "-"]);
    assert_eq!(rows[2][..3], ["default", "b", "241.0.0.2"]);
    assert_eq!(rows[3][..3], ["default", "c", "241.0.0.3"]);
    assert_eq!(
        server.asked().iter().map(|asked| asked.connection).max(),
        Some(0),
        "one connection is enough"
    );
}

#[test]
fn a_server_that_leads_in_circles_is_noticed() {
    let server = Scripted::start(|_| {
        Reply::json(
            200,
            &json!({ "total": 9, "items": [mesh_service("m", "a", "x")], "next": "/vips?offset=1" }),
        )
    })
    .unwrap();
    run(&["get", "vips", "--address", &server.url()]).failed(1, &["its next page is /vips?offset=1"]);
}

#[test]
fn kinds_and_meshes_are_asked_at_kumas_paths() {
    let server = Scripted::start(|asked| {
        let name = asked.path.split('?').next().unwrap_or_default();
        if name.ends_with("/redis") {
            Reply::json(200, &mesh_service("shop", "redis", "241.0.0.1"))
        } else {
            list(&[])
        }
    })
    .unwrap();
    let url = server.url();
    for (args, path) in [
        (&["services"][..], "/meshes/default/vips?size=1000"),
        (&["vips", "-A"], "/vips?size=1000"),
        (&["external-service", "-m", "shop"], "/meshes/shop/external-services?size=1000"),
        (&["zone-ingresses", "-m", "shop"], "/zoneingresses?size=1000"),
        (&["Mesh"], "/meshes?size=1000"),
        (&["meshservice", "redis", "-m", "shop"], "/meshes/shop/meshservices/redis"),
    ] {
        let said = run(&[&["get", "--address", &url], args].concat());
        assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
        assert_eq!(server.asked().last().unwrap().path, path, "{args:?}");
    }
    let said = run(&["get", "virtualoutbounds", "--address", &url]);
    assert!(
        said.out.is_empty() && said.err.contains("no VirtualOutbound in mesh \"default\""),
        "{}",
        said.err
    );
}

#[test]
fn json_is_kumas_envelope_and_yaml_is_what_apply_takes() {
    let server = Scripted::start(|asked| {
        let item = mesh_service("default", "redis", "241.0.0.1");
        if asked.path.contains('?') {
            list(&[item.clone(), mesh_service("default", "s", "-")])
        } else {
            Reply::json(200, &item)
        }
    })
    .unwrap();
    let get = |args: &[&str]| run(&[&["get", "meshservice", "--address", &server.url()], args].concat());
    let whole: Value = serde_json::from_str(&get(&["-o", "json"]).out).unwrap();
    assert_eq!(
        (&whole["total"], &whole["items"][0]["name"], &whole["next"]),
        (&json!(2), &json!("redis"), &Value::Null)
    );
    let one: Value = serde_json::from_str(&get(&["redis", "-o", "json"]).out).unwrap();
    assert_eq!(one, mesh_service("default", "redis", "241.0.0.1"));
    let yaml = get(&["-o", "yaml"]).out;
    assert!(yaml.starts_with("type: MeshService\nmesh: default\nname: redis\n"), "{yaml}");
    assert_eq!(yaml.matches("\n---\ntype: MeshService\n").count(), 1, "{yaml}");
}

#[test]
fn what_cannot_be_answered_says_why_and_what_to_do() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{closed}");
    run(&["get", "vips", "--address", &nobody])
        .failed(3, &[&nobody, "kuma-dns up -f", "--address", "Connection refused"]);
    run(&["get", "vips", "--address", "http://no-such-host.invalid:5681"])
        .failed(3, &["http://no-such-host.invalid:5681", "--address"]);
    run(&["get", "vpis"]).failed(2, &["\"vpis\" is no kind", "\"vips\""]);
    run(&["get", "pods"]).failed(2, &["meshservices", "hostnamegenerators"]);
    run(&["get", "vips", "--address", "ftp://x"]).failed(2, &["http or https"]);
    run(&["get", "vips", "--token-file", "/nowhere/token"]).failed(2, &["/nowhere/token"]);
    run(&["get", "vips", "--ca-cert-file", "/nowhere/ca.pem"]).failed(2, &["--ca-cert-file is for https"]);
    run(&["get", "vip", "redis", "-A"]).failed(2, &["-m"]);
    let absent = Scripted::start(|_| refusal(404, "Not Found", &[])).unwrap();
    let url = absent.url();
    run(&["get", "meshservice", "redis", "-m", "shop", "--address", &url])
        .failed(1, &["no MeshService \"redis\" in mesh \"shop\"", &url, "-m"]);
    let foreign = Scripted::start(|_| Reply::Whole(200, vec![], "<html>".into())).unwrap();
    run(&["get", "vips", "--address", &foreign.url()]).failed(1, &["5681"]);
    let broken = Scripted::start(|_| Reply::Nothing).unwrap();
    run(&["get", "vips", "--address", &broken.url()]).failed(1, &["broke"]);
    let denied = Scripted::start(|_| refusal(401, "Unauthorized", &[])).unwrap();
    run(&["get", "vips", "--address", &denied.url()]).failed(4, &["--token-file"]);
}

#[test]
fn an_address_and_a_token_may_come_from_the_environment() {
    let server = Scripted::start(|_| list(&[])).unwrap();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret-word\n").unwrap();
    let mut get = command(&["get", "vips"]);
    get.env("KUMA_DNS_ADDRESS", server.url()).env("KUMA_DNS_TOKEN_FILE", token.path());
    assert!(get.output().unwrap().status.success());
    assert_eq!(server.asked()[0].authorization, "Bearer secret-word");
}

#[test]
fn a_control_plane_that_is_busy_is_asked_again() {
    let count = AtomicUsize::new(0);
    let server = Scripted::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => refusal(503, "no leader yet", &[]),
        _ => list(&[]),
    })
    .unwrap();
    assert_eq!(run(&["get", "vips", "--address", &server.url()]).code, Some(0));
    assert_eq!(server.asked().len(), 2);
}

fn event(name: &str, item: &Value) -> String {
    format!("event: {name}\ndata: {item}\n\n")
}

#[test]
fn a_watch_outlives_its_connection_and_tells_only_what_changed() {
    let count = AtomicUsize::new(0);
    let synced = "event: synced\ndata: {}\n\n".to_owned();
    let server = Scripted::start(move |asked| {
        assert_eq!(asked.path, "/meshes/default/meshservices?watch=true");
        let (a, b) = (mesh_service("default", "a", "241.0.0.1"), mesh_service("default", "b", "241.0.0.2"));
        let moved = mesh_service("default", "a", "241.0.0.9");
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Events(vec![
                event("put", &a),
                event("put", &b),
                synced.clone(),
                event("put", &moved),
                ": still here\n\n".into(),
            ]),
            1 => refusal(503, "starting", &[]),
            2 => Reply::Nothing,
            _ => Reply::OpenEvents(vec![
                event("put", &moved),
                event("put", &mesh_service("default", "c", "241.0.0.3")),
                synced.clone(),
                event("delete", &moved),
            ]),
        }
    })
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let watch = command(&["get", "meshservices", "-w", "--address", &server.url()]);
    let watch = Process::start(watch, &dir.path().join("said")).unwrap();
    wait_until(20, "the last change", || watch.said().matches("DELETED").count() == 2);
    let said = watch.said();
    let seen: Vec<Vec<&str>> = said
        .lines()
        .filter(|line| !line.starts_with("kuma-dns:"))
        .map(|line| line.split_whitespace().take(4).collect())
        .collect();
    let want = [
        ["EVENT", "MESH", "NAME", "VIP4"],
        ["ADDED", "default", "a", "241.0.0.1"],
        ["ADDED", "default", "b", "241.0.0.2"],
        ["MODIFIED", "default", "a", "241.0.0.9"],
        ["ADDED", "default", "c", "241.0.0.3"],
        ["DELETED", "default", "b", "241.0.0.2"],
        ["DELETED", "default", "a", "241.0.0.9"],
    ];
    assert_eq!(seen, want, "{said}");
    assert_eq!(said.matches("trying again").count(), 1, "{said}");
    assert!(said.contains("is there again"), "{said}");
}

#[test]
fn a_watch_as_json_is_one_object_a_line_and_ends_with_its_reader() {
    let synced = "event: synced\ndata: {}\n\n".to_owned();
    let server = Scripted::start(move |_| {
        let mut pieces = vec![event("put", &mesh_service("m", "a", "241.0.0.1")), synced.clone()];
        pieces.extend((0..2_000).map(|n| event("put", &mesh_service("m", &format!("s{n}"), "241.0.0.1"))));
        Reply::OpenEvents(pieces)
    })
    .unwrap();
    let mut watch = command(&["get", "meshservices", "-w", "-A", "-o", "json", "--address", &server.url()]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(watch.stdout.take().unwrap()), &mut line)
        .unwrap();
    let first: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&first["event"], &first["item"]["name"]), (&json!("ADDED"), &json!("a")));
    let mut ended = None;
    wait_until(20, "an end after the reader's", || {
        ended = watch.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[test]
fn a_server_that_cannot_be_followed_is_told_at_once() {
    let server = Scripted::start(|_| list(&[])).unwrap();
    run(&["get", "vips", "-w", "--address", &server.url()]).failed(1, &["cannot be followed"]);
}
