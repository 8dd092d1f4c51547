//! `cargo xtask bench NAME`: runs a benchmark, shows a table, writes NAME.json and NAME.svg, and compares each figure with
//! its goal. Keeps: the last line is `N goals met, N missed`, and a missed goal is exit code 1. Called by people.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use xtask::{Reported, target};

use self::figures::Report;

mod cp;
mod figures;
mod picture;
mod process;
mod vip;

/// Run a benchmark and compare its figures with their goals.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is measured.
    name: Name,
    /// A third of the rounds: good for a look, too noisy for a verdict.
    #[arg(long)]
    quick: bool,
    /// Where NAME.json and NAME.svg go; without it, target/bench.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Numbers of services that `cp` is measured with.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    sizes: Vec<usize>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// What the way through a virtual IP costs, beside iptables and nft.
    Vip,
    /// What a control plane and an agent cost: to begin, for one change, in memory.
    Cp,
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effort {
    Full,
    Quick,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let out = args.out.clone().unwrap_or_else(|| target().join("bench"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    match args.name {
        Name::Vip => conclude(&vip::run(effort)?, &out),
        Name::Cp => {
            let report = cp::run(effort, &args.sizes)?;
            write(&report, &out.join("cp.json"))?;
            print!("{}", report.table());
            println!("{}", out.join("cp.json").display());
            verdict(report.goals_met, report.goals_missed)
        }
    }
}

fn conclude(report: &Report, out: &std::path::Path) -> Result<()> {
    let place = |extension: &str| out.join(format!("{}.{extension}", report.bench));
    write(report, &place("json"))?;
    picture::draw(report, &place("svg"))?;
    print!("{}", report.table());
    println!("{} and {}", place("json").display(), place("svg").display());
    verdict(report.goals_met, report.goals_missed)
}

fn write(report: &impl serde::Serialize, file: &std::path::Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("cannot write the figures as JSON")?;
    std::fs::write(file, json + "\n").context("cannot write the JSON file")
}

fn verdict(met: usize, missed: usize) -> Result<()> {
    println!("{met} goals met, {missed} missed");
    if missed > 0 {
        return Err(Reported.into());
    }
    Ok(())
}
