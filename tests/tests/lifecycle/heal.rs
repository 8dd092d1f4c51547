//! Cgroups and links that come and go under a running datapath. Keeps: whoever is enrolled is served again. Called by
//! lifecycle/main.rs.

use std::net::TcpStream;
use std::path::PathBuf;

use harness::datapath::World;
use harness::foreign::{CONNECT4, attached};
use harness::wait::wait_until;
use kuma_dns::kernel::cgroup;
use kuma_dns::model::datapath::Datapath;

use crate::{V4, V6, assert_routed};

#[test]
fn a_removed_workloads_cgroup_is_healed_at_once_and_at_the_next_start() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let workloads = world.config().workloads_cgroup.clone();
    cgroup::remove(&workloads).unwrap();
    assert!(world.kernel().heal().unwrap());
    assert!(!world.kernel().heal().unwrap(), "there is nothing left to heal");
    assert_routed(&world);
    world.lose_kernel();
    cgroup::remove(&workloads).unwrap();
    world.reopen_kernel().unwrap();
    assert_routed(&world);
}

#[test]
fn a_link_that_somebody_took_away_is_put_back() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let config = world.config();
    let links = config.instance.pins(&config.bpffs).join(format!("v{}/links", kuma_ebpf_common::ABI_VERSION));
    let pins: Vec<PathBuf> = std::fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(pins.len(), 13);
    for pin in pins {
        std::fs::remove_file(pin).unwrap();
    }
    let workloads = config.workloads_cgroup.clone();
    wait_until(10, "the kernel lets go of them", || {
        attached(&workloads, CONNECT4).is_ok_and(|count| count == 0)
    });
    assert!(world.kernel().heal().unwrap());
    assert!(!world.kernel().heal().unwrap(), "there is nothing left to heal");
    assert_routed(&world);
}

#[test]
fn a_proxy_that_comes_back_in_a_new_cgroup_is_served_after_enrolment() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    world.restart_stand_ins(0).unwrap();
    world.enrol(0).unwrap();
    assert_routed(&world);
    let status = world.kernel().status().unwrap();
    assert!(status.programs.iter().all(|program| program.cgroup.is_some()), "{:#?}", status.programs);
}

#[test]
fn a_proxy_that_serves_nobody_is_left_alone() {
    let mut world = World::builder().pods(2).vips(&[V4]).build().unwrap();
    let proxy = world.pod(1).proxy_cgroup.clone();
    assert_eq!(attached(&proxy, 21).unwrap(), 1, "getsockopt");
    let netns = world.pod(1).netns.cookie();
    world.kernel().withdraw(netns).unwrap();
    assert_eq!(attached(&proxy, 21).unwrap(), 0);
    assert_eq!(world.kernel().pods().unwrap().len(), 1);
    let stranger = world.app(1, || TcpStream::connect(V4).map(|_| ()).map_err(|error| error.to_string()));
    assert!(stranger.is_err(), "a pod that is not enrolled is not redirected");
    world.kernel().withdraw(netns).unwrap();
}

#[test]
fn proxies_below_the_workloads_and_proxies_known_by_uid_are_served() {
    for builder in [World::builder().proxies_below_workloads(), World::builder().proxy_uid(5678)] {
        let mut world = builder.vips(&[V4, V6]).build().unwrap();
        assert_routed(&world);
        world.reopen_kernel().unwrap();
        assert_routed(&world);
    }
}
