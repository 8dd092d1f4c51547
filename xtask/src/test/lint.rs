//! The checks that need no test binary, each counted as one test: tidy, rustfmt, clippy. Called by test.

use std::process::Command;

use xtask::{cargo, exec};

use super::Totals;
use crate::tidy;

pub(super) fn run() -> Totals {
    let mut totals = Totals::default();
    let mut check = |name: &str, result: anyhow::Result<()>| match result {
        Ok(()) => {
            println!("lint {name} ... ok");
            totals.passed += 1;
        }
        Err(error) => {
            println!("lint {name} ... FAILED: {error:#}");
            totals.failed += 1;
        }
    };
    check("tidy", tidy::run(&tidy::Args {}));
    check("rustfmt", exec(cargo().args(["fmt", "--all", "--check"])));
    check("clippy", exec(&mut clippy(&[])));
    // In the profile of xtask, so that its features never rebuild the product's dependencies.
    let rest = ["--package=xtask", "--package=kuma-ebpf", "--package=vip-load", "--profile=xtask"];
    check("clippy of the rest", exec(&mut clippy(&rest)));
    totals
}

fn clippy(options: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["clippy", "--quiet", "--locked", "--all-targets"]).args(options);
    command.args(["--", "-D", "warnings"]);
    command
}
