//! What planning, allocating, storing and publishing cost with many services. Run by hand, with a release build:
//! `cargo test --release --lib cost -- --ignored --nocapture --test-threads 1`.

use std::time::Instant;

use super::*;
use crate::cp::store::Embedded;
use crate::model::kind::{Dataplane, Inbound, Tags};

const CHANGES: usize = 200;

/// Dataplane number `n`, the only instance of its service.
fn dataplane(n: usize, last: u8) -> Resource {
    let service: Arc<str> = format!("service-{n}_ns_svc_80").into();
    let meta = Meta { mesh: "default".into(), name: format!("dp-{n}").into(), ..Meta::default() };
    let inbound = Inbound {
        service: service.clone(),
        tags: Tags::from([("kuma.io/service", service)]),
        name: "".into(),
        port: Port::new(8080),
        protocol: crate::model::resource::Protocol::Tcp,
        endpoint: Some(([10, 0, 0, last], 8080).into()),
    };
    Resource::Dataplane(Dataplane { meta, inbounds: [inbound].into() })
}

fn put(resources: &mut Resources, resource: Resource) {
    resources.all.insert(resource.key(), Arc::new(resource));
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

fn measure(store: Box<dyn Store>, kind: &str, services: usize) {
    let mut resources = Resources::default();
    (0..services).for_each(|n| put(&mut resources, dataplane(n, 1)));
    let before = resident_bytes();
    let mut publisher = Publisher::open(store, &Settings::default()).unwrap();
    let started = Instant::now();
    publisher.planner.follow(&resources);
    publisher.due = Due::Everybody;
    let planned = started.elapsed();
    let first = publisher.publish(&resources).unwrap();
    let cold = started.elapsed();
    assert_eq!(first.snapshot.meshes["default"].vips.len(), services);
    let grown = (resident_bytes() - before) / 1024 / 1024;
    let status = StatusCell::default();
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let n = change * 7 % services;
        match change % 3 {
            0 => put(&mut resources, dataplane(n, 2)),
            1 => put(&mut resources, dataplane(services + change, 1)),
            _ => _ = resources.all.remove(&dataplane(n, 1).key()),
        }
        let started = Instant::now();
        let published = publisher.publish(&resources).unwrap();
        publisher.report(&status);
        took.push(started.elapsed());
        assert!(published.changed);
    }
    took.sort();
    println!(
        "{kind} {services}: planned {planned:?}, all {cold:?}, {grown} MiB; one change: median {:?}, p99 {:?}",
        took[CHANGES / 2],
        took[CHANGES * 99 / 100]
    );
}

#[test]
#[ignore = "a measurement, for a release build"]
fn cost_of_a_start_and_of_one_change() {
    for services in [1_000, 10_000, 100_000] {
        measure(Box::new(Memory::default()), "memory", services);
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        measure(Box::new(Embedded::open(directory.path()).unwrap()), "redb", services);
    }
}
