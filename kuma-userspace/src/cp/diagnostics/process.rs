//! What the kernel says of this process, under the names that every Prometheus client uses. Called by metrics.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The kernel counts CPU time for programs in hundredths of a second, on every machine (proc(5), USER_HZ).
const TICKS_PER_SEC: f64 = 100.0;

/// This process at one moment; what the kernel does not say is missing.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_secs: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_files: Option<usize>,
    pub(super) threads: Option<u64>,
    /// Since the Unix epoch.
    pub(super) started_secs: Option<f64>,
}

impl Process {
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let fields = stat.as_deref().and_then(parse).unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").ok();
        let open_files = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        let uptime = fs::read_to_string("/proc/uptime").ok().and_then(|text| first(&text));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|now| now.as_secs_f64());
        let started = |start: f64| Some(now? - uptime? + start / TICKS_PER_SEC);
        Self {
            cpu_secs: fields.cpu_ticks.map(|spent| spent as f64 / TICKS_PER_SEC),
            resident_bytes: status.as_deref().and_then(resident_bytes),
            // The one that lists them is open as well.
            open_files: open_files.map(|count| count.saturating_sub(1)),
            threads: fields.threads,
            started_secs: fields.start_ticks.and_then(|start| started(start as f64)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Fields {
    cpu_ticks: Option<u64>,
    threads: Option<u64>,
    start_ticks: Option<u64>,
}

/// The fields of /proc/self/stat (proc(5)). The second is the program's name, which may hold anything.
fn parse(stat: &str) -> Option<Fields> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first after the name is number 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Fields {
        cpu_ticks: field(14).zip(field(15)).map(|(user, system)| user + system),
        threads: field(20),
        start_ticks: field(22),
    })
}

/// The line `VmRSS:   1234 kB` of /proc/self/status.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn first(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat =
            "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 50 25 0 0 20 0 9 0 1234 99999 321 18446744073709551615";
        let wanted = Fields { cpu_ticks: Some(75), threads: Some(9), start_ticks: Some(1234) };
        assert_eq!(parse(stat), Some(wanted));
    }

    #[test]
    fn this_process_has_memory_threads_and_a_start_in_the_past() {
        let process = Process::now();
        assert!(process.resident_bytes.unwrap() > 1 << 20, "{process:?}");
        assert!(process.threads.unwrap() >= 1 && process.open_files.unwrap() >= 3, "{process:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - process.started_secs.unwrap();
        assert!((-1.0..86_400.0).contains(&age), "{age}");
    }
}
