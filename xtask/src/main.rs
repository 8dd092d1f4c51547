//! `cargo xtask`: the project's own commands, one file each. Keeps: a failure is one sentence with its causes and an
//! exit code other than 0. Called by people and by `.ci/run`.

use std::process::ExitCode;

use clap::Parser;

mod ebpf;

/// The project's own commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Xtask {
    BuildEbpf(ebpf::Args),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::BuildEbpf(args) => ebpf::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
