//! Routes: how many fit, what a full map says, what a removed one means for open connections. Called by lifecycle/main.rs.

use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

use harness::datapath::{World, route};
use harness::wait::wait_until;
use kuma_dns::kernel::Kernel;
use kuma_dns::model::datapath::{Datapath, DatapathError};
use kuma_dns::model::view::{Port, Route, ViewId};

use crate::{V4, V6, assert_routed};

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
        let v4 = Ipv4Addr::from(0xf000_0000 + n).into();
        let v6 = Ipv6Addr::from((0xfd00_fd00_u128 << 96) + u128::from(n)).into();
        [v4, v6].map(|vip| Route { vip, port: Port::new(80) })
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
