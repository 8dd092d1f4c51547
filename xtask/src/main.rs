//! `cargo xtask`: the project's own commands, one file each. Keeps: a failure is one sentence with its causes and an
//! exit code other than 0. Called by people and by `.ci/run`.

use std::process::ExitCode;

use clap::Parser;

mod artifacts;
mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod setup;
mod test;
mod tidy;
mod vm;
mod vmtest;

/// The project's own commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Xtask {
    Bench(bench::Args),
    BuildEbpf(ebpf::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Setup(setup::Args),
    Test(test::Args),
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Bench(args) => bench::run(&args),
        Xtask::BuildEbpf(args) => setup::ensure(&[setup::Part::Bpf]).and_then(|()| ebpf::run(args)),
        Xtask::Demo(args) => demo::run(&args),
        Xtask::Fuzz(args) => fuzz::run(&args),
        Xtask::Setup(args) => setup::run(&args),
        Xtask::Test(args) => test::run(&args),
        Xtask::Tidy(args) => tidy::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<xtask::Reported>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
