//! Code of a test in a process of its own: which cgroup a process is in decides which hooks see its sockets, and threads share
//! it. Keeps: the child never outlives its guard; its panic is the test's panic, with message and place. Called by datapath.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use kuma_dns::kernel::cgroup;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest that one job may take; test guests are slow.
const JOB_DEADLINE: Duration = Duration::from_secs(120);
/// Where the two descriptors that a child needs are moved to, before all others are closed.
const RESULT_FD: RawFd = 3;
const NETNS_FD: RawFd = 4;

/// Where a child runs.
pub struct Place<'a> {
    pub cgroup: &'a Path,
    pub netns: BorrowedFd<'a>,
}

/// A child that runs a job of type `T`. Dropped: ended.
pub struct Job<T> {
    pid: Pid,
    result: File,
    ended: bool,
    _result: std::marker::PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Job<T> {
    /// Forks a child, moves it into the cgroup and the namespace, and runs `job` there. The job sees the memory of this
    /// process, but no file that is open here: they are all closed.
    ///
    /// # Errors
    /// The child cannot be made.
    pub fn start(place: &Place<'_>, job: impl FnOnce() -> T) -> anyhow::Result<Self> {
        let (read, write) = std::io::pipe().context("cannot make a pipe")?;
        let cgroup: PathBuf = place.cgroup.into();
        // SAFETY: the child of this multi-threaded process touches what may be locked elsewhere only through glibc's malloc,
        // which is made for this (pthread_atfork); it ends by _exit, so that no destructor of the parent's runs twice.
        #[expect(unsafe_code, reason = "a process of its own is the point")]
        let forked = unsafe { fork() };
        match forked.context("cannot fork")? {
            ForkResult::Parent { child } => {
                drop(write);
                Ok(Self {
                    pid: child,
                    result: OwnedFd::from(read).into(),
                    ended: false,
                    _result: std::marker::PhantomData,
                })
            }
            ForkResult::Child => {
                let outcome = child(&cgroup, place.netns, write.into(), job);
                // SAFETY: ends this process, and nothing else.
                #[expect(unsafe_code, reason = "exit() would run the parent's destructors")]
                unsafe {
                    libc::_exit(i32::from(outcome.is_err()))
                }
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if !self.ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
            self.ended = true;
        }
    }

    /// What the job returned.
    ///
    /// # Panics
    /// When the job did, or did not end in time.
    #[track_caller]
    pub fn join(self) -> T {
        self.join_within(JOB_DEADLINE)
    }

    /// What a job returned that may take longer, or less.
    ///
    /// # Panics
    /// When the job did, or did not end in time.
    #[track_caller]
    pub fn join_within(mut self, limit: Duration) -> T {
        let text = self.read_result(limit);
        let _ = waitpid(self.pid, None);
        self.ended = true;
        let result: Result<T, String> = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("the child ended without a result ({error}): {text:?}"));
        result.unwrap_or_else(|panic| panic!("in the child: {panic}"))
    }

    #[track_caller]
    fn read_result(&mut self, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let mut bytes = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut waiting = [PollFd::new(&self.result, PollFlags::IN)];
            let ready = poll(&mut waiting, Some(&timeout)).expect("poll of a pipe works");
            assert!(ready > 0, "the child did not end within {} s", limit.as_secs());
            let mut chunk = [0; 4096];
            match self.result.read(&mut chunk).expect("a pipe can be read") {
                0 => return String::from_utf8_lossy(&bytes).into_owned(),
                filled => bytes.extend(&chunk[..filled]),
            }
        }
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// The message and place of the last panic in this process.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs in the child: moves, runs, reports.
fn child<T: Serialize>(
    cgroup: &Path,
    netns: BorrowedFd<'_>,
    result: OwnedFd,
    job: impl FnOnce() -> T,
) -> anyhow::Result<()> {
    let mut result = keep_only(result, netns)?;
    std::panic::set_hook(Box::new(|info| {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.to_string());
    }));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        die_with_parent();
        cgroup::move_self(cgroup).expect("the child can join its cgroup");
        // SAFETY: keep_only() has put the namespace there, and nobody closes it.
        #[expect(unsafe_code, reason = "the descriptor was moved by number")]
        let netns = unsafe { BorrowedFd::borrow_raw(NETNS_FD) };
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("the child can join its namespace");
        job()
    }));
    let outcome = outcome
        .map_err(|_panic| PANIC.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default());
    result.write_all(serde_json::to_string(&outcome)?.as_bytes())?;
    Ok(())
}

/// Closes everything that the parent has open, so that no lock, link or socket of the test lives on in a child.
fn keep_only(result: OwnedFd, netns: BorrowedFd<'_>) -> anyhow::Result<File> {
    // SAFETY: plain descriptor numbers; both sources are open, and what was at 3 and 4 belongs to the parent's objects, which
    // this process never uses again.
    #[expect(unsafe_code, reason = "descriptors are moved by number")]
    unsafe {
        let high = libc::fcntl(result.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 1000);
        let netns = libc::fcntl(netns.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, 1000);
        anyhow::ensure!(high >= 0 && netns >= 0, "cannot move descriptors");
        libc::dup2(high, RESULT_FD);
        libc::dup2(netns, NETNS_FD);
        close_from(NETNS_FD + 1);
        std::mem::forget(result);
        Ok(File::from_raw_fd(RESULT_FD))
    }
}

/// close_range(2) came with 5.9, which is below our floor.
fn close_from(first: RawFd) {
    // SAFETY: closes descriptors that this child never uses again.
    #[expect(unsafe_code, reason = "no safe wrapper closes a range")]
    unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
    }
}

/// A test that is killed takes its children along.
fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}
