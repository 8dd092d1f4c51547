//! A child process that never outlives its owner, and whose output can be read at any time.
//! Keeps: ended by its pid, politely first, then for good. Called by world.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::holds_within;

/// How long a process may take to end when asked.
const END_SECS: u64 = 20;

/// A running child with its output in a file.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name, log: log.into() })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("the kernel's pids are positive i32")
    }

    /// All it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after the deadline.
    pub fn wait(&mut self, secs: u64) -> anyhow::Result<ExitStatus> {
        holds_within(secs, || self.ended().is_some());
        self.ended()
            .with_context(|| format!("{} still runs after {secs} s; it said:\n{}", self.name, self.said()))
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// It still runs after the deadline.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(END_SECS)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() && self.terminate().is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
