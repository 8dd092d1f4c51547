//! `cargo xtask test vm`: the socket suites again, in guests with the oldest and the newest kernel, from the same static
//! binaries and so with the same BPF object. Keeps: what a kernel cannot run is named with its reason; a guest that
//! says no result fails. Called by test.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use xtask::{find_tool, target};

use crate::test::Totals;
use crate::test::libtest::parse;
use crate::vm::initramfs::Initramfs;
use crate::vm::kernel::{self, Kernel, Line};
use crate::vm::qemu;

/// The kernels that every run covers: the floor that we promise, and the newest that Debian has.
const LINES: [Line; 2] = [
    Line { name: "oldest", suites: &["bullseye-security"], version: "5.10." },
    Line { name: "newest", suites: &["sid", "experimental"], version: "" },
];

/// What a guest loads before the tests; the names are modules in Debian's kernels.
const MODULES: [&str; 2] = ["veth", "dummy"];

/// Programs that the tests start, with the libraries that they need.
const PROGRAMS: [&str; 1] = ["ip"];

/// A case that a kernel cannot run: the beginning of its release, a part of the test's name, the reason.
const CANNOT: &[(&str, &str, &str)] = &[
    ("5.10.", "mptcp", "Debian's cloud kernel 5.10 has no MPTCP"),
    ("5.10.", "sqpoll", "before 5.11 a polled io_uring takes registered files only"),
];

/// The guest's last words: without them it crashed.
const LAST_WORDS: &str = "GUEST DONE";

/// Why guests cannot run on this machine, if so.
pub(crate) fn hindrance() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!("the guests are x86_64, this machine is {}", std::env::consts::ARCH));
    }
    find_tool("apt-get").is_none().then(|| "fetches Debian's kernels with apt-get".to_owned())
}

/// Runs the binaries on every kernel, two guests at a time.
///
/// # Errors
/// A kernel cannot be fetched, qemu cannot start.
pub(crate) fn run(binaries: &[(String, PathBuf)]) -> Result<Totals> {
    let kernels =
        LINES.iter().map(|line| Ok((line.name, kernel::fetch(line)?))).collect::<Result<Vec<_>>>()?;
    let mut totals = Totals::default();
    for pair in kernels.chunks(2) {
        let results: Vec<Result<Totals>> = std::thread::scope(|scope| {
            let guests: Vec<_> = pair
                .iter()
                .map(|(name, kernel)| scope.spawn(move || guest(name, kernel, binaries)))
                .collect();
            guests.into_iter().map(|guest| guest.join().expect("a guest's thread does not panic")).collect()
        });
        for result in results {
            totals += result?;
        }
    }
    Ok(totals)
}

/// One guest from power-on to power-off.
fn guest(name: &str, kernel: &Kernel, binaries: &[(String, PathBuf)]) -> Result<Totals> {
    let label = &kernel.release;
    let cannot: Vec<_> = CANNOT.iter().filter(|(release, ..)| label.starts_with(release)).collect();
    for (_, case, reason) in &cannot {
        say(label, &format!("not run: cases named *{case}*: {reason}"));
    }
    let skips: Vec<&str> = cannot.iter().map(|(_, case, _)| *case).collect();
    let archive = archive(kernel, binaries, &skips)?;
    let place = target().join("vm").join(format!("{label}.cpio"));
    std::fs::write(&place, archive).with_context(|| format!("cannot write {}", place.display()))?;
    let mut totals = Totals::default();
    let (mut results, mut clean, mut done) = (0, 0, false);
    let in_time = qemu::run(kernel, &place, |line| {
        say(label, line);
        done |= line.starts_with(LAST_WORDS);
        clean += usize::from(line.starts_with("GUEST ") && line.ends_with(" rc=0"));
        if let Some(result) = parse(line) {
            totals += result;
            results += 1;
        }
    })?;
    if totals.failed == 0 && results == binaries.len() && clean != results {
        say(label, "a test binary reports no failure and ended with another code than 0");
        totals.failed += 1;
    }
    if !in_time || !done || results != binaries.len() {
        let why = if in_time { "it crashed" } else { "it hung" };
        say(label, &format!("the guest gave {results} of {} results: {why}", binaries.len()));
        totals.failed += 1;
    }
    say(label, &format!("{name} kernel: {} passed, {} failed", totals.passed, totals.failed));
    Ok(totals)
}

/// Two guests speak at a time: whole lines only, each with its kernel.
fn say(kernel: &str, line: &str) {
    static CONSOLE: Mutex<()> = Mutex::new(());
    let _turn = CONSOLE.lock().expect("nobody panics while printing a line");
    println!("[{kernel}] {line}");
}

fn archive(kernel: &Kernel, binaries: &[(String, PathBuf)], skips: &[&str]) -> Result<Vec<u8>> {
    let mut archive = Initramfs::default();
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/etc", "/var"] {
        archive.folder(Path::new(folder));
    }
    let busybox = find_tool("busybox").context("busybox is not on PATH")?;
    archive.copy(&busybox, Path::new("/bin/busybox"))?;
    archive.copy(&busybox, Path::new("/bin/sh"))?;
    for program in PROGRAMS {
        let from = find_tool(program).with_context(|| format!("{program} is not on PATH"))?;
        archive.program(&from, &Path::new("/sbin").join(program))?;
    }
    let mut inserts = String::new();
    for module in kernel.modules(&MODULES)? {
        let place = archive.module(&module)?;
        inserts.push_str(&format!("busybox insmod {}\n", place.display()));
    }
    let mut tests = String::new();
    for (name, path) in binaries {
        archive.stripped(path, &Path::new("/tests").join(name))?;
        tests.push_str(&run_line(name, skips));
    }
    archive.file(Path::new("/init"), init(&inserts, &tests).as_bytes());
    Ok(archive.finish())
}

fn run_line(name: &str, skips: &[&str]) -> String {
    let skips: String = skips.iter().map(|skip| format!(" --skip {skip}")).collect();
    format!("/tests/{name} --test-threads=1{skips}; echo \"GUEST {name} rc=$?\"\n")
}

/// The first process. busybox's sh prefers its own applets to PATH: programs are called by their full path.
fn init(inserts: &str, tests: &str) -> String {
    format!(
        "#!/bin/sh
export PATH=/sbin:/bin HOME=/ RUST_BACKTRACE=1 KUMA_DNS_GUEST=1
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs tmpfs /tmp
busybox mount -t tmpfs tmpfs /run
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox mount -t bpf bpf /sys/fs/bpf
{inserts}/sbin/ip link set lo up
{tests}echo '{LAST_WORDS}'
busybox poweroff -f
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_a_kernel_cannot_run_is_left_out_by_name() {
        assert_eq!(
            run_line("sockets", &["mptcp"]),
            "/tests/sockets --test-threads=1 --skip mptcp; echo \"GUEST sockets rc=$?\"\n"
        );
        let script = init("", &run_line("sockets", &[]));
        assert!(script.starts_with("#!/bin/sh\n") && script.ends_with("busybox poweroff -f\n"));
    }
}
