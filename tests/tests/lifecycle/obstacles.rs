//! What may stand in the way of a start: each is named in words, and nothing is left half-attached. Called by
//! lifecycle/main.rs.

use harness::datapath::World;
use harness::foreign::{CONNECT4, Foreign, Sharing, attached};
use kuma_dns::kernel::Kernel;

use crate::{V4, V6, assert_routed, in_words};

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
