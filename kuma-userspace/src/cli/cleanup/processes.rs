//! Processes by their id: who is in a cgroup, what is it called, end it. Keeps: a signal reaches the process that was meant
//! (pidfd), never a later one with the same id. Called by cleanup.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a process may take to end by itself; `up` drains connections meanwhile.
const TERM_DEADLINE: Duration = Duration::from_secs(15);
/// How long the kernel may take to end it.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// The processes of a cgroup; none when it does not exist.
pub(super) fn members(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// The processes of a cgroup and of all below it.
pub(super) fn members_below(cgroup: &Path) -> Vec<u32> {
    let mut pids = members(cgroup);
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        pids.extend(members_below(&entry.path()));
    }
    pids
}

/// The short name of a process.
pub(super) fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_gone| "ended".into(), |name| name.trim().into())
}

/// The command line of a process, its words separated by spaces.
pub(super) fn command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

/// Asks a process to end, insists after a while, and waits for its end. One that is gone is no error.
pub(super) fn end(pid: u32) -> io::Result<()> {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let process = match pidfd_open(id, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    for (signal, deadline) in [(Signal::TERM, TERM_DEADLINE), (Signal::KILL, KILL_DEADLINE)] {
        match pidfd_send_signal(&process, signal) {
            Err(Errno::SRCH) => return Ok(()),
            sent => sent?,
        }
        if has_ended(&process, deadline)? {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("process {pid} survives SIGKILL")))
}

/// A pidfd is readable once its process has ended.
fn has_ended(process: &impl AsFd, deadline: Duration) -> io::Result<bool> {
    let deadline = Timespec { tv_sec: deadline.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&deadline))? > 0)
}
