//! `kuma-dns exec`: runs a command inside the mesh. Keeps: the process *becomes* the command (execve), so terminal, signals,
//! standard streams and exit code are the command's own; every socket it opens is opened inside.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::outcome::{Code, Failure, Outcome};
use super::paths::Paths;
use super::place::{self, Role};
use super::{duration, socket};

/// Printed below `kuma-dns exec --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns exec -- curl -s http://redis.mesh/
  kuma-dns exec getent hosts redis.mesh
  kuma-dns exec -- bash               all that is started from there is inside
  kuma-dns exec --wait 60s -- ./serve     for an agent that is still starting
  kuma-dns exec --proxy -- envoy -c bootstrap.yaml
      your own Envoy, for `up --envoy none`

The command runs in the network namespace of the agent and in the cgroup of
its workloads, as the user who calls this. Its terminal, signals and exit
code are its own.

Exit codes: the command's own; 127: no such command, 126: it cannot be run;
before it runs: 2 bad usage, 3 no agent or not ready in time, 4 no right to
enter. A shell shows 128+N for a command that signal N ended";

/// Runs a command inside the mesh: its DNS questions and VIP connections take our path.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Run the command as the proxy: its own traffic is never redirected, and it may ask for original destinations.
    #[arg(long)]
    proxy: bool,
    /// How long to wait until the agent is ready: a number and ms, s or m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    wait: Duration,
    /// The command and its arguments.
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What `exec` needs to know.
pub(super) struct Config {
    paths: Paths,
    role: Role,
    wait: Duration,
    command: Vec<OsString>,
}

impl Args {
    pub(super) fn config(self, paths: Paths) -> Config {
        let role = if self.proxy { Role::Proxy } else { Role::Workload };
        Config { paths, role, wait: self.wait, command: self.command }
    }
}

pub(super) fn run(config: Config) -> Outcome {
    let await_ready = config.role == Role::Workload;
    let inside = socket::enrolment(&config.paths, await_ready, config.wait)?;
    place::enter(&inside, config.role)?;
    let (program, args) = config.command.split_first().expect("clap requires the command");
    // Nothing of ours is left open: the standard library opens every file and socket with CLOEXEC.
    let error = Command::new(program).args(args).exec();
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => Code::NoSuchCommand,
        _ => Code::CannotRun,
    };
    let error = anyhow::Error::new(error).context(format!("cannot run `{}`", program.display()));
    Err(Failure::new(code, error))
}
