//! `cargo xtask fuzz`: builds the fuzz package for libFuzzer with the stable compiler and runs its targets, each for a while,
//! from good inputs. Keeps: what was found once is kept under target/fuzz, what breaks is shown with the way to replay it.
//! Called by people.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use xtask::{cargo, ending_with_us, exec, read, root, target};

/// What `harness::fuzzing::TARGETS` has.
const TARGETS: [&str; 8] = ["body", "files", "configuration", "install", "dns", "view", "xds", "socket"];
/// Edge coverage for libFuzzer, as cargo-fuzz asks for it.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];
/// Longer than any input takes on a busy machine.
const HANG_SECS: u32 = 20;
/// Inputs beyond it are too much for nobody.
const MAX_INPUT_BYTES: u32 = 16 << 10;
const MEMORY_MIB: u32 = 2_048;

/// Feed what comes from outside, with mistakes, to the code that reads it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is fuzzed; without, everything in turn.
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Replay this input instead, once.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let chosen = args.target.as_deref();
    let targets: Vec<&str> =
        TARGETS.into_iter().filter(|name| chosen.is_none_or(|chosen| chosen == *name)).collect();
    let fuzzer = build()?;
    if let (Some(input), [name]) = (&args.input, targets.as_slice()) {
        return exec(command(&fuzzer, name).arg(input));
    }
    let mut broken = Vec::new();
    for name in targets {
        println!("{name}: {} s", args.seconds);
        if let Some(found) = fuzz(&fuzzer, name, args.seconds)? {
            println!("{name} breaks on {0}; again: cargo xtask fuzz {name} --input {0}", found.display());
            broken.push(name);
        }
    }
    if !broken.is_empty() {
        bail!("broken: {}", broken.join(", "));
    }
    Ok(())
}

/// Builds with coverage, into a folder of its own.
fn build() -> Result<PathBuf> {
    let host = read(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let folder = target().join("fuzz");
    let mut build = cargo();
    build
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package=fuzz",
            "--profile=fuzz",
            "--target",
            &host,
            "--target-dir",
        ])
        .arg(&folder)
        // The compiler's unstable passes; nothing of the code uses an unstable feature.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS.join(" "));
    exec(&mut build)?;
    Ok(folder.join(host).join("fuzz/fuzz"))
}

fn command(fuzzer: &Path, name: &str) -> Command {
    let mut command = ending_with_us(fuzzer);
    command.env("KUMA_DNS_FUZZ_TARGET", name).current_dir(root());
    command.arg(format!("-timeout={HANG_SECS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    command
}

/// Runs one target; gives the input that broke it.
fn fuzz(fuzzer: &Path, name: &str, seconds: u32) -> Result<Option<PathBuf>> {
    let folder = |kind: &str| target().join("fuzz").join(kind).join(name);
    let (corpus, broken, seeds) = (folder("corpus"), folder("broken"), folder("seeds"));
    for folder in [&corpus, &broken, &seeds] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let before = inputs(&broken)?;
    let mut run = command(fuzzer, name);
    run.arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/", broken.display()))
        .args(["-print_final_stats=1", "-verbosity=1"])
        .args([&corpus, &seeds])
        .env("KUMA_DNS_FUZZ_SEEDS", &seeds);
    let log = target().join("fuzz").join(format!("{name}.log"));
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = run.stdout(Stdio::null()).stderr(file).status().context("cannot start the fuzzer")?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    for line in said.lines().filter(|line| line.starts_with("stat::number_of") || line.contains("DONE")) {
        println!("  {line}");
    }
    if status.success() {
        return Ok(None);
    }
    let found = inputs(&broken)?.into_iter().find(|input| !before.contains(input));
    // Everything from the panic on; what libFuzzer says before is its own progress.
    let from = said.find("\nthread ").or_else(|| said.find("==")).unwrap_or_default();
    println!("{}", said[from..].trim());
    found.map(Some).with_context(|| format!("{name} ended with {status}: {} has all it said", log.display()))
}

fn inputs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?)
}
