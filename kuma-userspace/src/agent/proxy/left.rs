//! The Envoy that an earlier agent left: found in its cgroup by whose it is, taken over or ended. Keeps: only a process that
//! names our run folder on its command line is ours; a signal reaches the process that was meant (pidfd), never a later one of
//! the same id. Called by the supervisor.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{sleep, timeout};

use super::{STOP_LIMIT, find::Binary};

/// How long the kernel may take to end it.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked whether it still runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A running Envoy that is no child of ours.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) pid: u32,
    process: OwnedFd,
    words: Vec<OsString>,
    /// Device and inode of its program.
    program: Option<(u64, u64)>,
}

impl Left {
    /// The Envoy in `cgroup` that belongs to the run folder `owner`.
    pub(super) fn find(cgroup: &Path, owner: &Path) -> Option<Self> {
        let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).ok()?;
        members.lines().filter_map(|pid| pid.parse().ok()).find_map(|pid| Self::open(pid, owner))
    }

    fn open(pid: u32, owner: &Path) -> Option<Self> {
        let id = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = pidfd_open(id, PidfdFlags::empty()).ok()?;
        // Read behind the open: if it had ended, there is nothing to read, or another's words.
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<OsString> = words
            .strip_suffix(b"\0")?
            .split(|&octet| octet == 0)
            .map(|word| OsStr::from_bytes(word).to_owned())
            .collect();
        let owner = owner.to_str()?;
        let ours = |word: &OsString| word.to_str().is_some_and(|word| word.contains(owner));
        if words.first()?.as_bytes() != b"envoy" || !words.iter().any(ours) {
            return None;
        }
        let program = std::fs::metadata(format!("/proc/{pid}/exe")).ok().map(|exe| (exe.dev(), exe.ino()));
        Some(Self { pid, process, words, program })
    }

    /// Is it what we would start?
    pub(super) fn is(&self, binary: &Binary, command: &std::process::Command) -> bool {
        self.program.is_some()
            && self.program == binary.identity()
            && self.words[1..].iter().map(OsString::as_os_str).eq(command.get_args())
    }

    /// Ends it: politely, then for good.
    pub(super) fn end(&self) -> io::Result<()> {
        for (signal, limit) in [(Signal::TERM, STOP_LIMIT), (Signal::KILL, KILL_LIMIT)] {
            self.send(signal)?;
            if self.has_ended(limit)? {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("process {} survives SIGKILL", self.pid)))
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.process, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// A pidfd is readable once its process has ended.
    fn has_ended(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
        Ok(poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&limit))? > 0)
    }

    /// Returns when it has ended.
    pub(super) async fn ended(&self) -> io::Result<()> {
        while !self.has_ended(Duration::ZERO)? {
            sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// [`Self::end`] for a thread that may not block.
    pub(super) async fn stop(&self) -> io::Result<()> {
        for (signal, limit) in [(Signal::TERM, STOP_LIMIT), (Signal::KILL, KILL_LIMIT)] {
            self.send(signal)?;
            if let Ok(ended) = timeout(limit, self.ended()).await {
                return ended;
            }
        }
        Err(io::Error::other(format!("process {} survives SIGKILL", self.pid)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_an_envoy_that_names_our_folder_is_ours_and_it_can_be_ended() {
        let folder = tempfile::tempdir().unwrap();
        // A shell that waits for a line which never comes, under Envoy's name.
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.arg0("envoy").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap()
        };
        let mut foreign = start("read line");
        let nothing_said = Left::open(foreign.id(), folder.path());
        foreign.kill().unwrap();
        foreign.wait().unwrap();
        assert!(nothing_said.is_none(), "its command line does not say whose it is");
        let mut child = start(&format!("read line # {}", folder.path().display()));
        // Until the child has become the shell, its words are ours.
        let found =
            std::iter::repeat_with(|| Left::open(child.id(), folder.path())).take(1_000_000).flatten().next();
        let left = found.unwrap();
        assert!(left.program.is_some() && left.words[1] == "-c");
        left.end().unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
