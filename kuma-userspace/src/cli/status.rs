//! `kuma-dns status`: what is attached where, what is served, what is awaited. Keeps: it says what is, also when no agent
//! runs: then the pins in the kernel are read, and the exit code is 3. The table is made in `report`; that of a
//! control plane elsewhere in `remote`.

mod remote;
mod report;

use std::process::ExitCode;

use anyhow::Context;

use crate::agent::datapath_status;
use crate::kernel::Kernel;
use crate::wire::local::Status;

use super::client::{Address, Rights};
use super::outcome::{Code, Outcome};
use super::paths::Paths;
use super::socket::{self, SocketError};
use super::table::{self, OutputFormat};

/// Printed below `kuma-dns status --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns status
  kuma-dns status -o json | jq '.datapath.counters[] | select(.count > 0)'
  kuma-dns status --instance blue
  kuma-dns status --address http://cp.example:5681

Counters are the kernel's decisions since the datapath was loaded, over all
CPUs. In JSON, times have their unit in their name (`uptime_ms`).

Exit codes: 0 ready; 3 not ready, or no agent is running: what the kernel
still holds is shown; 1 failed; 4 no right to ask";

/// Shows what is attached where, what is served, and what is awaited.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// `table` for people, `json` for programs: its fields stay.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: OutputFormat,
    /// Of the control plane whose REST server is there, instead of this machine's agent.
    #[arg(long, value_name = "URL", help_heading = "Which control plane")]
    address: Option<Address>,
    #[command(flatten)]
    rights: Rights,
}

/// What `status` needs to know.
pub(super) struct Config {
    paths: Paths,
    output: OutputFormat,
    remote: Option<(Address, Rights)>,
}

impl Args {
    pub(super) fn config(self, paths: Paths) -> Config {
        let Self { output, address, rights } = self;
        Config { paths, output, remote: address.map(|address| (address, rights)) }
    }
}

pub(super) fn run(config: &Config) -> Outcome {
    if let Some((address, rights)) = &config.remote {
        return remote::run(&rights.client(address)?, config.output);
    }
    match socket::status(&config.paths) {
        Ok(status) => {
            match config.output {
                OutputFormat::Json => table::print_json(&status)?,
                OutputFormat::Table => table::print(&report::running(&status)),
            }
            Ok(if status.ready { ExitCode::SUCCESS } else { Code::NotReady.into() })
        }
        Err(absent @ SocketError::NotRunning { .. }) => without_agent(config, absent),
        Err(error) => Err(error.into()),
    }
}

/// What the kernel still holds, if anything; then that no agent runs.
fn without_agent(config: &Config, absent: SocketError) -> Outcome {
    let Paths { instance, bpffs, .. } = &config.paths;
    let found = Kernel::inspect(instance, bpffs).context("cannot read the pins").map(datapath_status);
    match config.output {
        OutputFormat::Json => {
            let datapath = found.as_ref().ok().cloned().unwrap_or_default();
            let awaited = vec!["an agent".to_owned()];
            let instance = instance.name().to_owned();
            table::print_json(&Status { instance, awaited, datapath, ..Status::default() })?;
        }
        OutputFormat::Table => {
            if let Some(datapath) = found.as_ref().ok().filter(|datapath| !datapath.programs.is_empty()) {
                table::print(&report::leftover(instance, datapath));
            }
        }
    }
    found?;
    Err(absent.into())
}
