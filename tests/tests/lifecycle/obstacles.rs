//! What may stand in the way of a start: each is named in words, and nothing is left half-attached. Called by
//! lifecycle/main.rs.

use std::os::fd::AsFd;

use caps::{CapSet, Capability, CapsHashSet};
use harness::datapath::World;
use harness::foreign::{CONNECT4, Foreign, Sharing, attached};
use kuma_dns::kernel::{Kernel, KernelConfig, netns};

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

/// Keeps these capabilities only, for good, and opens the datapath.
fn open_with(kept: &[Capability], config: &KernelConfig) -> Result<usize, String> {
    let kept: CapsHashSet = kept.iter().copied().collect();
    caps::set(None, CapSet::Effective, &kept).expect("capabilities can be given up");
    caps::set(None, CapSet::Permitted, &kept).expect("capabilities can be given up");
    let kernel = Kernel::open(config.clone()).map_err(|error| in_words(&error))?;
    let own = netns::own().and_then(|own| netns::cookie_of(own.as_fd()));
    own.expect("one's own namespace tells its cookie without a right to enter others");
    Ok(kernel.status().map_err(|error| in_words(&error))?.programs.len())
}

#[test]
fn three_capabilities_are_enough_to_load_and_to_adopt() {
    let mut world = World::builder().pods(1).vips(&[V4, V6]).build().unwrap();
    let three = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];
    let two = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN];
    let config = world.config().clone();
    world.lose_kernel();
    assert_eq!(world.as_stranger(0, || open_with(&three, &config)), Ok(13), "adopted");
    assert_routed(&world);
    assert_eq!(world.as_stranger(0, || open_with(&two, &config)), Ok(13), "adopted");
    Kernel::remove(&config.instance, &config.bpffs).unwrap();
    assert_eq!(world.as_stranger(0, || open_with(&three, &config)), Ok(11), "loaded, with nobody enrolled");
}

#[test]
fn what_is_missing_is_named_and_capabilities_of_another_user_namespace_are_not_mistaken() {
    let mut world = World::builder().build().unwrap();
    world.lose_kernel();
    let config = world.config().clone();
    let refused = world.as_stranger(0, || open_with(&[Capability::CAP_BPF], &config)).unwrap_err();
    assert!(refused.starts_with("missing CAP_NET_ADMIN and CAP_PERFMON: "), "{refused}");
    let refused = world.as_stranger(0, || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).expect("root can make a user namespace");
        Kernel::open(config.clone()).map(|_kernel| ()).map_err(|error| in_words(&error))
    });
    assert!(refused.as_ref().is_err_and(|words| words.contains("the kernel refuses bpf(2)")), "{refused:?}");
}

#[test]
fn a_small_memlock_is_named_where_the_kernel_counts_maps_against_it() {
    let mut world = World::builder().build().unwrap();
    world.take_kernel().unload().unwrap();
    let config = world.config().clone();
    let opened = world.as_stranger(0, || {
        let small = rustix::process::Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
        rustix::process::setrlimit(rustix::process::Resource::Memlock, small)
            .expect("a limit can be lowered");
        let three = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];
        open_with(&three, &config)
    });
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if release.starts_with("5.10.") {
        let refused = opened.unwrap_err();
        assert!(refused.contains("RLIMIT_MEMLOCK, which is 65536 bytes: raise memlock"), "{refused}");
        assert!(!config.instance.pins(&config.bpffs).exists());
    } else {
        assert_eq!(opened, Ok(11), "newer kernels count maps against the memory cgroup");
    }
}
