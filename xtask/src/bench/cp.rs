//! `cargo xtask bench cp`: what a control plane and an agent cost at several sizes, beside their goals. The measuring is done by
//! tests/src/bin/bench-cp, built for speed, one process for each measurement. Called by bench.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use xtask::{is_root, with_our_path};

use super::Effort;
use crate::setup::{self, Part};
use crate::{artifacts, ebpf};

/// The most that is measured: the kernel's map of VIPs holds twice as many and some more.
const LARGEST: usize = 100_000;
/// How much slower a change may be at the largest size than at the smallest and still be flat.
const FLAT: f64 = 1.5;

/// One number that was measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Measured {
    what: String,
    value: f64,
    unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p95: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
}

/// The same with its size and what is demanded.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Row {
    services: usize,
    with: &'static str,
    #[serde(flatten)]
    measured: Measured,
    goal_at_most: Option<f64>,
    goal_met: Option<bool>,
}

/// Everything that was measured.
#[derive(Serialize)]
pub(super) struct Report {
    bench: &'static str,
    kernel: String,
    rows: Vec<Row>,
    pub(super) goals_met: usize,
    pub(super) goals_missed: usize,
}

/// What must not be above what, and from which size on.
const GOALS: [(&str, usize, f64); 5] = [
    ("allocation from nothing, redb", LARGEST, 2.0),
    ("REST write to kernel map", 0, 50.0),
    ("REST write to traffic", 0, 150.0),
    ("control plane RSS", 0, 250.0),
    ("agent RSS", 0, 250.0),
];

/// Figures of a change that must be as good at the largest size as at the smallest.
const FLAT_ONES: [&str; 2] = ["REST write to kernel map", "REST write to traffic"];

/// What is run at a size.
struct Step {
    with: &'static str,
    words: Vec<String>,
}

pub(super) fn run(effort: Effort, sizes: &[usize]) -> Result<Report> {
    ensure!(is_root(), "bench cp loads BPF programs and makes network namespaces: run it as root");
    ensure!(sizes.iter().all(|size| (10..=LARGEST).contains(size)), "--sizes are from 10 to {LARGEST}");
    let tools = Tools::build()?;
    let mut rows = Vec::new();
    for &size in sizes {
        for step in steps(effort, size) {
            eprintln!("{size} services, {}", step.words.join(" "));
            for measured in tools.run(&step.words)? {
                rows.push(Row::new(size, step.with, measured));
            }
        }
    }
    rows.extend(flatness(&rows));
    rows.extend(bytes_per_service(&rows));
    let count = |met: bool| rows.iter().filter(|row| row.goal_met == Some(met)).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    Ok(Report { bench: "cp", kernel, goals_met: count(true), goals_missed: count(false), rows })
}

fn steps(effort: Effort, size: usize) -> Vec<Step> {
    let changes = if effort == Effort::Quick { "20" } else { "100" };
    let step =
        |with, words: &[&str]| Step { with, words: words.iter().map(|word| (*word).to_owned()).collect() };
    let size = size.to_string();
    let mut steps = vec![
        step("in one process", &["stores", &size]),
        step("a stand-in for Envoy", &["system", &size, changes, "none"]),
        step("Envoy", &["system", &size, changes, "envoy"]),
    ];
    // A thousand agents of 100,000 services are sent 20 GB to begin with.
    if size.len() <= 5 {
        let (streams, changes) = if effort == Effort::Quick { ("200", "5") } else { ("1000", "20") };
        steps.push(step("agents", &["fan-out", &size, streams, changes]));
    }
    steps
}

impl Row {
    fn new(services: usize, with: &'static str, measured: Measured) -> Self {
        let goal = GOALS.iter().find(|(what, from, _)| *what == measured.what && services >= *from);
        let goal_at_most = goal.map(|(.., limit)| *limit);
        let goal_met = goal_at_most.map(|limit| measured.value <= limit);
        Self { services, with, measured, goal_at_most, goal_met }
    }

    fn line(&self) -> String {
        let Self { measured: Measured { what, value, unit, p95, max, count }, .. } = self;
        let spread = match (p95, max, count) {
            (Some(p95), Some(max), Some(count)) => format!("p95 {p95:.1}, max {max:.1}, {count} times"),
            _ => String::new(),
        };
        let verdict = match (self.goal_at_most, self.goal_met) {
            (Some(limit), Some(true)) => format!("met (<= {limit})"),
            (Some(limit), _) => format!("MISSED (<= {limit})"),
            (None, _) => String::new(),
        };
        let number = if *value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
        format!("  {what:<44}{number:>10} {unit:<6} {spread:<34} {verdict}").trim_end().to_owned()
    }
}

impl Report {
    /// The same for people.
    pub(super) fn table(&self) -> String {
        let mut text = format!("kernel {}; every service has an IPv4 and an IPv6 VIP\n", self.kernel);
        let mut begun = (0, "");
        for row in &self.rows {
            if (row.services, row.with) != begun {
                begun = (row.services, row.with);
                text.push_str(&format!("\n{} services, {}\n", row.services, row.with));
            }
            text.push_str(&format!("{}\n", row.line()));
        }
        text.push('\n');
        text
    }
}

/// The figures of one thing over sizes, smallest and largest.
fn ends<'r>(rows: &'r [Row], what: &str) -> Option<(&'r Row, &'r Row)> {
    let mut found: Vec<&Row> = rows.iter().filter(|row| row.measured.what == what).collect();
    found.sort_by_key(|row| row.services);
    // A figure of the stand-in is compared with one of the stand-in.
    let last = *found.last()?;
    let first = *found.iter().find(|row| row.with == last.with)?;
    (first.services < last.services).then_some((first, last))
}

fn flatness(rows: &[Row]) -> Vec<Row> {
    let ratio = |what: &&str| {
        let (first, last) = ends(rows, what)?;
        let value = last.measured.value / first.measured.value;
        let what = format!("{what}, {} to {}", first.services, last.services);
        let measured = Measured { what, value, unit: "times".into(), p95: None, max: None, count: None };
        let goal_met = Some(value <= FLAT || last.measured.value < 5.0);
        Some(Row { services: last.services, with: "growth", measured, goal_at_most: Some(FLAT), goal_met })
    };
    FLAT_ONES.iter().filter_map(ratio).collect()
}

fn bytes_per_service(rows: &[Row]) -> Vec<Row> {
    let per = |what: &&str| {
        let (first, last) = ends(rows, what)?;
        let more = (last.services - first.services) as f64;
        let value = (last.measured.value - first.measured.value) * f64::from(1 << 20) / more;
        let what = format!("{what} per service");
        let measured = Measured { what, value, unit: "B".into(), p95: None, max: None, count: None };
        Some(Row { services: last.services, with: "growth", measured, goal_at_most: None, goal_met: None })
    };
    ["control plane RSS", "agent RSS"].iter().filter_map(per).collect()
}

/// Programs that a run needs.
struct Tools {
    bench: PathBuf,
    kuma_dns: PathBuf,
    envoy: PathBuf,
}

impl Tools {
    fn build() -> Result<Self> {
        setup::ensure(&[Part::Bpf, Part::Envoy, Part::Clients, Part::Postgres])?;
        ebpf::run(ebpf::Args {})?;
        let built = artifacts::build(&["--release", "--bin=kuma-dns", "--bin=bench-cp"])?;
        let find = |name: &str| {
            let artifact = built.iter().find(|artifact| artifact.target.name == name);
            let path = artifact.and_then(|artifact| artifact.executable.clone());
            path.map(PathBuf::from).with_context(|| format!("cargo built no {name}"))
        };
        let envoy = setup::envoy().context("no Envoy")?;
        Ok(Self { bench: find("bench-cp")?, kuma_dns: find("kuma-dns")?, envoy })
    }

    fn run(&self, words: &[String]) -> Result<Vec<Measured>> {
        let mut command = Command::new(&self.bench);
        with_our_path(&mut command);
        command.args(words).env("KUMA_DNS_BIN", &self.kuma_dns).env("KUMA_DNS_TEST_ENVOY", &self.envoy);
        // What it says of itself is for people; it ends by itself, and takes everything away before.
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {}", self.bench.display()))?;
        if !output.status.success() {
            bail!("bench-cp {} ended with {}", words.join(" "), output.status);
        }
        let lines = String::from_utf8(output.stdout).context("bench-cp writes text")?;
        lines.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(services: usize, what: &str, value: f64) -> Row {
        let measured =
            Measured { what: what.into(), value, unit: "ms".into(), p95: None, max: None, count: None };
        Row::new(services, "x", measured)
    }

    #[test]
    fn goals_hold_from_their_size_on() {
        assert_eq!(row(1_000, "allocation from nothing, redb", 3.0).goal_met, None);
        assert_eq!(row(100_000, "allocation from nothing, redb", 3.0).goal_met, Some(false));
        assert_eq!(row(1_000, "REST write to kernel map", 49.9).goal_met, Some(true));
        assert!(row(1_000, "agent RSS", 251.0).line().contains("MISSED (<= 250)"));
    }

    #[test]
    fn what_grows_with_the_number_of_services_is_not_flat() {
        let rows =
            [row(1_000, "REST write to kernel map", 10.0), row(100_000, "REST write to kernel map", 16.0)];
        assert_eq!(flatness(&rows)[0].goal_met, Some(false));
        let rows = [row(1_000, "agent RSS", 20.0), row(101_000, "agent RSS", 120.0)];
        assert!((bytes_per_service(&rows)[0].measured.value - 1048.576).abs() < 0.01);
        assert!(flatness(&rows[..1]).is_empty());
    }
}
