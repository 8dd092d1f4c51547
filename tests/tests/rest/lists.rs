//! Lists: the envelope, pages, filters, and what stands on its own.

use std::collections::BTreeSet;

use harness::wait::wait_until;
use serde_json::{Value, json};

use super::{Plane, SECS, mesh_service, mesh_service_path, refused};

const MANY: usize = 230;

fn names(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

fn put_many(plane: &mut Plane) {
    for number in 0..MANY {
        let name = format!("s{number:03}");
        let mut body = mesh_service(&name, 80);
        body["labels"] = json!({"parity": if number % 2 == 0 { "even" } else { "odd" }});
        assert_eq!(plane.put(&mesh_service_path(&name), &body).status, 201);
    }
}

/// Follows `next` to the end; the names in their order, and how many pages there were.
fn follow(plane: &mut Plane, path: &str) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut next) = (Vec::new(), 0, Some(path.to_owned()));
    while let Some(path) = next {
        let page = plane.item(&path);
        found.extend(names(&page));
        pages += 1;
        next = page["next"].as_str().map(|url| {
            let path =
                url.strip_prefix("http://127.0.0.1:5681").unwrap_or_else(|| panic!("{url} is not absolute"));
            path.to_owned()
        });
    }
    (found, pages)
}

#[test]
fn pages_hold_every_item_once_also_while_others_come_and_go() {
    let mut plane = Plane::start();
    put_many(&mut plane);
    let all: Vec<String> = (0..MANY).map(|number| format!("s{number:03}")).collect();
    for (path, pages) in [
        ("/meshservices", 3),
        ("/meshes/default/meshservices?size=50", 5),
        ("/meshservices?size=1000", 1),
        ("/meshservices?size=230", 1),
    ] {
        assert_eq!(follow(&mut plane, path), (all.clone(), pages), "{path}");
    }
    let page = plane.item("/meshservices?size=10&offset=225");
    assert_eq!(
        (names(&page), &page["total"], &page["next"]),
        (all[225..].to_vec(), &json!(MANY), &Value::Null)
    );
    assert_eq!(names(&plane.item("/meshservices?offset=9999")), [""; 0]);

    // What goes in front of a page, or the very item that it begins behind, takes nothing off it.
    let first = plane.item("/meshservices?size=100");
    assert_eq!(plane.delete(&mesh_service_path("s000")).status, 200);
    assert_eq!(plane.delete(&mesh_service_path("s099")).status, 200);
    let next = first["next"].as_str().unwrap().trim_start_matches("http://127.0.0.1:5681").to_owned();
    assert_eq!(names(&plane.item(&next)), all[100..200]);
}

#[test]
fn filters_count_and_page_what_they_let_through() {
    let mut plane = Plane::start();
    put_many(&mut plane);
    let page = plane.item("/meshservices?filter[labels.parity]=odd&size=3");
    assert_eq!(
        (names(&page), &page["total"]),
        (vec!["s001".into(), "s003".into(), "s005".into()], &json!(MANY / 2))
    );
    let (odd, _) = follow(&mut plane, "/meshservices?filter[labels.parity]=odd&size=20");
    assert_eq!(odd.iter().collect::<BTreeSet<_>>().len(), MANY / 2);
    assert_eq!(follow(&mut plane, "/meshservices?name=22").0.len(), 12);
    assert_eq!(plane.item("/meshservices?name=22&filter[labels.parity]=even")["total"], 7);
    assert_eq!(plane.item("/meshservices?filter[labels.none]=x")["total"], 0);
    let wrong = plane.get("/meshservices?size=1001&offset=-1&filter[status]=x");
    let fields = wrong.json()["invalid_parameters"].clone();
    assert_eq!(fields.as_array().unwrap().len(), 3, "{fields}");
    assert_eq!(refused(&wrong, 400).0, "size");
}

#[test]
fn every_kind_is_listed_by_mesh_and_over_all_and_an_unknown_mesh_is_none() {
    let mut plane = Plane::start();
    let mesh = json!({"type": "Mesh", "name": "other"});
    assert_eq!(plane.put("/meshes/other", &mesh).status, 201);
    assert_eq!(names(&plane.item("/meshes")), ["default", "other"]);
    let mut body = mesh_service("redis", 1);
    body["mesh"] = "other".into();
    assert_eq!(plane.put("/meshes/other/meshservices/redis", &body).status, 201);
    assert_eq!(plane.put(&mesh_service_path("redis"), &mesh_service("redis", 1)).status, 201);
    assert_eq!(plane.item("/meshservices")["total"], 2);
    assert_eq!(plane.item("/meshes/other/meshservices")["total"], 1);
    assert_eq!(names(&plane.item("/external-services")), ["given"]);
    let generators = names(&plane.item("/hostnamegenerators"));
    assert!(generators.iter().any(|name| name == "local-universal-mesh-service"), "{generators:?}");
    refused(&plane.get("/meshes/nowhere/meshservices"), 404);
    refused(&plane.get("/meshes/nowhere/vips"), 404);
    let vips = |plane: &mut Plane| plane.item("/vips")["total"].as_u64().unwrap();
    // web and given, which has no host of its own since it is an address, and the two MeshServices.
    wait_until(SECS, "a VIP for each", || vips(&mut plane) == 4);
    assert_eq!(names(&plane.item("/meshes/other/vips")), ["MeshService:redis"]);
    let (all, pages) = follow(&mut plane, "/vips?size=1");
    assert_eq!((all.len(), pages), (4, 4), "{all:?}");
    assert!(refused(&plane.delete("/meshes/other"), 400).1.contains("still some meshservices"));
}

#[test]
fn kumactl_finds_what_it_asks_for_first() {
    let mut plane = Plane::start();
    let index = plane.item("/");
    assert!(
        index["version"].is_string() && index["tagline"].is_string() && index["hostname"].is_string(),
        "{index}"
    );
    assert_eq!(plane.item("/config")["store"]["type"], "embedded");
    assert_eq!(plane.item("/config")["dnsServer"]["domain"], "mesh");
    assert_eq!(plane.item("/who-am-i")["name"], "mesh-system:admin");
    let kinds = plane.item("/_resources");
    let kind = |name: &str| {
        let found = kinds["resources"].as_array().unwrap().iter().find(|kind| kind["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {kinds}")).clone()
    };
    assert_eq!(
        (&kind("VirtualOutbound")["path"], &kind("VirtualOutbound")["scope"]),
        (&json!("virtual-outbounds"), &json!("Mesh"))
    );
    assert_eq!((&kind("Mesh")["path"], &kind("Mesh")["scope"]), (&json!("meshes"), &json!("Global")));
    assert_eq!(plane.item("/policies")["policies"][0]["name"], "VirtualOutbound");
    let status = plane.item("/status");
    assert!(
        status["controlPlane"]["pools"][0]["range"].is_string() && status["xds"]["views"].is_array(),
        "{status}"
    );
    let head = hyper::Request::head("/meshes/default").body(Default::default()).unwrap();
    assert_eq!(plane.http.send(head).unwrap().status, 200);
}
