//! Measurements as lines of JSON. Called by everything here; read by `cargo xtask bench cp`.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

/// Prints one number.
pub(crate) fn say(what: &str, value: f64, unit: &str) -> Result<()> {
    line(&json!({ "what": what, "value": value, "unit": unit }))
}

/// Prints median, 95th percentile and maximum of many times, in milliseconds.
pub(crate) fn say_times(what: &str, times: &[Duration]) -> Result<()> {
    let mut millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    millis.sort_by(f64::total_cmp);
    let at = |part: usize| millis.get((millis.len() * part / 100).min(millis.len() - 1)).copied();
    let median = at(50).context("nothing was measured")?;
    line(
        &json!({ "what": what, "value": median, "unit": "ms", "p95": at(95), "max": millis.last(), "count": millis.len() }),
    )
}

fn line(value: &serde_json::Value) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{value}").and_then(|()| stdout.flush()).context("nobody reads our stdout")
}

/// Physical memory of a process, in bytes.
pub(crate) fn rss_bytes(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    Ok(kib * 1024)
}
