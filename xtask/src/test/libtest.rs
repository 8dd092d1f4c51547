//! Runs test binaries and reads what they came to. Keeps: a binary that crashes, hangs or prints no result counts as a
//! failure; its whole process group ends with it. Called by test.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use xtask::{cargo, ending_with_us, with_our_path};

use super::build::Binary;
use super::suites::{Kind, Order, Suite};
use super::{Args, Totals};

/// A binary that runs longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// How often a running binary is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How long the last lines of an ended binary are waited for.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Tells a test that has a short and a long form to take the long one.
const LONG_ENV: &str = "KUMA_DNS_TEST_LONG";

/// Proxies of the environment are for fetching, not for talking to our own servers.
const PROXY_VARIABLES: [&str; 5] = ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"];

/// Runs the binaries of one suite, one after the other; of the unit suite the documented examples as well.
pub(super) fn run_all(binaries: &[Binary], kuma_dns: &Path, suite: &Suite, args: &Args) -> Result<Totals> {
    let filter = args.filter.as_deref();
    let mut totals = Totals::default();
    for binary in binaries {
        let mut command = ending_with_us(&binary.path);
        command.env("KUMA_DNS_BIN", kuma_dns);
        if args.long {
            command.env(LONG_ENV, "1");
        }
        command.current_dir(&binary.folder).args(filter);
        if suite.order == Order::Serial {
            command.arg("--test-threads=1");
        }
        totals += run(&binary.name, &mut command)?;
    }
    if suite.kind == Kind::Unit {
        let mut command = cargo();
        command.args(["test", "--doc", "--quiet", "--locked"]);
        if let Some(text) = filter {
            command.args(["--", text]);
        }
        totals += run("documented examples", &mut command)?;
    }
    Ok(totals)
}

fn run(name: &str, command: &mut Command) -> Result<Totals> {
    prepare(command)?;
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let stdout = child.stdout.take().expect("stdout is piped: see prepare");
    // libtest prints one short line per test, so that the bound is never reached while the reader below lives.
    let (sender, lines) = mpsc::sync_channel::<String>(1024);
    std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        for line in lines {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut totals = None;
    let status = watch(&mut child, name, |wait| match lines.recv_timeout(wait) {
        Ok(line) => {
            println!("{line}");
            if let Some(result) = parse(&line) {
                *totals.get_or_insert_with(Totals::default) += result;
            }
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {}
        Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
    })?;
    // A process that left the group may still hold the pipe: what is not here soon does not come.
    while let Ok(line) = lines.recv_timeout(LAST_LINES) {
        println!("{line}");
        if let Some(result) = parse(&line) {
            *totals.get_or_insert_with(Totals::default) += result;
        }
    }
    Ok(judge(name, totals, status))
}

/// Waits for the end, at most until the deadline; what the binary left running in its group ends as well.
fn watch(child: &mut Child, name: &str, mut turn: impl FnMut(Duration)) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    let ended = loop {
        turn(POLL);
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for {name}"))? {
            break Some(status);
        }
        if start.elapsed() > DEADLINE {
            println!("{name} did not end within {} s", DEADLINE.as_secs());
            break None;
        }
    };
    let group = rustix::process::Pid::from_child(child);
    // No such process: nothing was left running, as it should be.
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    if ended.is_none() {
        child.wait().with_context(|| format!("cannot wait for {name}"))?;
    }
    Ok(ended)
}

fn prepare(command: &mut Command) -> Result<()> {
    for variable in PROXY_VARIABLES {
        command.env_remove(variable).env_remove(variable.to_uppercase());
    }
    with_our_path(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    Ok(())
}

/// A result line without failures, and exit code 0, or it counts as failed.
fn judge(name: &str, totals: Option<Totals>, status: Option<ExitStatus>) -> Totals {
    let mut totals = totals.unwrap_or_else(|| {
        println!("{name} printed no result");
        Totals { failed: 1, ..Totals::default() }
    });
    if totals.failed == 0 && !status.is_some_and(|status| status.success()) {
        let how = status.map_or_else(|| "not at all".to_owned(), |status| status.to_string());
        println!("{name} reports no failure and ended with {how}");
        totals.failed += 1;
    }
    totals
}

/// Reads `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
pub(crate) fn parse(line: &str) -> Option<Totals> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let mut totals = Totals::default();
    for count in counts.split("; ") {
        let (number, word) = count.split_once(' ')?;
        match (number.parse(), word) {
            (Ok(n), "passed") => totals.passed = n,
            (Ok(n), "failed") => totals.failed = n,
            (Ok(n), "ignored") => totals.ignored = n,
            _ => {}
        }
    }
    Some(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_gives_its_counts() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(parse(line), Some(Totals { passed: 3, failed: 1, ignored: 2 }));
        assert_eq!(parse("test model::name ... ok"), None);
    }

    #[test]
    fn a_binary_that_crashes_or_says_nothing_counts_as_failed() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            run("a test", &mut command).unwrap()
        };
        assert_eq!(shell("exit 0").failed, 1);
        let good = "test result: ok. 1 passed; 0 failed; 0 ignored";
        assert_eq!(shell(&format!("echo '{good}'")), Totals { passed: 1, failed: 0, ignored: 0 });
        assert_eq!(shell(&format!("echo '{good}'; kill -9 $$")).failed, 1);
    }

    #[test]
    fn tests_see_no_proxy_variables() {
        let mut command = Command::new("/bin/sh");
        command.env("http_proxy", "http://127.0.0.1:1").env("HTTPS_PROXY", "http://127.0.0.1:1");
        command.args([
            "-c",
            "test -z \"$http_proxy$HTTPS_PROXY\" && echo 'test result: ok. 1 passed; 0 failed'",
        ]);
        assert_eq!(run("a test", &mut command).unwrap().passed, 1);
    }
}
