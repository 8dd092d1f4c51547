//! The flags of `kuma-dns up` and the plain `Config` they become. Called by cli.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::agent;
use crate::cli::logs::Format;
use crate::cli::machine::{MachineArgs, Surroundings};
use crate::cli::paths::Paths;
use crate::cli::port;
use crate::cp::configuration::Configuration;
use crate::cp::settings::Settings;
use crate::cp::store::StoreConfig;
use crate::cp::{self, Serving, rest};
use crate::model::outbounds::Outbounds;
use crate::model::view::Port;
use crate::wire::access::Access;

/// Printed below `kuma-dns up --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns up -f deploy/examples/mesh.yaml
  kuma-dns up -f settings.yaml -f services/ --instance blue \\
      --outbound-port 16001 --dns-port 16053 --xds-port 6678 --admin-port 10901 --api-port 6681
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

/// Runs a control plane, an agent and Envoy in one process, on services from YAML files and over its API.
#[derive(ClapArgs, Debug)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// A YAML file with settings and services, or a folder of them; may be given several times. They are watched. What they
    /// do not give is given over the API, and kept.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    own: OwnArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Control plane")]
struct OwnArgs {
    /// How Envoy is told of VIPs: `listeners` (one for each VIP and port), `compact` (one for all), or `auto`, which changes
    /// from the first to the second above 1,000. Wins over `dnsServer.outbounds` of the files.
    #[arg(long, value_name = "auto|listeners|compact")]
    outbounds: Option<Outbounds>,
    /// Its xDS server, on loopback.
    #[arg(long, value_name = "PORT", default_value = "5678", value_parser = port)]
    xds_port: Port,
    /// Its API, on loopback, where resources are read and written; 0: none.
    #[arg(long, value_name = "PORT", default_value_t = rest::DEFAULT_PORT)]
    api_port: u16,
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
    /// `settings` are those of the files.
    pub(in crate::cli) fn config(
        self,
        paths: Paths,
        format: Format,
        cgroup2: PathBuf,
        settings: Settings,
    ) -> Config {
        let Self { files, own, machine } = self;
        let xds = SocketAddr::from((Ipv4Addr::LOCALHOST, own.xds_port.get()));
        let data = paths.instance.data(&paths.data_dir);
        let (control_plane, access) = (xds.into(), Access::default());
        let surroundings =
            Surroundings { paths: &paths, cgroup2, name: None, control_plane, access, lasting: false };
        let agent = machine.config(surroundings);
        let store = StoreConfig::Embedded(data);
        let http = (own.api_port > 0).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, own.api_port)));
        let shown = Configuration::beside_agent(settings, store.clone(), xds, http).to_json();
        let access = rest::Access { localhost_is_admin: true, identify: None };
        let control_plane = cp::Config {
            files,
            settings: None,
            store,
            xds,
            serving: Serving::default(),
            api: rest::Config { http, https: None, access, shown },
            outbounds: own.outbounds,
        };
        Config { paths, format, control_plane, agent }
    }
}
