//! The REST API: Kuma's paths, shapes and errors, read, written and watched over real connections to a real control plane, each
//! in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod access;
mod any;
mod described;
mod lists;
mod resources;
mod watches;

use harness::http::{Answer, Http};
use harness::plane::Place;
use harness::process::Process;
use serde_json::{Value, json};

/// What the resource file gives.
const FILE: &str = "services:\n- {service: web, endpoints: [\"127.0.0.1:1\"]}\n---\ntype: ExternalService\nmesh: default\nname: given\ntags: {kuma.io/service: given}\nnetworking: {address: \"192.0.2.9:80\"}\n";
/// How long a change may take on a busy machine.
const SECS: u64 = 20;

/// A control plane and a client of it.
struct Plane {
    place: Place,
    process: Process,
    http: Http,
}

impl Plane {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        let place = Place::new(FILE).unwrap();
        let process = place.start(args, &[]).unwrap();
        let http = place.http().unwrap();
        Self { place, process, http }
    }

    fn get(&mut self, path: &str) -> Answer {
        self.http.get(path).unwrap()
    }

    fn put(&mut self, path: &str, body: &Value) -> Answer {
        self.http.put(path, body).unwrap()
    }

    fn delete(&mut self, path: &str) -> Answer {
        self.http.delete(path).unwrap()
    }

    /// The item there, which must be there.
    fn item(&mut self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }
}

/// A MeshService of mesh `default` on this port.
fn mesh_service(name: &str, port: u16) -> Value {
    json!({
        "type": "MeshService",
        "mesh": "default",
        "name": name,
        "labels": {"team": "shop"},
        "spec": {
            "selector": {"dataplaneTags": {"kuma.io/service": name}},
            "ports": [{"port": port, "targetPort": port, "appProtocol": "tcp"}],
        },
    })
}

fn mesh_service_path(name: &str) -> String {
    format!("/meshes/default/meshservices/{name}")
}

/// The first wrong field of an error in Kuma's shape: its name and the reason.
#[track_caller]
fn refused(answer: &Answer, status: u16) -> (String, String) {
    let error = answer.json();
    assert_eq!(answer.status.as_u16(), status, "{error}");
    assert_eq!(error["status"], status, "{error}");
    assert_eq!(error["type"], "/std-errors", "{error}");
    assert!(error["title"].is_string() && error["detail"].is_string(), "{error}");
    let first = &error["invalid_parameters"][0];
    let text = |field: &str| first[field].as_str().unwrap_or_default().to_owned();
    (
        text("field"),
        if first.is_null() { error["detail"].as_str().unwrap().to_owned() } else { text("reason") },
    )
}
