//! The wall between the agent and the kernel: what a datapath can do, in the words of the domain.
//! It stands below its user (agent) and its implementers (kernel, and SimKernel in the tests).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;
pub use kuma_ebpf_common::abi::{DNS_SLOTS, INDEXES, VIPS_CAPACITY};

use crate::model::view::{Port, Route, ViewId};

/// A network namespace as the kernel names it (SO_NETNS_COOKIE).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetnsCookie(pub u64);

/// How the hooks recognise the proxy, whose own traffic is never redirected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProxyIdentity {
    /// Every process in this cgroup (an absolute path in the cgroup v2 hierarchy).
    Cgroup(PathBuf),
    /// Every process with this uid of the initial user namespace, within the workloads' own cgroup.
    Uid(u32),
}

/// A workload to enrol: one network namespace, its view, and the proxy and resolver that serve it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    pub netns: NetnsCookie,
    pub view: ViewId,
    pub proxy: ProxyIdentity,
    pub outbound_port: Port,
    /// The first of five consecutive ports of the resolver.
    pub dns_port: Port,
    /// What getsockname shows in place of a loopback source.
    pub addr4: Option<Ipv4Addr>,
    pub addr6: Option<Ipv6Addr>,
}

/// A numbered reason of the datapath and how often it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counter {
    pub number: u32,
    pub name: &'static str,
    pub count: u64,
}

/// Why the datapath could not do it.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("map {map} is full: {capacity} entries; raise {setting}")]
    Full { map: &'static str, capacity: u32, setting: &'static str },
    #[error("{0} VIP ranges of one family, the datapath serves at most {max}", max = kuma_ebpf_common::abi::RANGES_PER_FAMILY)]
    TooManyRanges(usize),
    #[error("cannot {verb} in map {map}")]
    Map {
        verb: &'static str,
        map: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot serve the proxy in cgroup {}", cgroup.display())]
    Proxy {
        cgroup: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What the agent asks of the kernel. Every verb is idempotent; an error leaves what was there before.
pub trait Datapath: Send {
    /// The VIP ranges of the node: inside them only known routes connect, all else is refused at once.
    ///
    /// # Errors
    /// More ranges than the datapath serves.
    fn set_ranges(&mut self, ranges: &[IpNetwork]) -> Result<(), DatapathError>;

    /// Adds or replaces a workload; its proxy is served before the first socket can be sent there.
    ///
    /// # Errors
    /// A full map, a proxy cgroup that cannot be attached to.
    fn enrol(&mut self, pod: &Pod) -> Result<(), DatapathError>;

    /// Forgets a workload: its sockets are left alone from now on.
    ///
    /// # Errors
    /// Only what the kernel refuses.
    fn withdraw(&mut self, netns: NetnsCookie) -> Result<(), DatapathError>;

    /// Every enrolled namespace and its view.
    ///
    /// # Errors
    /// Only what the kernel refuses.
    fn pods(&self) -> Result<Vec<(NetnsCookie, ViewId)>, DatapathError>;

    /// The routes of a view that the kernel has now.
    ///
    /// # Errors
    /// Only what the kernel refuses.
    fn routes(&self, view: ViewId) -> Result<BTreeSet<Route>, DatapathError>;

    /// Makes a VIP connect to the proxy.
    ///
    /// # Errors
    /// A full map.
    fn add_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError>;

    /// Makes a VIP refuse. The index behind it rests: it is reused last.
    ///
    /// # Errors
    /// Only what the kernel refuses.
    fn remove_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError>;

    /// Every numbered reason and its count over all CPUs.
    ///
    /// # Errors
    /// Only what the kernel refuses.
    fn counters(&self) -> Result<Vec<Counter>, DatapathError>;
}
