//! One resource: given, read, changed, removed; what becomes of it; what is refused, and how.

use harness::wait::{holds_within, wait_until};
use hyper::Request;
use serde_json::{Value, json};

use super::{Plane, SECS, mesh_service, mesh_service_path, refused};

#[test]
fn what_is_put_is_stored_gets_a_vip_and_a_name_and_is_gone_when_deleted() {
    let mut plane = Plane::start();
    let path = mesh_service_path("redis");
    assert_eq!(plane.get(&path).status, 404);
    let created = plane.put(&path, &mesh_service("redis", 6379));
    assert_eq!(
        (created.status.as_u16(), created.header("kuma-dns-outcome")),
        (201, "created"),
        "{created:?}"
    );
    let tag = created.header("etag").to_owned();

    // Read your writes: no wait.
    let item = plane.item(&path);
    assert_eq!(
        (&item["type"], &item["mesh"], &item["name"]),
        (&json!("MeshService"), &json!("default"), &json!("redis"))
    );
    assert_eq!(item["kri"], "kri_msvc_default___redis_");
    assert_eq!(item["labels"], json!({"team": "shop"}));
    assert_eq!(item["spec"], mesh_service("redis", 6379)["spec"]);
    assert!(item["creationTime"].as_str().unwrap().starts_with("20"), "{item}");
    assert_eq!(plane.get(&path).header("etag"), tag);

    wait_until(SECS, "a VIP in its status", || plane.item(&path)["status"]["vips"][0]["ip"].is_string());
    let status = plane.item(&path)["status"].clone();
    assert!(status["vips"][0]["ip"].as_str().unwrap().starts_with("241."), "{status}");
    let address = &status["addresses"][0];
    assert_eq!(
        (&address["hostname"], &address["origin"]),
        (&json!("redis.svc.mesh.local"), &json!("HostnameGenerator"))
    );
    assert_eq!(address["hostnameGeneratorRef"]["coreName"], "local-universal-mesh-service", "{status}");
    assert_eq!(status["hostnameGenerators"][0]["conditions"][0]["status"], "True", "{status}");
    let vip = plane.item("/meshes/default/vips/MeshService:redis");
    assert_eq!((&vip["v4"], &vip["ports"][0]["port"]), (&status["vips"][0]["ip"], &json!(6379)), "{vip}");

    let again = plane.put(&path, &mesh_service("redis", 6379));
    assert_eq!((again.status.as_u16(), again.header("kuma-dns-outcome")), (200, "unchanged"));
    assert_eq!(again.header("etag"), tag);
    let changed = plane.put(&path, &mesh_service("redis", 6380));
    assert_eq!((changed.status.as_u16(), changed.header("kuma-dns-outcome")), (200, "configured"));
    assert_ne!(changed.header("etag"), tag);
    let after = plane.item(&path);
    assert_eq!(after["creationTime"], item["creationTime"]);
    assert_eq!(after["status"]["vips"], status["vips"], "a change of ports keeps the VIP");

    assert_eq!(plane.delete(&path).status, 200);
    assert_eq!(plane.get(&path).status, 404);
    refused(&plane.delete(&path), 404);
    let gone = || plane.get("/meshes/default/vips/MeshService:redis").status == 404;
    wait_until(SECS, "its VIP is gone", gone);
}

#[test]
fn what_was_put_outlives_a_restart_with_its_vip() {
    let mut plane = Plane::start();
    let path = mesh_service_path("redis");
    assert_eq!(plane.put(&path, &mesh_service("redis", 6379)).status, 201);
    let with_vip = |plane: &mut Plane| {
        wait_until(SECS, "a VIP", || plane.item(&path)["status"]["vips"].is_array());
        plane.item(&path)
    };
    let before = with_vip(&mut plane);
    plane.process.signal(nix::sys::signal::Signal::SIGKILL);
    plane.process.wait(SECS).unwrap();
    plane.process = plane.place.start(&[], &[]).unwrap();
    plane.http = plane.place.http().unwrap();
    assert_eq!(with_vip(&mut plane), before);
}

#[test]
fn a_missing_vip_is_absent_as_in_kuma_and_an_external_service_has_one_in_its_own_place() {
    let mut plane = Plane::start();
    let path = "/meshes/default/meshexternalservices/tcpbin";
    let body = json!({
        "type": "MeshExternalService", "mesh": "default", "name": "tcpbin",
        "spec": {
            "match": {"type": "HostnameGenerator", "port": 4242, "protocol": "tcp"},
            "endpoints": [{"address": "tcpbin.com", "port": 4242}],
        },
        // Kuma ignores what somebody writes here, and so do we.
        "status": {"vip": {"ip": "192.0.2.1"}},
    });
    assert_eq!(plane.put(path, &body).status, 201);
    let vip = |plane: &mut Plane| {
        let item = plane.item(path);
        let vip = item["status"]["vip"].clone();
        assert!(vip.is_object() && vip["ip"] != "192.0.2.1", "{item}");
        vip["ip"].as_str().map(str::to_owned)
    };
    assert!(holds_within(SECS, || vip(&mut plane).is_some_and(|ip| ip.starts_with("242."))));
    assert_eq!(plane.item(path)["status"]["addresses"][0]["hostname"], "tcpbin.extsvc.mesh.local");
}

#[test]
fn a_put_or_delete_on_condition_loses_no_change_of_somebody_else() {
    let mut plane = Plane::start();
    let path = mesh_service_path("redis");
    let mut conditional = |method: &str, port: u16, name: &str, value: &str| {
        let body = if method == "PUT" { mesh_service("redis", port).to_string() } else { String::new() };
        let request = Request::builder().method(method).uri(&path).header(name, value);
        let request = request.header("content-type", "application/json").body(body.into()).unwrap();
        plane.http.send(request).unwrap()
    };
    let created = conditional("PUT", 1, "if-none-match", "*");
    assert_eq!(created.status, 201);
    refused(&conditional("PUT", 2, "if-none-match", "*"), 412);
    let first = created.header("etag").to_owned();
    let second = conditional("PUT", 3, "if-match", &first);
    assert_eq!(second.status, 200);
    refused(&conditional("PUT", 4, "if-match", &first), 412);
    refused(&conditional("DELETE", 0, "if-match", &first), 412);
    assert_eq!(refused(&conditional("PUT", 5, "if-match", "latest"), 400).0, "if-match");
    assert_eq!(refused(&conditional("PUT", 5, "if-none-match", "\"1\""), 400).0, "if-none-match");
    assert_eq!(conditional("DELETE", 0, "if-match", second.header("etag")).status, 200);
}

#[test]
fn what_a_file_gives_is_shown_and_only_the_file_changes_it() {
    let mut plane = Plane::start();
    let path = "/meshes/default/external-services/given";
    let item = plane.item(path);
    assert_eq!(item["networking"]["address"], "192.0.2.9:80");
    assert!(refused(&plane.put(path, &item), 409).1.contains("mesh.yaml"));
    assert!(refused(&plane.delete(path), 409).1.contains("mesh.yaml"));
    // The short form has no resource, but a VIP.
    assert!(plane.item("/meshes/default/vips/web")["v4"].as_str().unwrap().starts_with("240."));
}

#[test]
fn every_mistake_is_answered_in_kumas_shape_with_its_field() {
    let mut plane = Plane::start();
    let path = mesh_service_path("redis");
    let good = mesh_service("redis", 6379);
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    for (body, field, reason) in [
        (with("/name", json!("other")), "name", "name from the URL has to be the same as in body"),
        (with("/mesh", json!("other")), "mesh", "mesh from the URL has to be the same as in body"),
        (with("/type", json!("Mesh")), "type", "type from the URL has to be the same as in body"),
        (with("/spec/ports/0/port", json!(0)), "spec.ports[0].port", "0 is not allowed"),
        (with("/spec/ports/0", json!({"prot": 1})), "spec.ports[0].prot", "did you mean \"port\""),
        (with("/labels", json!([])), "labels", "expected tags"),
        (json!([]), "", "expected a resource with type, mesh and name"),
    ] {
        let answer = plane.put(&path, &body);
        let (found, why) = refused(&answer, 400);
        let all = answer.json()["invalid_parameters"].clone();
        assert!(
            all.as_array().unwrap().iter().any(|one| one["field"] == field
                && one["reason"].as_str().unwrap().contains(reason)
                && one["source"] == "body"),
            "{field}: {reason:?} is not in {all} (first: {found} {why})"
        );
    }
    let two = with("/spec/ports", json!([{"port": 0}, {"port": 1, "appProtocol": "smtp"}]));
    assert_eq!(plane.put(&path, &two).json()["invalid_parameters"].as_array().unwrap().len(), 2);
    let nowhere = json!({"type": "MeshService", "mesh": "nowhere", "name": "redis", "spec": {}});
    let answer = plane.put("/meshes/nowhere/meshservices/redis", &nowhere);
    assert_eq!(refused(&answer, 400), ("mesh".to_owned(), "mesh of name nowhere is not found".to_owned()));
    assert_eq!(plane.get(&path).status, 404, "nothing of it was stored");
}

#[test]
fn what_is_no_request_of_ours_is_answered_in_the_same_shape() {
    let mut plane = Plane::start();
    let path = mesh_service_path("redis");
    let mut send = |method: &str, path: &str, kind: &str, body: &str| {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        plane.http.send(request.body(body.to_owned().into()).unwrap()).unwrap()
    };
    let json = "application/json";
    refused(&send("GET", "/nothing/here", json, ""), 404);
    refused(&send("GET", "/meshes/default/secrets", json, ""), 404);
    let answer = send("POST", &path, json, "{}");
    refused(&answer, 405);
    assert!(answer.header("allow").contains("PUT"), "{answer:?}");
    assert_eq!(refused(&send("PUT", &path, json, "{\"type\":"), 400).0, "");
    assert_eq!(refused(&send("PUT", &path, json, "\u{1}"), 400).0, "");
    assert_eq!(refused(&send("PUT", &path, json, ""), 400).0, "");
    assert_eq!(refused(&send("PUT", &path, "text/plain", "{}"), 415).0, "content-type");
    assert_eq!(refused(&send("PUT", &path, "", "{}"), 415).0, "content-type");
    assert_eq!(refused(&send("PUT", "/meshes/%FF/meshservices/x", json, "{}"), 400).0, "");
    let yaml = "type: MeshService\nmesh: default\nname: redis\nspec:\n  ports: [{port: 6379}]\n";
    assert_eq!(send("PUT", &path, "application/yaml; charset=utf-8", yaml).status, 201);
    let large = format!("{{\"type\": \"{}\"}}", "x".repeat(5 << 20));
    assert!(refused(&send("PUT", &path, json, &large), 413).1.contains("4194304 bytes"));
}
