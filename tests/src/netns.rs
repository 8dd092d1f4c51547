//! Network namespaces that live exactly as long as their guard: made on a thread of their own, held by a descriptor, without
//! a name. Keeps: nothing is left when the guard and the sockets inside are gone. Called by datapath and by tests.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use kuma_dns::kernel::netns;
use kuma_dns::model::datapath::NetnsCookie;
use nix::sched::{CloneFlags, unshare};

use crate::netlink::{self, Via};

/// Where VIPs come from; without our programs a connect there must fail at once, and never leave the machine.
pub const VIP_RANGES: [(&str, u8); 2] = [("240.0.0.0", 4), ("fd00:fd00::", 64)];
/// The uplink of a namespace that has one.
pub const UPLINK: &str = "eth0";

/// The state of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    Up,
    Down,
}

/// A network namespace of our own.
pub struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// A new one with nothing but loopback, which is up.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> anyhow::Result<Self> {
        let make = || -> anyhow::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            netlink::link_up(1).context("cannot bring lo up")?;
            Ok(netns::own()?)
        };
        let made = std::thread::spawn(make).join();
        let fd = made.map_err(|_panic| anyhow::anyhow!("the thread that makes a namespace panicked"))??;
        Ok(Self { fd })
    }

    /// Makes the VIP ranges unreachable here, as they are in a pod.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn block_vips(&self) -> anyhow::Result<()> {
        self.run(|| {
            for (range, prefix) in VIP_RANGES {
                let range = range.parse().expect("a constant address");
                netlink::add_route(range, prefix, Via::Unreachable)
                    .with_context(|| format!("cannot block {range}"))?;
            }
            Ok(())
        })
    }

    /// Gives an interface more addresses.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn add_addresses(&self, interface: &str, addresses: &[(IpAddr, u8)]) -> anyhow::Result<()> {
        self.run(|| {
            let index = interface_index(interface)?;
            for (address, prefix) in addresses {
                netlink::add_address(index, *address, *prefix)
                    .with_context(|| format!("cannot add {address}"))?;
            }
            Ok(())
        })
    }

    /// Adds a route.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_route(&self, destination: IpAddr, prefix: u8, via: Via) -> anyhow::Result<()> {
        self.run(|| {
            netlink::add_route(destination, prefix, via)
                .with_context(|| format!("cannot route {destination}"))
        })
    }

    /// Joins two namespaces by a pair of interfaces: [`UPLINK`] here, `far` there, both up.
    ///
    /// # Errors
    /// The kernel has no veth.
    pub fn join(&self, other: &Self, far: &str) -> anyhow::Result<()> {
        self.run(|| netlink::add_veth(UPLINK, &other.fd, far))
            .context("cannot make a veth pair: load the module veth")?;
        for (side, name) in [(self, UPLINK), (other, far)] {
            side.run(|| netlink::link_up(interface_index(name)?).context("cannot bring an interface up"))?;
        }
        Ok(())
    }

    /// Brings an interface up or takes it down.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn set_link(&self, interface: &str, link: Link) -> anyhow::Result<()> {
        self.run(|| {
            let index = interface_index(interface)?;
            let set = match link {
                Link::Up => netlink::link_up(index),
                Link::Down => netlink::link_down(index),
            };
            set.with_context(|| format!("cannot set {interface} {link:?}"))
        })
    }

    /// Runs `job` inside, on a thread of its own. Its sockets belong to this process's cgroup.
    ///
    /// # Panics
    /// When `job` does, or the namespace cannot be entered.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.fd.as_fd(), job).expect("a namespace of our own can be entered")
    }

    /// How the hooks name it.
    ///
    /// # Panics
    /// On kernels that cannot tell, which we do not support.
    pub fn cookie(&self) -> NetnsCookie {
        netns::cookie_of(self.fd.as_fd()).expect("a namespace of our own has a cookie")
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn interface_index(name: &str) -> anyhow::Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("no interface {name}"))
}
