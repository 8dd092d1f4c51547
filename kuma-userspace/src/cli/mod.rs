//! The command line: the only place that knows clap. One file per subcommand: arguments -> a plain `Config` -> run.
//! Keeps: exit codes are those of [`outcome::Code`]; what a program reads goes to stdout, what a human reads to stderr.
//! Called by main.

mod agent;
mod apply;
mod cleanup;
mod client;
mod completions;
mod control_plane;
mod delete;
mod duration;
mod exec;
mod generate;
mod get;
mod install;
mod logs;
mod machine;
mod outcome;
mod paths;
mod place;
mod service;
mod signals;
mod socket;
mod status;
mod story;
mod table;
mod up;
mod vips;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::model::view::Port;
use outcome::Outcome;
use paths::Paths;

/// Printed below `kuma-dns --help`.
const TOUR: &str = "\
A first tour, as root:
  kuma-dns up -f deploy/examples/mesh.yaml
      control plane, agent and Envoy on this machine
  kuma-dns exec -- curl -s http://echo-server_echo-example_svc_1010.mesh/
      a command inside the mesh, in another terminal
  kuma-dns status
      what is attached where, and why things went as they did
  kuma-dns get vips
      every virtual IP, with its names and ports
  kuma-dns cleanup
      removes every trace of it

Exit codes:
  0  done
  1  failed; the reason is on stderr
  2  bad usage or bad input: a flag, a file, a field
  3  not ready, or no agent or control plane is running
  4  a privilege or a kernel feature is missing
`exec` ends with its command's own code; 127: no such command, 126: it
cannot be run, 128+N (in a shell): ended by signal N";

/// Mesh DNS and virtual IPs for the Kuma service mesh, in eBPF: no iptables, no init container.
#[derive(Parser, Debug)]
#[command(name = "kuma-dns", version, after_help = TOUR, max_term_width = 120, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    logs: logs::Logs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Up(up::Args),
    ControlPlane(control_plane::Args),
    Agent(agent::Args),
    Exec(exec::Args),
    Status(status::Args),
    Vips(vips::Args),
    Get(get::Args),
    Apply(apply::Args),
    Delete(delete::Args),
    Cleanup(cleanup::Args),
    Install(install::Args),
    Generate(generate::Args),
    Completions(completions::Args),
}

/// Parses the command line, runs the subcommand, prints its error if it has one.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return outcome::usage(&error),
    };
    cli.logs.choose_color();
    let format = cli.logs.format();
    cli.run().unwrap_or_else(|failure| failure.report(format))
}

impl Cli {
    fn run(self) -> Outcome {
        self.logs.start(self.command.level())?;
        match self.command {
            Command::Up(args) => up::run(args, self.paths, self.logs.format()),
            Command::ControlPlane(args) => control_plane::run(args, &self.paths),
            Command::Agent(args) => agent::run(args, &self.paths, self.logs.format()),
            Command::Exec(args) => exec::run(args.config(self.paths)),
            Command::Status(args) => status::run(&args.config(self.paths)),
            Command::Vips(args) => vips::run(&args.config(self.paths)),
            Command::Get(args) => get::run(args),
            Command::Apply(args) => apply::run(&args),
            Command::Delete(args) => delete::run(&args),
            Command::Cleanup(args) => cleanup::run(&args.config(self.paths)),
            Command::Install(args) => install::run(args),
            Command::Generate(args) => generate::run(args),
            Command::Completions(args) => completions::run(&args),
        }
    }
}

impl Command {
    /// What runs for long tells what it does; what answers and ends says only what is odd.
    fn level(&self) -> LevelFilter {
        match self {
            Self::Up(_) | Self::ControlPlane(_) | Self::Agent(_) => LevelFilter::INFO,
            _ => LevelFilter::WARN,
        }
    }
}

/// A port that something can listen on.
fn port(text: &str) -> Result<Port, String> {
    match text.parse::<u16>() {
        Ok(number @ 1..) => Ok(Port::new(number)),
        _ => Err("a port is a number from 1 to 65535".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_teaches_with_examples() {
        let cli = Cli::command();
        for sub in cli.get_subcommands().flat_map(|sub| std::iter::once(sub).chain(sub.get_subcommands())) {
            assert!(sub.get_about().is_some(), "{} says nothing about itself", sub.get_name());
            let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("kuma-dns"), "{} shows no example", sub.get_name());
        }
    }
}
