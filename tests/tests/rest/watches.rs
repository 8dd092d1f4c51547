//! Watches: everything first, then each change, for as long as somebody reads.

use harness::http::{Event, Events};
use harness::wait::wait_until;
use serde_json::json;

use super::{Plane, SECS, mesh_service, mesh_service_path};

/// Watches at once, as the API says.
const MAX_WATCHES: usize = 256;

fn name(event: &Event) -> &str {
    event.data["name"].as_str().unwrap()
}

/// The next event of this kind about this item; others of the item before it are passed over.
#[track_caller]
fn next(events: &mut Events, kind: &str, item: &str) -> Event {
    loop {
        let event = events.next_event().unwrap().expect("the watch goes on");
        assert_eq!(name(&event), item, "{event:?}");
        if event.name == kind {
            return event;
        }
        assert_eq!(event.name, "put");
    }
}

#[test]
fn a_watch_tells_everything_and_then_each_change_with_what_became_of_it() {
    let mut plane = Plane::start();
    plane.put(&mesh_service_path("a"), &mesh_service("a", 1));
    plane.put(&mesh_service_path("b"), &mesh_service("b", 1));
    let with_vip =
        |plane: &mut Plane, name| plane.item(&mesh_service_path(name))["status"]["vips"].is_array();
    wait_until(SECS, "VIPs", || with_vip(&mut plane, "a") && with_vip(&mut plane, "b"));
    let mut events = plane.http.watch("/meshes/default/meshservices?watch=true").unwrap();
    let first = events.first().unwrap();
    assert_eq!(first.iter().map(name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(first[0].data, plane.item(&mesh_service_path("a")));

    plane.put(&mesh_service_path("c"), &mesh_service("c", 1));
    let put = next(&mut events, "put", "c");
    let with_vip = if put.data["status"]["vips"].is_array() { put } else { next(&mut events, "put", "c") };
    assert_eq!(with_vip.data, plane.item(&mesh_service_path("c")));
    plane.delete(&mesh_service_path("a"));
    let gone = next(&mut events, "delete", "a");
    assert_eq!(gone.data, json!({"type": "MeshService", "mesh": "default", "name": "a"}));
}

#[test]
fn vips_are_watched_over_all_meshes_and_others_changes_are_not_told() {
    let mut plane = Plane::start();
    let mut vips = plane.http.watch("/vips?watch=true").unwrap();
    let first = vips.first().unwrap();
    assert!(first.iter().any(|event| name(event) == "web"), "{first:?}");
    let mut others = plane.http.watch("/meshexternalservices?watch=true").unwrap();
    assert_eq!(others.first().unwrap(), []);
    plane.put(&mesh_service_path("redis"), &mesh_service("redis", 6379));
    let vip = next(&mut vips, "put", "MeshService:redis");
    assert_eq!(vip.data, plane.item("/meshes/default/vips/MeshService:redis"));
    plane.delete(&mesh_service_path("redis"));
    next(&mut vips, "delete", "MeshService:redis");
    let body = json!({
        "type": "MeshExternalService", "mesh": "default", "name": "x",
        "spec": {"match": {"type": "HostnameGenerator", "port": 1}, "endpoints": [{"address": "192.0.2.1", "port": 1}]},
    });
    assert_eq!(plane.put("/meshes/default/meshexternalservices/x", &body).status, 201);
    next(&mut others, "put", "x");
}

#[test]
fn what_leaves_a_filter_is_deleted_for_its_reader() {
    let mut plane = Plane::start();
    plane.put(&mesh_service_path("a"), &mesh_service("a", 1));
    let mut events = plane.http.watch("/meshservices?watch=true&filter[labels.team]=shop").unwrap();
    assert!(events.first().unwrap().iter().all(|event| name(event) == "a"));
    let mut moved = mesh_service("a", 1);
    moved["labels"] = json!({"team": "other"});
    assert_eq!(plane.put(&mesh_service_path("a"), &moved).status, 200);
    next(&mut events, "delete", "a");
    assert_eq!(plane.put(&mesh_service_path("a"), &mesh_service("a", 1)).status, 200);
    next(&mut events, "put", "a");
}

#[test]
fn a_slow_reader_is_told_the_end_of_the_story_and_holds_nobody_up() {
    let mut plane = Plane::start();
    let mut slow = plane.http.watch("/meshservices?watch=true").unwrap();
    slow.first().unwrap();
    // Far more than its socket takes while it does not read.
    let text = "x".repeat(400 << 10);
    for round in 0..64 {
        let mut body = mesh_service("a", 1);
        body["labels"] = json!({"round": format!("{round}"), "text": text});
        assert!(plane.put(&mesh_service_path("a"), &body).status.is_success());
    }
    plane.put(&mesh_service_path("z"), &mesh_service("z", 1));
    let (mut told, mut last) = (0, json!(null));
    loop {
        let event = slow.next_event().unwrap().unwrap();
        if name(&event) == "z" {
            break;
        }
        told += 1;
        last = event.data["labels"]["round"].clone();
    }
    assert_eq!(last, "63");
    assert!(told < 64, "{told} of 64 changes were told: nothing was passed over");
}

#[test]
fn too_many_watches_are_refused_in_words_and_the_others_go_on() {
    let mut plane = Plane::start();
    let mut open: Vec<Events> =
        (0..MAX_WATCHES).map(|_| plane.http.watch("/meshservices?watch=true").unwrap()).collect();
    let full = plane.get("/meshservices?watch=true");
    assert!(super::refused(&full, 503).1.contains("256 watches"));
    assert_eq!(full.header("retry-after"), "1");
    open.pop();
    wait_until(SECS, "a place for one", || plane.http.watch("/meshservices?watch=true").is_ok());
    plane.put(&mesh_service_path("a"), &mesh_service("a", 1));
    for events in &mut open {
        assert_eq!(events.first().unwrap(), []);
        next(events, "put", "a");
    }
}

#[test]
fn an_end_in_order_ends_watches_and_finishes_what_was_begun() {
    let mut plane = Plane::start();
    let mut events = plane.http.watch("/meshservices?watch=true").unwrap();
    events.first().unwrap();
    assert_eq!(plane.process.terminate().unwrap().code(), Some(0), "{}", plane.process.said());
    assert_eq!(events.next_event().unwrap(), None, "the watch ends, it does not break off");
    assert!(!plane.process.said().contains("did not end in time"), "{}", plane.process.said());
}
