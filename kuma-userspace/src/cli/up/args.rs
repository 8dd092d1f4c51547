//! The flags of `kuma-dns up` and the plain `Config` they become. Called by cli.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::agent::proxy::{self, ProxyMode};
use crate::agent::{self, Ports, ProxySetup};
use crate::cli::logs::Format;
use crate::cli::paths::Paths;
use crate::cli::port;
use crate::cp::{self, Serving, store::StoreConfig};
use crate::kernel::BpfLog;
use crate::model::datapath::{INDEXES, VIPS_CAPACITY};
use crate::model::outbounds::Outbounds;
use crate::model::view::Port;
use crate::wire::access::Access;

/// Printed below `kuma-dns up --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns up -f deploy/examples/mesh.yaml
  kuma-dns up -f settings.yaml -f services/ --instance blue \\
      --outbound-port 16001 --dns-port 16053 --xds-port 6678 --admin-port 10901
  kuma-dns up -f mesh.yaml --envoy none
      and your own: kuma-dns exec --proxy -- envoy -c bootstrap.yaml

The files are watched: a saved change is live within a second; a mistake is
refused in words and changes nothing.

SIGINT or SIGTERM ends it in order: workloads are left alone, then the
resolver and Envoy end, then the datapath goes. A second signal ends it at
once. After a crash the datapath stays and fails closed; the next `up` takes
it over, and every name keeps its VIP.

Exit codes: 0 ended by a signal, 1 failed or ended by a second signal, 2 bad
input, 4 a privilege or a kernel feature is missing";

/// Runs a control plane, an agent and Envoy in one process, on services from YAML files.
#[derive(ClapArgs, Debug)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// A YAML file with settings and services, or a folder of them; may be given several times.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The mesh that workloads of this machine belong to.
    #[arg(long, value_name = "NAME", default_value = "default")]
    mesh: String,
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
    /// How Envoy is told of VIPs: `listeners` (one for each VIP and port), `compact` (one for all), or `auto`, which changes
    /// from the first to the second above 1,000. Wins over `dnsServer.outbounds` of the files.
    #[arg(long, value_name = "auto|listeners|compact")]
    outbounds: Option<Outbounds>,
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
    /// The control plane's xDS server.
    #[arg(long, value_name = "PORT", default_value = "5678", value_parser = port)]
    xds_port: Port,
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
    /// VIP addresses that the kernel maps can hold, both families counted; memory grows with use, not with this.
    #[arg(long, value_name = "COUNT", default_value_t = VIPS_CAPACITY,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(INDEXES)))]
    vip_capacity: u32,
    /// Log decisions of the BPF programs: error, warn, info, debug or trace. Costs time on each of them.
    #[arg(long, value_name = "LEVEL")]
    bpf_log: Option<BpfLog>,
    /// Leave the datapath attached when `up` ends: names and VIPs fail closed until the next start.
    #[arg(long)]
    keep_datapath: bool,
}

/// What `up` needs to know.
#[derive(Debug)]
pub(in crate::cli) struct Config {
    pub paths: Paths,
    pub format: Format,
    pub control_plane: cp::Config,
    pub agent: agent::Config,
}

impl Args {
    /// The files with settings and services.
    pub(in crate::cli) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The flags as plain data, for a machine whose cgroup v2 hierarchy is mounted at `cgroup2`.
    pub(in crate::cli) fn config(self, paths: Paths, format: Format, cgroup2: PathBuf) -> Config {
        let Self { files, mesh, proxy, ports, datapath } = self;
        let xds = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.xds_port.get()));
        let data = paths.instance.data(&paths.data_dir);
        let agent = agent::Config {
            instance: paths.instance.clone(),
            run_dir: paths.run_dir.clone(),
            data_dir: paths.data_dir.clone(),
            bpffs: paths.bpffs.clone(),
            cgroup2,
            netns: None,
            ports: Ports { outbound: ports.outbound_port, dns: ports.dns_port },
            view: mesh,
            control_plane: xds,
            access: Access::default(),
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
            keep_view: false,
            beside: None,
        };
        let store = StoreConfig::Embedded(data);
        let outbounds = proxy.outbounds;
        let control_plane =
            cp::Config { files, settings: None, store, xds, serving: Serving::default(), outbounds };
        Config { paths, format, control_plane, agent }
    }
}
