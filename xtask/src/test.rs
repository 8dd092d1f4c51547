//! `cargo xtask test`: builds every test once, runs the suites that this machine can run, and adds up.
//! Keeps: nothing is skipped in silence: a suite that cannot run is named with its reason, and fails under CI; a suite
//! that ran no test fails; the last line is `N passed, N failed`. Called by people and by `.ci/run`.

use std::time::Instant;

use anyhow::{Result, bail};
use xtask::Reported;

use self::build::Built;
use self::suites::{Kind, Suite};
use crate::{ebpf, setup, vmtest};

mod build;
pub(crate) mod libtest;
mod lint;
mod suites;

/// Run tests: every suite that this machine can run, or the named ones.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The suites to run; see --list.
    suites: Vec<String>,
    /// Show the suites, whether they can run here, and stop.
    #[arg(long)]
    list: bool,
    /// Only tests whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Run the suite `replicas` over 50 lost leaders, and `many` with up to 100,000 services.
    #[arg(long)]
    long: bool,
}

/// What a suite, or all of them, came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// A suite that this machine cannot run.
struct Skipped {
    suite: &'static str,
    reason: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = suites::all()?;
    if args.list {
        return list(&all);
    }
    let chosen = choose(&all, &args.suites)?;
    let needs: Vec<_> = chosen.iter().flat_map(|suite| suite.parts.iter().copied()).collect();
    // A machine that cannot be set up still runs the suites that it can: each says what it misses.
    if let Err(error) = setup::ensure(&needs) {
        eprintln!("set-up: {error:#}");
    }
    let mut totals = Totals::default();
    let mut skipped = Vec::new();
    let built = match prepare(&chosen) {
        Ok(built) => built,
        Err(error) => {
            println!("the tests do not build: {error:#}");
            return conclude(Totals { failed: 1, ..totals }, &skipped);
        }
    };
    for suite in &chosen {
        match suite.hindrance()? {
            Some(reason) => skipped.push(Skipped { suite: suite.name, reason }),
            None => {
                totals += run_suite(suite, built.as_ref(), args).unwrap_or_else(|error| {
                    println!("suite {} could not be run to its end: {error:#}", suite.name);
                    Totals { failed: 1, ..Totals::default() }
                });
            }
        }
    }
    conclude(totals, &skipped)
}

/// Builds what the suites run. Lint needs no build.
fn prepare(chosen: &[&Suite]) -> Result<Option<Built>> {
    if chosen.iter().all(|suite| suite.kind == Kind::Lint) {
        return Ok(None);
    }
    if chosen.iter().any(|suite| suite.parts.contains(&setup::Part::Bpf)) {
        let lacking = setup::lacks(&[setup::Part::Bpf])?;
        if lacking.is_empty() {
            ebpf::run(ebpf::Args {})?;
        }
    }
    build::all().map(Some)
}

fn choose<'a>(all: &'a [Suite], names: &[String]) -> Result<Vec<&'a Suite>> {
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |name: &String| {
        all.iter().find(|suite| suite.name == name).ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|suite| suite.name).collect();
            anyhow::anyhow!("no suite {name:?}; there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

fn list(all: &[Suite]) -> Result<()> {
    for suite in all {
        let state = suite.hindrance()?.map_or_else(String::new, |why| format!(" [not here: {why}]"));
        println!("{:<12} {}{state}", suite.name, suite.about);
    }
    Ok(())
}

fn run_suite(suite: &Suite, built: Option<&Built>, args: &Args) -> Result<Totals> {
    println!("== {}: {}", suite.name, suite.about);
    let start = Instant::now();
    let mut totals = match (suite.kind, built) {
        (Kind::Lint, _) => lint::run(),
        (Kind::Unit, Some(built)) => libtest::run_all(&built.unit, &built.kuma_dns, suite, args)?,
        (Kind::File, Some(built)) => match built.files.get(suite.name) {
            Some(binary) => libtest::run_all(std::slice::from_ref(binary), &built.kuma_dns, suite, args)?,
            None => bail!("tests/tests/{}.rs was built into no binary", suite.name),
        },
        (Kind::Vm, Some(built)) => vmtest::run(&built.guest_binaries()?)?,
        (_, None) => bail!("suite {} needs a build", suite.name),
    };
    if totals == Totals::default() && args.filter.is_none() {
        println!("suite {} ran no test", suite.name);
        totals.failed += 1;
    }
    let Totals { passed, failed, ignored } = totals;
    let rest = if ignored > 0 { format!(", {ignored} ignored") } else { String::new() };
    let secs = start.elapsed().as_secs_f32();
    println!("-- {}: {passed} passed, {failed} failed{rest} in {secs:.1} s", suite.name);
    Ok(totals)
}

/// Prints the reasons and, last of all, the totals.
fn conclude(mut totals: Totals, skipped: &[Skipped]) -> Result<()> {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    for Skipped { suite, reason } in skipped {
        println!("suite {suite} did not run: {reason}");
    }
    if totals.ignored > 0 {
        println!("{} tests are marked #[ignore] and did not run", totals.ignored);
    }
    if ci {
        totals.failed += skipped.len() as u64 + totals.ignored;
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    if totals.failed > 0 {
        return Err(Reported.into());
    }
    Ok(())
}
