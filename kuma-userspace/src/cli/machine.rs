//! The flags of whoever serves the workloads of this machine: mesh, Envoy, ports, datapath. Called by up and agent.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::paths::Paths;
use super::port;
use crate::agent::proxy::{self, ProxyMode};
use crate::agent::{self, Ports, ProxySetup};
use crate::kernel::BpfLog;
use crate::model::datapath::{INDEXES, VIPS_CAPACITY};
use crate::model::view::Port;
use crate::wire::access::Access;
use crate::wire::address::ServerAddress;

/// Everything but where the control plane is.
#[derive(ClapArgs, Debug)]
pub(super) struct MachineArgs {
    /// The mesh that workloads of this machine belong to.
    #[arg(long, value_name = "NAME", default_value = "default", env = "KUMA_DATAPLANE_MESH")]
    pub mesh: String,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    ports: PortArgs,
    #[command(flatten)]
    datapath: DatapathArgs,
}

#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Envoy")]
struct ProxyArgs {
    /// `auto`: $KUMA_DNS_ENVOY, an `envoy` on PATH, or what `cargo xtask setup` installed; `none` leaves the proxy to you.
    #[arg(long, value_name = "auto|PATH|none", default_value = "auto")]
    envoy: ProxyMode,
    /// Worker threads of the Envoy that we start.
    #[arg(long, value_name = "N", default_value_t = proxy::DEFAULT_CONCURRENCY, value_parser = clap::value_parser!(u32).range(1..=1024))]
    envoy_concurrency: u32,
    /// Recognise the proxy by this user instead of by its cgroup, as Kuma does on VMs (`--kuma-dp-user`).
    #[arg(long, value_name = "UID")]
    proxy_uid: Option<u32>,
}

#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Ports, all on loopback")]
struct PortArgs {
    /// Envoy's listener for connections to VIPs.
    #[arg(long, value_name = "PORT", default_value = "15001", value_parser = port)]
    outbound_port: Port,
    /// The first of five ports of the resolver.
    #[arg(long, value_name = "PORT", default_value = "15053", value_parser = port)]
    dns_port: Port,
    /// The admin interface of the Envoy that we start.
    #[arg(long, value_name = "PORT", default_value = "9901", value_parser = port)]
    admin_port: Port,
}

#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Datapath and resolver")]
struct DatapathArgs {
    /// Where the nameservers of other names are read from.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// VIPs and ports that the kernel maps can hold, both families counted; memory grows with use, not with this.
    #[arg(long, value_name = "COUNT", default_value_t = VIPS_CAPACITY,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(INDEXES)))]
    vip_capacity: u32,
    /// Log decisions of the BPF programs: error, warn, info, debug or trace. Costs time on each of them.
    #[arg(long, value_name = "LEVEL")]
    bpf_log: Option<BpfLog>,
    /// Leave the datapath attached at the end: names and VIPs fail closed until the next start.
    #[arg(long)]
    keep_datapath: bool,
}

/// What the flags do not say.
pub(super) struct Surroundings<'a> {
    pub paths: &'a Paths,
    /// Where the cgroup v2 hierarchy is mounted.
    pub cgroup2: PathBuf,
    pub name: Option<String>,
    pub control_plane: ServerAddress,
    pub access: Access,
    pub lasting: bool,
}

impl MachineArgs {
    /// The flags as plain data.
    pub(super) fn config(self, surroundings: Surroundings<'_>) -> agent::Config {
        let Self { mesh, proxy, ports, datapath } = self;
        let Surroundings { paths, cgroup2, name, control_plane, access, lasting } = surroundings;
        agent::Config {
            instance: paths.instance.clone(),
            run_dir: paths.run_dir.clone(),
            data_dir: paths.data_dir.clone(),
            bpffs: paths.bpffs.clone(),
            cgroup2,
            netns: None,
            ports: Ports { outbound: ports.outbound_port, dns: ports.dns_port },
            view: mesh,
            name,
            control_plane,
            access,
            proxy: ProxySetup {
                envoy: proxy.envoy,
                admin_port: ports.admin_port,
                concurrency: proxy.envoy_concurrency,
                uid: proxy.proxy_uid,
            },
            resolv_conf: datapath.resolv_conf,
            vips_capacity: datapath.vip_capacity,
            bpf_log: datapath.bpf_log,
            keep_datapath: datapath.keep_datapath,
            lasting,
            beside: None,
        }
    }
}
