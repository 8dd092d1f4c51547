//! 40,000 connections from 16 threads over 100 VIPs in every address shape, through a real Envoy: none goes astray.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use harness::backend::Speaks;
use harness::wait::wait_until;
use harness::world::World;
use serde_json::Value;

const SERVICES: usize = 50;
const THREADS: &str = "16";
const CONNECTIONS: u64 = 40_000;

fn tuples(world: &World) -> u64 {
    let status = world.status().unwrap();
    let maps = status["datapath"]["maps"].as_array().unwrap().clone();
    let tuples = maps.iter().find(|map| map["name"] == "TUPLES").expect("the status shows the map TUPLES");
    tuples["entries"].as_u64().unwrap()
}

#[test]
fn no_connection_goes_astray_and_no_entry_is_left_over() {
    let names: Vec<String> = (0..SERVICES).map(|number| format!("load-{number:02}")).collect();
    let builder = names.iter().fold(World::builder(), |world, name| world.service(name, Speaks::Http, 1));
    let world = builder.up().unwrap();
    let mut targets = Vec::new();
    for vip in vips(&world) {
        let service = vip["name"].as_str().unwrap().trim_end_matches(".mesh").to_owned();
        for family in ["v4", "v6"] {
            targets.push(format!("{service},{}", vip[family].as_str().expect("both families")));
        }
    }
    assert_eq!(targets.len(), 2 * SERVICES, "100 VIPs");
    let client = harness::binaries::client().unwrap();
    let mut load =
        world.inside([&*client.to_string_lossy(), "load", THREADS, &CONNECTIONS.to_string()]).unwrap();
    let output = load.args(&targets).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let counts: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {complaints}"));
    assert_eq!(counts["connections"], CONNECTIONS, "{counts} {complaints}");
    for failure in ["failed", "misrouted", "wrong_peer"] {
        assert_eq!(counts[failure], 0, "{failure}: {counts} {complaints}");
    }
    for shape in ["v4", "v4_mapped", "v6"] {
        assert!(counts[shape].as_u64() > Some(CONNECTIONS / 8), "all shapes are mixed: {counts}");
    }
    wait_until(5, "no tuple is left over", || tuples(&world) == 0);
}

fn vips(world: &World) -> Vec<Value> {
    let output = world.kuma_dns().unwrap().args(["vips", "-o", "json"]).output().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    all.into_iter().filter(|vip| vip["name"].as_str().is_some_and(|name| name.starts_with("load-"))).collect()
}
