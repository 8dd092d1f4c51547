//! The guard of the demo. It is the reaper of everything that the story starts (PR_SET_CHILD_SUBREAPER), knows all names
//! beforehand, and so can remove all of it however the story ended. Called by main.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harness::binaries;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// What a shell shows for a process that Ctrl-C ended.
const INTERRUPTED: u8 = 128 + 2;
/// How long killed processes may take to disappear.
const REAP_DEADLINE: Duration = Duration::from_secs(20);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(5);

/// What the story may leave behind, known before it starts.
struct Traces {
    instance: String,
    folder: TempDir,
}

/// How the story ended.
enum End {
    ByItself(std::process::ExitStatus),
    Interrupted,
}

/// Starts the story, waits for its end or a signal, then removes everything.
pub(crate) fn watch_over_the_story() -> anyhow::Result<ExitCode> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the reaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything exists that could be left behind: from here on a signal is an event, not the end.
    let signals = runtime.block_on(async { Signals::new() })?;
    let instance = format!("demo-{}", std::process::id());
    let folder = tempfile::Builder::new().prefix(&instance).tempdir().context("cannot make a folder")?;
    let traces = Traces { instance, folder };
    let ended = runtime.block_on(tell(&traces, signals));
    let removed = traces.remove();
    match ended? {
        End::Interrupted => {
            removed?;
            println!("\nInterrupted. Everything that was started, attached or made is gone again.");
            Ok(ExitCode::from(INTERRUPTED))
        }
        End::ByItself(status) => {
            removed?;
            ensure!(status.success(), "the demo stopped before its end");
            println!(
                "\nNothing is left: no pin, no cgroup, no network namespace, no process, no file of the demo."
            );
            println!("By hand: {} up -f deploy/examples/mesh.yaml", binaries::kuma_dns()?.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn tell(traces: &Traces, mut signals: Signals) -> anyhow::Result<End> {
    let mut story = tokio::process::Command::new(std::env::current_exe()?);
    story.env(super::STORY, &traces.instance).env("TMPDIR", traces.folder.path());
    // A process group of its own: Ctrl-C on the terminal is for the guard alone.
    story.process_group(0);
    let mut story = story.spawn().context("cannot start the story")?;
    tokio::select! {
        status = story.wait() => Ok(End::ByItself(status?)),
        () = signals.any() => Ok(End::Interrupted),
    }
}

impl Traces {
    /// Ends every process below us, then removes what they made; checks that it is gone.
    fn remove(self) -> anyhow::Result<()> {
        end_descendants()?;
        let run = self.folder.path().join("run");
        let output = std::process::Command::new(binaries::kuma_dns()?)
            .args(["--instance", &self.instance, "--run-dir"])
            .arg(&run)
            .args(["cleanup", "--force"])
            .output()
            .context("cannot run kuma-dns cleanup")?;
        ensure!(output.status.success(), "cleanup failed: {}", String::from_utf8_lossy(&output.stderr));
        self.folder.close().context("cannot remove the demo's folder")?;
        let left: Vec<PathBuf> = places(&self.instance).into_iter().filter(|place| place.exists()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

/// Where the demo's instance would still be seen.
fn places(instance: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        matches!(kind, "bpf" | "cgroup2").then(|| Path::new(point).join("kuma-dns").join(instance))
    });
    mounted.collect()
}

/// Kills and reaps until nobody is left: whoever loses its parent becomes our child.
fn end_descendants() -> anyhow::Result<()> {
    let deadline = Instant::now() + REAP_DEADLINE;
    loop {
        for child in children()? {
            // It may have ended since we looked; it stays ours, and its id stays taken, until we reap it.
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::StillAlive) => std::thread::sleep(POLL),
            Ok(_) => {}
            Err(error) => return Err(error).context("cannot reap"),
        }
        ensure!(Instant::now() < deadline, "processes survive SIGKILL: {:?}", children()?);
    }
}

/// Our direct children, of all our threads.
fn children() -> anyhow::Result<Vec<i32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(found)
}
