//! What an agent needs to know, as plain data. Made by cli, read by agent/mod.rs.

use std::path::{Path, PathBuf};

use crate::agent::BpfLog;
use crate::agent::feed::FeedConfig;
use crate::agent::memory::Memory;
use crate::agent::proxy::{Lifetime, ProxyConfig, ProxyMode};
use crate::agent::status::Beside;
use crate::model::instance::Instance;
use crate::model::view::Port;
use crate::wire::access::Access;
use crate::wire::address::ServerAddress;
use crate::wire::node::{Introduction, Role};

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub instance: Instance,
    /// The agent's socket lies below (`/run`).
    pub run_dir: PathBuf,
    /// The last view lies below (`/var/lib/kuma-dns`).
    pub data_dir: PathBuf,
    /// The pins lie below (`/sys/fs/bpf`).
    pub bpffs: PathBuf,
    /// Where the cgroup v2 hierarchy is mounted.
    pub cgroup2: PathBuf,
    /// The network namespace of the workloads; `None`: the agent's own.
    pub netns: Option<PathBuf>,
    pub ports: Ports,
    /// The view to serve, which is the mesh's name.
    pub view: String,
    /// The Dataplane that this machine is to the control plane; `None`: named after the instance and the process.
    pub name: Option<String>,
    pub control_plane: ServerAddress,
    /// What the control plane wants to see.
    pub access: Access,
    pub proxy: ProxySetup,
    /// Whose nameservers are asked for names outside the mesh.
    pub resolv_conf: PathBuf,
    pub vips_capacity: u32,
    pub bpf_log: Option<BpfLog>,
    /// Leave the datapath in the kernel at the end: names and VIPs fail closed until the next start.
    pub keep_datapath: bool,
    /// The control plane may be away at the next start: what is served goes on for as long as that lasts. The view is kept
    /// for the next start, which serves it and is ready with it, and Envoy outlives a crash, and an end that leaves the datapath.
    /// Without, an orderly end forgets the view, after a crash it is served until the control plane has spoken, and Envoy ends
    /// with us.
    pub lasting: bool,
    /// A control plane in the same process, for the status.
    pub beside: Option<Beside>,
}

impl Config {
    /// Whom the feed asks, and as whom.
    pub(super) fn feed(&self) -> FeedConfig {
        FeedConfig {
            control_plane: self.control_plane.clone(),
            access: self.access.clone(),
            node: Introduction {
                id: format!(
                    "agent-{}-{}",
                    self.name.as_deref().unwrap_or(self.instance.name()),
                    std::process::id()
                ),
                role: Role::Agent,
                view: self.view.clone(),
                outbound_port: self.ports.outbound,
            },
        }
    }

    /// How the Envoy that we start is set up.
    pub(super) fn proxy(&self, cgroup: PathBuf) -> ProxyConfig {
        let socket = self.instance.socket(&self.run_dir);
        let lifetime = match (self.lasting, self.keep_datapath) {
            (false, _) => Lifetime::WithUs,
            (true, false) => Lifetime::OutlivesCrash,
            (true, true) => Lifetime::OutlivesUs,
        };
        let node_id = match &self.name {
            // As in Kuma, and the same at every start, so that an Envoy that was left can be recognised.
            Some(name) => format!("{}.{name}", self.view),
            None => format!("proxy-{}-{}", self.instance, std::process::id()),
        };
        ProxyConfig {
            node_id,
            cgroup,
            lifetime,
            view: self.view.clone(),
            xds: self.control_plane.clone(),
            access: self.access.clone(),
            outbound_port: self.ports.outbound,
            admin_port: self.proxy.admin_port,
            concurrency: self.proxy.concurrency,
            owner: socket.parent().map(Path::to_owned).unwrap_or_default(),
        }
    }

    /// Where the last view is.
    pub(super) fn memory(&self) -> Memory {
        Memory::new(self.instance.view(&self.data_dir))
    }
}

/// Loopback ports in the workloads' network namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// The proxy's listener for connections to VIPs.
    pub outbound: Port,
    /// The first of the resolver's consecutive ports.
    pub dns: Port,
}

/// Whose proxy it is, and how the kernel recognises it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxySetup {
    /// The Envoy that we start, or none: then somebody starts one in the proxy cgroup (`kuma-dns exec --proxy`).
    pub envoy: ProxyMode,
    pub admin_port: Port,
    /// Worker threads of the Envoy that we start.
    pub concurrency: u32,
    /// Every process of this user within the workloads' cgroup is the proxy; `None`: every process in the proxy cgroup.
    pub uid: Option<u32>,
}
