//! A datapath whose agent goes: it stays, is adopted, upgraded, resized, and removed whole. Keeps: no connection is lost on the
//! way. Called by lifecycle/main.rs.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use harness::datapath::World;
use harness::foreign::{CONNECT4, attached};
use harness::fork::{Job, Place};
use harness::wait::wait_until;
use kuma_dns::kernel::{Kernel, KernelStatus};
use kuma_dns::model::datapath::Datapath;

use crate::{UPGRADES, V4, V6, ask, assert_routed, in_words, traffic};

#[test]
fn the_datapath_outlives_its_killed_opener_and_is_adopted_without_a_lost_connection() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (stop, opened) = (dir.path().join("stop"), dir.path().join("opened"));
    let traffic = traffic(&world, &stop);
    world.lose_kernel();
    let config = world.config().clone();
    let place = Place { cgroup: world.cgroup(), netns: world.pod(0).netns.as_fd() };
    let mut opener = Job::<()>::start(&place, || {
        let _kernel = Kernel::open(config.clone()).expect("the datapath can be adopted");
        std::fs::write(&opened, "").expect("the test's directory can be written to");
        loop {
            std::thread::park();
        }
    })
    .unwrap();
    wait_until(60, "another process has the datapath", || opened.exists());
    let refused = Kernel::open(world.config().clone()).err().expect("two processes cannot have it");
    assert!(
        in_words(&refused).contains(&format!("in use by process {}", opener.pid())),
        "{}",
        in_words(&refused)
    );
    opener.kill();
    assert_routed(&world);
    let kernel = world.reopen_kernel().unwrap();
    assert_eq!(kernel.pods().unwrap().len(), 1);
    assert_routed(&world);
    std::fs::write(&stop, "").unwrap();
    let (count, wrong) = traffic.join();
    assert!(count > 20, "only {count} connections");
    assert_eq!(wrong, Vec::<String>::new(), "of {count}");
}

#[test]
fn an_upgrade_under_load_loses_no_connection() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let stop = dir.path().join("stop");
    let traffic = traffic(&world, &stop);
    let before = world.kernel().status().unwrap();
    for _ in 0..UPGRADES {
        world.reopen_kernel().unwrap();
    }
    let after = world.kernel().status().unwrap();
    std::fs::write(&stop, "").unwrap();
    let (count, wrong) = traffic.join();
    assert!(count > 20, "only {count} connections");
    assert_eq!(wrong, Vec::<String>::new(), "of {count}");
    let links = |status: &KernelStatus| status.programs.iter().map(|p| p.link_id).collect::<Vec<_>>();
    let programs =
        |status: &KernelStatus| status.programs.iter().map(|p| p.program_id).collect::<BTreeSet<_>>();
    assert_eq!(links(&before), links(&after), "links stay");
    assert!(programs(&before).is_disjoint(&programs(&after)), "programs are new");
}

#[test]
fn another_capacity_keeps_every_route_unless_they_do_not_fit() {
    let mut world = World::builder().vips(&[V4, V6, "240.0.0.2:80"]).build().unwrap();
    let view = world.pod(0).view;
    let routes = world.kernel().routes(view).unwrap();
    let kernel = world.reopen_kernel_with_capacity(4096).unwrap();
    assert_eq!(kernel.routes(view).unwrap(), routes);
    let capacity = |kernel: &Kernel| {
        kernel.status().unwrap().maps.iter().find(|map| map.name == "VIPS").map(|map| map.capacity)
    };
    assert_eq!(capacity(kernel), Some(4096));
    assert_routed(&world);
    let refused = in_words(world.reopen_kernel_with_capacity(1).err().unwrap().as_ref());
    assert!(refused.contains("do not fit into 1: raise vips_capacity"), "{refused}");
    assert_routed(&world);
    world.reopen_kernel().unwrap();
    assert_routed(&world);
}

#[test]
fn unloading_removes_every_link_pin_and_directory_and_is_idempotent() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let (config, workloads) = (world.config().clone(), world.config().workloads_cgroup.clone());
    assert_eq!(attached(&workloads, CONNECT4).unwrap(), 1);
    let removed = world.take_kernel().unload().unwrap();
    assert_eq!((removed.links, removed.maps), (13, 10));
    assert_eq!(attached(&workloads, CONNECT4).unwrap(), 0, "detached when the call returns");
    assert!(!config.instance.pins(&config.bpffs).exists());
    assert_eq!(Kernel::remove(&config.instance, &config.bpffs).unwrap().links, 0);
    let refused = ask(&world, V4).unwrap_err();
    assert!(refused.contains("unreachable") || refused.contains("No route to host"), "{refused}");
}

#[test]
fn cleanup_works_when_the_agent_is_dead() {
    let mut world = World::builder().vips(&[V4]).build().unwrap();
    world.lose_kernel();
    let config = world.config();
    let status = Kernel::inspect(&config.instance, &config.bpffs).unwrap();
    assert_eq!((status.programs.len(), status.pods.len()), (13, 1));
    let vips = status.maps.iter().find(|map| map.name == "VIPS").unwrap();
    assert_eq!((vips.entries, vips.capacity), (Some(1), 1024));
    assert_eq!(Kernel::remove(&config.instance, &config.bpffs).unwrap().links, 13);
    assert!(!config.instance.pins(&config.bpffs).exists());
}
