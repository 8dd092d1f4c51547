//! The life of the datapath: load, adopt, upgrade, heal, unload; and what happens when something stands in the way.
//! Called by `cargo xtask test lifecycle`.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use harness::datapath::{World, ask_original, route};
use harness::foreign::{CONNECT4, Foreign, Sharing, attached};
use harness::fork::{Job, Place};
use harness::wait::wait_until;
use kuma_dns::kernel::{Kernel, cgroup};
use kuma_dns::model::datapath::{Datapath, DatapathError};
use kuma_dns::model::view::ViewId;

const V4: &str = "240.0.0.1:80";
const V6: &str = "[fd00:fd00::1]:80";

/// Upgrades under load; each takes seconds in an emulated guest.
const UPGRADES: u32 = 8;

/// Every cause of an error in one line, as the command line prints it.
fn in_words(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn ask(world: &World, vip: &'static str) -> Result<String, String> {
    world.app(0, || ask_original(vip).map_err(|error| error.to_string()))
}

fn assert_routed(world: &World) {
    assert_eq!(ask(world, V4).as_deref(), Ok("240.0.0.1:80 [::ffff:240.0.0.1]:80"));
    assert_eq!(ask(world, V6).as_deref(), Ok("[fd00:fd00::1]:80 [fd00:fd00::1]:80"));
}

/// Connects from several threads to VIPs of both families until the file `stop` exists; returns how many connections there
/// were and what went wrong.
fn traffic(world: &World, stop: &Path) -> Job<(u32, Vec<String>)> {
    let stop: PathBuf = stop.into();
    world.start_app(0, move || {
        let client = |number: usize| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (vip, want) = [(V4, "240.0.0.1:80 "), (V6, "[fd00:fd00::1]:80 ")][number % 2];
                let (mut count, mut wrong) = (0, Vec::new());
                while !stop.exists() && wrong.len() < 10 {
                    count += 1;
                    match ask_original(vip) {
                        Ok(line) if line.starts_with(want) => {}
                        other => wrong.push(format!("{vip}: {other:?}")),
                    }
                }
                (count, wrong)
            })
        };
        let clients: Vec<_> = (0..2).map(client).collect();
        let results = clients.into_iter().map(|client| client.join().expect("a client ends"));
        results.fold((0, Vec::new()), |(count, wrong), (more, worse)| (count + more, [wrong, worse].concat()))
    })
}

#[test]
fn a_vip_reaches_the_proxy_with_its_original_destination() {
    let world = World::builder().vips(&[V4, V6]).build().unwrap();
    assert_routed(&world);
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

#[test]
fn the_datapath_outlives_its_killed_opener_and_is_adopted_without_a_lost_connection() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (stop, opened) = (dir.path().join("stop"), dir.path().join("opened"));
    let traffic = traffic(&world, &stop);
    world.lose_kernel();
    let config = world.config().clone();
    let place = Place { cgroup: world.cgroup(), netns: std::os::fd::AsFd::as_fd(&world.pod(0).netns) };
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
    let links = |status: &kuma_dns::kernel::KernelStatus| {
        status.programs.iter().map(|p| p.link_id).collect::<Vec<_>>()
    };
    let programs = |status: &kuma_dns::kernel::KernelStatus| {
        status.programs.iter().map(|p| p.program_id).collect::<BTreeSet<_>>()
    };
    assert_eq!(links(&before), links(&after), "links stay");
    assert!(programs(&before).is_disjoint(&programs(&after)), "programs are new");
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

#[test]
fn an_exclusive_program_in_the_way_is_named_and_nothing_is_left_half_attached() {
    for (sharing, above) in
        [(Sharing::Exclusive, false), (Sharing::Override, false), (Sharing::Exclusive, true)]
    {
        let mut world = World::builder().pods(0).build().unwrap();
        world.take_kernel().unload().unwrap();
        let (config, workloads) = (world.config().clone(), world.config().workloads_cgroup.clone());
        let owner = if above { world.cgroup().to_owned() } else { workloads.clone() };
        let foreign = Foreign::attach(&owner, "their_prog", sharing).unwrap();
        let refused = Kernel::open(config.clone()).err().expect("the hook is taken");
        let words = in_words(&refused);
        assert!(words.contains("connect4") && words.contains("\"their_prog\""), "{words}");
        assert!(words.contains(&format!("on {} does not share", owner.display())), "{words}");
        assert_eq!(attached(&workloads, 19).unwrap(), 0, "recvmsg4 was attached before, and taken off again");
        assert!(!config.instance.pins(&config.bpffs).exists());
        drop(foreign);
        assert!(world.reopen_kernel().is_ok());
    }
}

#[test]
fn a_program_that_shares_its_hook_is_no_obstacle() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let workloads = world.config().workloads_cgroup.clone();
    let _foreign = Foreign::attach(&workloads, "their_prog", Sharing::Multi).unwrap();
    world.reopen_kernel().unwrap();
    assert_eq!(attached(&workloads, CONNECT4).unwrap(), 2);
    assert_routed(&world);
}

#[test]
fn pins_of_another_abi_version_are_refused_in_words_and_cleanup_removes_them() {
    let mut world = World::builder().pods(0).build().unwrap();
    world.take_kernel().unload().unwrap();
    let config = world.config().clone();
    let other = config.instance.pins(&config.bpffs).join("v99");
    std::fs::create_dir_all(&other).unwrap();
    let refused = in_words(&Kernel::open(config.clone()).err().expect("another ABI is not adopted"));
    let want = format!("pins in {} have ABI 99, this agent needs", other.display());
    assert!(refused.starts_with(&want) && refused.contains("kuma-dns cleanup"), "{refused}");
    assert_eq!(attached(&config.workloads_cgroup, CONNECT4).unwrap(), 0);
    Kernel::remove(&config.instance, &config.bpffs).unwrap();
    assert!(world.reopen_kernel().is_ok());
}

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
fn a_full_map_is_an_error_that_names_the_map_and_the_setting() {
    let mut world = World::builder().vips_capacity(8).build().unwrap();
    let view = world.pod(0).view;
    let vip = |n: u32| route(&format!("240.0.0.{n}:80"));
    for n in 1..=8 {
        world.kernel().add_route(view, vip(n)).unwrap();
    }
    let full = world.kernel().add_route(view, vip(9)).unwrap_err();
    assert!(matches!(full, DatapathError::Full { capacity: 8, setting: "vips_capacity", .. }), "{full}");
    world.kernel().remove_route(view, vip(1)).unwrap();
    world.kernel().add_route(view, vip(9)).unwrap();
    assert_eq!(world.kernel().routes(view).unwrap().len(), 8);
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
fn a_removed_route_refuses_at_once_while_open_connections_keep_their_name() {
    let mut world = World::builder().vips(&[V4, V6]).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (connected, removed) = (dir.path().join("connected"), dir.path().join("removed"));
    let client = world.start_app(0, || {
        let stream = TcpStream::connect(V4).unwrap();
        std::fs::write(&connected, "").unwrap();
        wait_until(60, "the route is removed", || removed.exists());
        (
            stream.peer_addr().unwrap().to_string(),
            TcpStream::connect(V4).err().map(|error| error.kind().to_string()),
        )
    });
    wait_until(60, "the client is connected", || connected.exists());
    let view = world.pod(0).view;
    world.kernel().remove_route(view, route(V4)).unwrap();
    std::fs::write(&removed, "").unwrap();
    assert_eq!(client.join(), (V4.to_owned(), Some("connection refused".to_owned())));
    world.kernel().add_route(view, route(V4)).unwrap();
    assert_routed(&world);
}

#[test]
fn a_hundred_thousand_vips_of_two_families_fit_and_memory_grows_with_use() {
    const VIPS: u32 = 100_000;
    let mut world = World::builder().vips_capacity(kuma_ebpf_common::abi::VIPS_CAPACITY).build().unwrap();
    let memory = |kernel: &Kernel| {
        let maps = kernel.status().unwrap().maps;
        let of = |name: &str| maps.iter().find(|map| map.name == name).and_then(|map| map.memory_bytes);
        of("VIPS").zip(of("REV")).expect("fdinfo tells")
    };
    let empty = memory(world.kernel());
    let view = ViewId::of("a large mesh");
    let vips = (1..=VIPS).flat_map(|n| {
        let v4 = std::net::Ipv4Addr::from(0xf000_0000 + n).into();
        let v6 = std::net::Ipv6Addr::from((0xfd00_fd00_u128 << 96) + u128::from(n)).into();
        [v4, v6].map(|vip| kuma_dns::model::view::Route { vip, port: kuma_dns::model::view::Port::new(80) })
    });
    for vip in vips {
        world.kernel().add_route(view, vip).unwrap();
    }
    assert_eq!(world.kernel().routes(view).unwrap().len(), 2 * VIPS as usize);
    let filled = memory(world.kernel());
    // Kernels before 6.4 tell an upper bound, which never changes.
    let grows = filled != empty;
    assert!(!grows || (filled.0 > 2 * empty.0 && filled.1 > 2 * empty.1), "{empty:?} -> {filled:?}");
    assert!(filled.0 < 64 << 20 && filled.1 < 64 << 20, "{filled:?} bytes");
}
