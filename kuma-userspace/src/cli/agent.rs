//! `kuma-dns agent`: serves the workloads of this machine with what a control plane on another one says: mesh names, VIPs,
//! an Envoy. Keeps: addresses, files and machine are checked before anything is started; a token does not travel in plain.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow};

use super::logs::Format;
use super::machine::{MachineArgs, Surroundings};
use super::outcome::{Code, Failure, OrExit, Outcome};
use super::paths::Paths;
use super::service::{self, End, LastWords, Service};
use super::story::Story;
use crate::agent;
use crate::kernel::{cgroup, preflight};
use crate::model::instance::Instance;
use crate::rt::Ready;
use crate::wire::access::{Access, Token, Trust};
use crate::wire::address::{Scheme, ServerUrl};

/// Printed below `kuma-dns agent --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns agent --control-plane https://cp.example:5678 --ca-cert-file ca.pem \\
      --token-file token
  kuma-dns agent --control-plane http://127.0.0.1:5678 --mesh blue
  kuma-dns exec -- curl -s http://redis.mesh
  kuma-dns status

While the control plane is away, names go on to resolve and VIPs to work, also
after a crash of the agent: its last view is kept in --data, Envoy goes on and
is taken over, and `status` says how old the view is.

SIGINT or SIGTERM ends it in order: workloads are left alone, then the
resolver and Envoy end, then the datapath goes. With --keep-datapath, for a
restart by a service manager, datapath and Envoy stay for the next start. A
second signal ends it at once.

Exit codes: 0 ended by a signal, 1 failed or ended by a second signal, 2 bad
input, 4 a privilege or a kernel feature is missing";

const LAST_WORDS: LastWords = LastWords {
    first: "ending: names stop first, then connections; a second signal ends it at once",
    second: "ended at once: what is attached stays until the next start or `kuma-dns cleanup`",
};

/// Serves the workloads of this machine: names, VIPs and an Envoy, as a control plane elsewhere says.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Control plane")]
struct ControlPlaneArgs {
    /// Where its xDS server is; https with --ca-cert-file.
    #[arg(long, alias = "cp-address", value_name = "URL", env = "KUMA_CONTROL_PLANE_URL")]
    control_plane: ServerUrl,
    /// The certificate of the authority that vouches for it, as PEM.
    #[arg(long, value_name = "FILE", env = "KUMA_CONTROL_PLANE_CA_CERT_FILE")]
    ca_cert_file: Option<PathBuf>,
    /// The Dataplane that this machine is to the control plane, and that a token may be limited to. [default: the machine's name]
    #[arg(long, value_name = "NAME", env = "KUMA_DATAPLANE_NAME")]
    name: Option<String>,
    /// A dataplane token for the mesh.
    #[arg(
        long,
        alias = "dataplane-token-file",
        value_name = "FILE",
        env = "KUMA_DATAPLANE_RUNTIME_TOKEN_PATH"
    )]
    token_file: Option<PathBuf>,
}

impl ControlPlaneArgs {
    /// What is shown to the control plane, and what is trusted.
    fn access(&self) -> Result<Access, Failure> {
        let bad = |text: String| Failure::new(Code::BadInput, anyhow!(text));
        let ServerUrl { scheme, address } = &self.control_plane;
        let trust = match (scheme, &self.ca_cert_file) {
            (Scheme::Tls, Some(file)) => Some(read(file, Trust::parse)?),
            (Scheme::Plain, None) => None,
            (Scheme::Tls, None) => {
                return Err(bad(format!(
                    "https://{address} needs --ca-cert-file: the certificate of the authority that vouches for it"
                )));
            }
            (Scheme::Plain, Some(_)) => {
                return Err(bad(format!(
                    "http://{address} has no certificate: write https://, or no --ca-cert-file"
                )));
            }
        };
        let token = self.token_file.as_deref().map(|file| read(file, Token::parse)).transpose()?;
        if token.is_some() && trust.is_none() && !address.is_loopback() {
            return Err(bad(format!(
                "the token would travel in plain to {address}: write https:// and give --ca-cert-file"
            )));
        }
        Ok(Access { trust, token })
    }
}

/// What a file holds.
fn read<T, E: std::error::Error + Send + Sync + 'static>(
    file: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Failure> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display())).or_exit(Code::BadInput)?;
    parse(&text).with_context(|| format!("{} cannot be used", file.display())).or_exit(Code::BadInput)
}

pub(super) fn run(args: Args, paths: &Paths, format: Format) -> Outcome {
    let began = Instant::now();
    let Args { control_plane, machine } = args;
    let access = control_plane.access()?;
    preflight::check(&paths.bpffs).or_exit(Code::NotSupported)?;
    let cgroup2 = cgroup::find_cgroup2().or_exit(Code::NotSupported)?;
    let name = Some(control_plane.name.unwrap_or_else(|| machine_name(&paths.instance)));
    let server = control_plane.control_plane.address;
    let input = format!("mesh {} of the control plane {server}", machine.mesh);
    let story = Story::new(paths, format, began, input);
    let surroundings = Surroundings { paths, cgroup2, name, control_plane: server, access, lasting: true };
    service::block_on(serve(machine.config(surroundings), story))
}

/// The same at every start, and another one for each instance.
fn machine_name(instance: &Instance) -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if *instance == Instance::default() { name } else { format!("{name}-{instance}") }
}

async fn serve(config: agent::Config, story: Story) -> Result<End, Failure> {
    let mut service = Service::new()?;
    let drain = service.tasks.drain();
    service.tasks.spawn("agent", agent::run(config, drain.clone(), Ready::default()));
    service.tasks.spawn("start-up story", story.tell(drain));
    service.run(LAST_WORDS).await
}
