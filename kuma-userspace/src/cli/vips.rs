//! `kuma-dns vips`: every name of the mesh and its virtual IPs, as the agent serves them now.

use std::process::ExitCode;

use super::outcome::Outcome;
use super::paths::Paths;
use super::socket;
use super::table::{self, OutputFormat};

/// Lists every name of the mesh with its virtual IPs.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kuma-dns vips
  kuma-dns vips -o json | jq -r '.[] | [.name, .v4] | @tsv'

Exit codes: 0 listed, 3 no agent is running")]
pub(super) struct Args {
    /// `table` for people, `json` for programs.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: OutputFormat,
}

/// What `vips` needs to know.
pub(super) struct Config {
    paths: Paths,
    output: OutputFormat,
}

impl Args {
    pub(super) fn config(self, paths: Paths) -> Config {
        Config { paths, output: self.output }
    }
}

pub(super) fn run(config: &Config) -> Outcome {
    let vips = socket::vips(&config.paths)?;
    match config.output {
        OutputFormat::Json => table::print_json(&vips)?,
        OutputFormat::Table => {
            let mut rows = table::plain(&["NAME", "IPV4", "IPV6", "PORTS", "VIEW"]);
            for vip in &vips {
                let address = |address: Option<std::net::IpAddr>| {
                    address.map_or("-".into(), |address| address.to_string())
                };
                let ports: Vec<String> = vip.ports.iter().map(ToString::to_string).collect();
                rows.add_row([
                    vip.name.clone(),
                    address(vip.v4.map(Into::into)),
                    address(vip.v6.map(Into::into)),
                    ports.join(","),
                    vip.view.clone(),
                ]);
            }
            table::print(&rows.to_string());
        }
    }
    Ok(ExitCode::SUCCESS)
}
