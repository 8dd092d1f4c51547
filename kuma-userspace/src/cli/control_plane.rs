//! `kuma-dns control-plane`: the control plane alone: services from YAML files and over the API, VIPs, xDS and DNS; no agent and
//! no Envoy.
//! Keeps: configuration and files are checked before anything is started.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use tracing::{info, warn};

use super::outcome::{Code, Failure, OrExit, Outcome};
use super::paths::Paths;
use super::service::{self, End, LastWords, Service};
use super::table;
use crate::cp::configuration::{self, ApiServer, Configuration, Flag, Sources};
use crate::cp::diagnostics::{self, Server};
use crate::cp::store::StoreConfig;
use crate::cp::tls::Transport;
use crate::cp::{self, ControlPlane, Serving, rest};
use crate::rt::{Drain, DrainTrigger, Ready};

/// Where the certificate of our own authority lies, in the folder of the instance.
const CA_FILE: &str = "ca.pem";

/// Printed below `kuma-dns control-plane --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns control-plane -f deploy/examples/dataplanes.yaml
  kuma-dns control-plane -c deploy/control-plane.yaml -f services/
  KUMA_DNS_SERVER_DOMAIN=svc.mesh kuma-dns control-plane --print-config
  dig @127.0.0.1 -p 5653 redis.mesh
  curl http://127.0.0.1:5681/meshes/default/vips
  kuma-dns control-plane -c control-plane.yaml --print-ca > ca.pem

The configuration is one YAML file with Kuma's keys; `--print-config` shows all
of them. Each key has a name in the environment (KUMA_DNS_SERVER_CIDR6,
KUMA_STORE_PATH, KUMA_DP_SERVER_PORT), which wins over the file; flags win over
both. An unknown key or name is a mistake, never silence. Resources have no
`dnsServer` here: it belongs into the configuration.

SIGINT or SIGTERM ends it in order, a second signal at once. Every name keeps
its VIP over restarts.

Exit codes: 0 ended by a signal, or printed; 1 failed or ended by a second
signal; 2 bad input";

const LAST_WORDS: LastWords = LastWords {
    first: "ending: connections are closed in order; a second signal ends it at once",
    second: "ended at once: what is stored stays as it is",
};

/// Runs a control plane alone, on services from YAML files and over its API: VIPs, xDS for proxies and agents, DNS for other
/// resolvers.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The configuration, a YAML file with Kuma's keys.
    #[arg(short, long = "config-file", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A YAML file with services, or a folder of them; may be given several times. They are watched. What they do not give
    /// is given over the API.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the configuration in force and end.
    #[arg(long)]
    print_config: bool,
    /// Print the certificate that proxies and agents need to trust this control plane, and end.
    #[arg(long, conflicts_with = "print_config")]
    print_ca: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Configuration, over file and environment")]
struct Flags {
    /// dnsServer.domain: what mesh names end in.
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// dnsServer.port: UDP and TCP; 0 switches the DNS server off.
    #[arg(long, value_name = "PORT")]
    dns_server_port: Option<String>,
    /// dnsServer.address: where the DNS server listens instead of on loopback; 0.0.0.0 for every address.
    #[arg(long, value_name = "IP")]
    dns_server_address: Option<String>,
    /// dpServer.port: xDS.
    #[arg(long, value_name = "PORT")]
    dp_server_port: Option<String>,
    /// dpServer.address: where xDS listens instead of on loopback, with TLS; 0.0.0.0 for every address.
    #[arg(long, value_name = "IP")]
    dp_server_address: Option<String>,
    /// store.type: `embedded`, `postgres` for several control planes, or `memory`, which forgets.
    #[arg(long, value_name = "TYPE")]
    store_type: Option<String>,
    /// store.path: the folder of the embedded store.
    #[arg(long, value_name = "DIR")]
    store_path: Option<String>,
}

impl Flags {
    fn given(self) -> Vec<Flag> {
        let all = [
            ("dnsServer.domain", "--domain", self.domain),
            ("dnsServer.port", "--dns-server-port", self.dns_server_port),
            ("dnsServer.address", "--dns-server-address", self.dns_server_address),
            ("dpServer.port", "--dp-server-port", self.dp_server_port),
            ("dpServer.address", "--dp-server-address", self.dp_server_address),
            ("store.type", "--store-type", self.store_type),
            ("store.path", "--store-path", self.store_path),
        ];
        all.into_iter().filter_map(|(key, flag, value)| Some(Flag { key, flag, value: value? })).collect()
    }
}

pub(super) fn run(args: Args, paths: &Paths) -> Outcome {
    let Args { config: file, files, print_config, print_ca, flags } = args;
    let data = paths.instance.data(&paths.data_dir);
    let ca_file = data.join(CA_FILE);
    let sources = Sources { file, environment: environment()?, flags: flags.given(), data };
    let configuration = configuration::load(&sources).or_exit(Code::BadInput)?;
    if print_config {
        table::print(&configuration.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    if print_ca {
        return show_ca(configuration, &ca_file);
    }
    let summary = cp::check(&files, Some(&configuration.settings)).or_exit(Code::BadInput)?;
    info!(
        services = summary.services,
        endpoints = summary.endpoints,
        meshes = summary.meshes.len(),
        "files read"
    );
    service::block_on(serve(files, configuration, ca_file))
}

/// Prints the certificate of the authority that proxies and agents are to trust.
fn show_ca(configuration: Configuration, ca_file: &Path) -> Outcome {
    if let Transport::Tls(files) = &configuration.dp_server.transport {
        let said = format!(
            "the certificate is from {}, and not from an authority of ours: proxies and agents need the certificate of the \
             authority that signed it",
            files.certificate.display()
        );
        return Err(Failure::new(Code::BadInput, anyhow!(said)));
    }
    // A control plane that runs has its store for itself, and has written the certificate there.
    let of_running = std::fs::read_to_string(ca_file).ok();
    let pem = match of_running.filter(|_| matches!(configuration.store, StoreConfig::Embedded(_))) {
        Some(pem) => pem,
        None => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            let runtime = runtime.context("cannot start threads")?;
            let authority = runtime.block_on(cp::authority(configuration.store));
            authority.map_err(service::refused)?.pem().to_owned()
        }
    };
    table::print(&pem);
    Ok(ExitCode::SUCCESS)
}

/// Kuma's names in the environment.
fn environment() -> Result<Vec<(String, String)>, Failure> {
    let ours = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let ours = ours.filter(|(name, _)| name.starts_with("KUMA_"));
    let text = |(name, value): (String, std::ffi::OsString)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(Failure::new(Code::BadInput, anyhow!("{name}: the value is no UTF-8"))),
    };
    ours.map(text).collect()
}

/// Where the API is served, and to whom.
fn api(server: ApiServer, shown: serde_json::Value) -> rest::Config {
    let ApiServer { http, https, localhost_is_admin, tokens: _ } = server;
    rest::Config { http, https, access: rest::Access { localhost_is_admin, identify: None }, shown }
}

async fn serve(files: Vec<PathBuf>, configuration: Configuration, ca_file: PathBuf) -> Result<End, Failure> {
    for warning in configuration.warnings() {
        warn!("{warning}");
    }
    let shown = configuration.to_json();
    let Configuration { settings, store, dp_server, api_server, diagnostics, .. } = configuration;
    let stored = match &store {
        StoreConfig::Memory => "memory".to_owned(),
        StoreConfig::Embedded(path) => path.display().to_string(),
        StoreConfig::Postgres(settings) => settings.to_string(),
    };
    let (xds, serving) = (
        dp_server.addr,
        Serving {
            tokens: dp_server.tokens().cloned(),
            user_tokens: api_server.tokens.clone(),
            transport: dp_server.transport,
            ca_file: Some(ca_file),
        },
    );
    let api = api(api_server, shown);
    let config = cp::Config { files, settings: Some(settings), store, xds, serving, api, outbounds: None };
    let mut service = Service::new().context("cannot start")?;
    let ready = Ready::default();
    let opened = ready.wait_for("the control plane's start");
    let (last, ended) = Drain::pair();
    let drain = service.tasks.drain();
    let mut entry = None;
    if let Some(addr) = diagnostics {
        let server = Server::bind(addr, ready.clone()).await.context("cannot start")?;
        entry = Some(server.entry());
        service.tasks.spawn("diagnostics", diagnose_to_the_end(server, drain.clone(), ended));
    }
    // What is awaited of proxies keeps no other client waiting: it is in the status, and not here.
    let plane = ControlPlane::open(config, &Ready::default()).await.map_err(service::refused)?;
    if let Some(entry) = entry {
        entry.enter(plane.sources());
    }
    drop(opened);
    let published = plane.status().borrow().published;
    info!(services = published, xds = %plane.xds_addr(), store = stored, "ready");
    service.tasks.spawn("control plane", serve_to_the_end(plane, drain, ready, last));
    service.run(LAST_WORDS).await
}

/// Diagnostics are the last to end: whoever asks meanwhile is told that the rest is ending.
async fn diagnose_to_the_end(server: Server, drain: Drain, ended: Drain) -> Result<(), diagnostics::Error> {
    let (trigger, own) = Drain::pair();
    let both = async {
        drain.requested().await;
        ended.requested().await;
        trigger.request();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = server.run(own) => served,
        () = both => Ok(()),
    }
}

/// Not ready from the moment that the end was asked for; `last` once everything has ended.
async fn serve_to_the_end(
    plane: ControlPlane,
    drain: Drain,
    ready: Ready,
    last: DrainTrigger,
) -> Result<(), cp::Error> {
    let ending = async {
        drain.requested().await;
        let _ending = ready.wait_for("nothing: the control plane is ending");
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        biased;
        () = ending => Ok(()),
        ended = plane.run(drain.clone()) => ended,
    };
    last.request();
    ended
}
