//! The commands against a real control plane, each in a network namespace of its own: what is applied is there, in the tables
//! and in DNS; what is deleted is gone; what a file gives stays the file's.

use std::process::{Command, Output, Stdio};

use harness::plane::Place;
use harness::process::Process;
use harness::wait::wait_until;
use serde_json::Value;

use super::{Said, command};

/// How long a change may take to be published on a busy machine.
const SECS: u64 = 20;

const MESH: &str = "services:\n- {service: web, endpoints: [\"127.0.0.1:1\"]}\n";

const RESOURCES: &str = "\
type: Mesh
name: shop
---
type: Dataplane
mesh: default
name: redis-01
networking:
  address: 127.0.0.1
  inbound:
    - {port: 6379, tags: {kuma.io/service: redis}}
---
type: MeshService
mesh: shop
name: cart
labels: {team: shop}
spec:
  ports: [{port: 8080, appProtocol: http}]
---
type: ExternalService
mesh: default
name: httpbin
networking: {address: 'httpbin.org:443'}
tags: {kuma.io/service: httpbin, kuma.io/protocol: tcp}
";

struct Running {
    place: Place,
    plane: Process,
}

impl Running {
    fn start() -> Self {
        let place = Place::new(MESH).unwrap();
        let plane = place.start(&[], &[]).unwrap();
        Self { place, plane }
    }

    fn run(&self, args: &[&str]) -> Said {
        self.run_with(args, "")
    }

    /// With a text on stdin, in the control plane's namespace.
    fn run_with(&self, args: &[&str], stdin: &str) -> Said {
        let file = self.place.write("stdin", stdin).unwrap();
        let mut command = command(args);
        command.stdin(Stdio::from(std::fs::File::open(file).unwrap()));
        Said::of(&self.inside(command))
    }

    fn inside(&self, mut command: Command) -> Output {
        self.place.netns().run(move || command.output()).unwrap()
    }

    fn rows(&self, args: &[&str]) -> Vec<Vec<String>> {
        let said = self.run(args);
        said.rows().iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }
}

#[test]
fn what_is_applied_is_there_and_what_is_deleted_is_gone() {
    let running = Running::start();
    let said = running.run_with(&["apply", "-f", "-"], RESOURCES);
    let want = "mesh/shop created\ndataplane/redis-01 created\nmeshservice/cart created\nexternalservice/httpbin created\n";
    assert_eq!((said.code, said.out.as_str()), (Some(0), want), "{}", said.err);
    let again = running.run_with(&["apply", "-f", "-"], RESOURCES);
    assert_eq!(again.out, want.replace("created", "unchanged"), "{}", again.err);
    let changed = running.run_with(&["apply", "-f", "-"], &RESOURCES.replace("8080", "8081"));
    assert!(changed.out.contains("meshservice/cart configured\n"), "{}", changed.out);

    wait_until(SECS, "a VIP for each", || running.run(&["get", "vips", "-A"]).out.contains("httpbin.org"));
    let vips = running.rows(&["get", "vips"]);
    assert_eq!(vips[0], ["MESH", "NAME", "VIP4", "VIP6", "HOSTNAME", "PORTS"]);
    let redis = vips.iter().find(|row| row[1] == "redis").unwrap();
    assert!(
        redis[2].starts_with("240.") && redis[3].starts_with("fd00:fd00::") && redis[4] == "redis.mesh",
        "{redis:?}"
    );
    wait_until(SECS, "the VIP of a MeshService in its status", || {
        running.rows(&["get", "meshservices", "-m", "shop"])[1][2].starts_with("241.")
    });
    let services = running.rows(&["get", "services"]);
    assert!(services.iter().any(|row| row[1] == "web"), "a service of the file: {services:?}");

    for args in [&["delete", "meshservice", "cart", "-m", "shop"][..], &["delete", "dataplane", "redis-01"]] {
        assert_eq!(running.run(args).code, Some(0), "{args:?}");
    }
    wait_until(SECS, "the VIP gone", || !running.run(&["get", "vips"]).out.contains("redis"));
    running.run(&["get", "dataplane", "redis-01"]).failed(1, &["no Dataplane \"redis-01\""]);
    running.run(&["delete", "dataplane", "redis-01"]).failed(1, &["dataplane/redis-01"]);
    assert!(running.plane.said().contains("ready"));
}

#[test]
fn what_get_prints_as_yaml_can_be_applied_again() {
    let running = Running::start();
    assert_eq!(running.run_with(&["apply", "-f", "-"], RESOURCES).code, Some(0));
    wait_until(SECS, "a status to print", || {
        running.run(&["get", "meshservice", "cart", "-m", "shop"]).out.contains("241.")
    });
    for kind in ["meshes", "dataplanes", "externalservices", "meshservices"] {
        let yaml = running.run(&["get", kind, "-A", "-o", "yaml"]);
        assert_eq!(yaml.code, Some(0), "{}", yaml.err);
        let again = running.run_with(&["apply", "-f", "-"], &yaml.out);
        assert_eq!(again.code, Some(0), "{kind}: {}\n{}", again.err, yaml.out);
        assert!(
            !again.out.is_empty() && !again.out.contains("configured"),
            "{kind}: {}\n{}",
            again.out,
            yaml.out
        );
    }
}

#[test]
fn a_server_refuses_what_only_it_can_know_and_says_which_field() {
    let running = Running::start();
    let lost = "type: MeshService\nmesh: nowhere\nname: a\nspec: {ports: [{port: 1}]}\n---\n";
    let text = format!("{lost}{RESOURCES}");
    let said = running.run_with(&["apply", "-f", "-"], &text);
    said.failed(1, &["1 of 5 not applied", "meshservice/a", "nowhere"]);
    assert_eq!(said.out.lines().count(), 4, "{}", said.out);
}

#[test]
fn a_watch_sees_what_is_applied_and_outlives_a_restart_of_the_control_plane() {
    let mut running = Running::start();
    let log = running.place.path("watch");
    let watch = command(&["get", "vips", "-w", "-o", "json"]);
    let watch = running.place.netns().run(|| Process::start(watch, std::path::Path::new(&log))).unwrap();
    wait_until(SECS, "the first list", || watch.said().contains("\"web\""));
    assert_eq!(running.run_with(&["apply", "-f", "-"], RESOURCES).code, Some(0));
    wait_until(SECS, "the new VIP", || watch.said().contains("\"redis\""));
    assert!(running.plane.terminate().unwrap().success());
    running.plane = running.place.start(&[], &[]).unwrap();
    wait_until(SECS, "the watch again", || watch.said().contains("is there again"));
    assert_eq!(running.run(&["delete", "dataplane", "redis-01"]).code, Some(0));
    wait_until(SECS, "the end of the VIP", || watch.said().contains("DELETED"));
    let events: Vec<(String, String)> = watch
        .said()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|event| {
            (event["event"].as_str().unwrap().to_owned(), event["item"]["name"].as_str().unwrap().to_owned())
        })
        .filter(|(_, name)| name == "redis")
        .collect();
    let added: Vec<_> = events.iter().filter(|(event, _)| event == "ADDED").collect();
    assert_eq!(added.len(), 1, "a VIP that was there before and after a restart is no news: {events:?}");
    assert_eq!(events.last().map(|(event, _)| event.as_str()), Some("DELETED"));
}

#[test]
fn the_status_of_a_control_plane_can_be_asked_from_elsewhere() {
    let running = Running::start();
    let said = running.run(&["status", "--address", "http://localhost:5681"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("1 of 1 services have VIPs"), "{}", said.out);
    let said = running.run(&["status", "--address", "http://localhost:5681", "-o", "json"]);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["controlPlane"]["published"], 1, "{json}");
}
