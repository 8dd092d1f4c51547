//! The demo ends well, and Ctrl-C at any moment leaves nothing of it behind.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use harness::binaries;
use kuma_dns::kernel::cgroup;
use kuma_dns::model::instance::Instance;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// When Ctrl-C comes, in milliseconds: before the story, while `up` starts, between steps, in a step, after the end.
const MOMENTS: [u64; 8] = [0, 20, 120, 300, 500, 800, 1_200, 1_700];

/// A running demo with a folder for temporary files of its own.
struct Demo {
    child: Child,
    folder: TempDir,
}

impl Demo {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.env("TMPDIR", folder.path());
        command.env("KUMA_DNS_BIN", binaries::kuma_dns().unwrap());
        command.env("KUMA_DNS_TEST_ENVOY", binaries::envoy().unwrap());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, folder }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Waits for its end; then nothing of it may be left.
    fn end(self) -> Output {
        let name = format!("demo-{}", self.child.id());
        let output = self.child.wait_with_output().unwrap();
        let left: Vec<PathBuf> = places(&name).into_iter().filter(|place| place.exists()).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "{output:?}");
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 0, "files are left: {output:?}");
        assert_eq!(processes(&name), Vec::<String>::new(), "{output:?}");
        output
    }
}

fn places(name: &str) -> [PathBuf; 2] {
    let instance: Instance = name.parse().unwrap();
    [instance.pins(Path::new("/sys/fs/bpf")), instance.cgroup(&cgroup::find_cgroup2().unwrap())]
}

/// The command lines of processes that name the demo.
fn processes(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(name))
        .collect()
}

#[test]
fn the_demo_tells_every_step_and_leaves_nothing() {
    let output = Demo::start().end();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "getent hosts",
        "dig",
        "--ipv6",
        "vip_tuple +1",
        "listener outbound:",
        "is removed",
        "rules     none",
    ] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    for moment in MOMENTS {
        let demo = Demo::start();
        std::thread::sleep(Duration::from_millis(moment));
        let _ = kill(demo.pid(), Signal::SIGINT);
        let output = demo.end();
        let ended = output.status.code();
        // A signal before the guard listens ends it as any process; after the last step there is nothing to interrupt.
        assert!(matches!(ended, None | Some(0 | 130)), "after {moment} ms: {output:?}");
    }
}
