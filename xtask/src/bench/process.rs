//! Children of a benchmark: they speak in lines, every wait for a line has a deadline, and none outlives its owner.
//! Called by the benchmarks.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long a child may take to end when its stdin closes.
const END: Duration = Duration::from_secs(10);

/// How often an ending child is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How a child ends that its owner drops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Servers run until they are killed.
    Kill,
    /// It cleans up when its stdin closes.
    CloseStdin,
}

/// A child with pipes on stdin and stdout.
pub(super) struct Process {
    ending: Ending,
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// A child that is killed at the end.
    pub(super) fn start(name: &str, command: &mut Command) -> Result<Self> {
        Self::spawn(name, command, Ending::Kill)
    }

    /// A child that ends when its stdin closes: when we say so, and also when we are killed.
    pub(super) fn hold(name: &str, command: &mut Command) -> Result<Self> {
        // Ctrl-C must not reach it: it has something to clean up.
        Self::spawn(name, command.process_group(0), Ending::CloseStdin)
    }

    fn spawn(name: &str, command: &mut Command, ending: Ending) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout is piped, two lines up");
        // Children answer one line per question: the bound is never reached.
        let (sender, lines) = mpsc::sync_channel(64);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { ending, name: name.to_owned(), child, stdin, lines })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its stdout.
    pub(super) fn line(&self, within: Duration) -> Result<String> {
        self.lines
            .recv_timeout(within)
            .with_context(|| format!("{} ended, or said nothing within {} s", self.name, within.as_secs()))
    }

    /// Sends one line and gives the answer.
    pub(super) fn ask(&mut self, question: &str, within: Duration) -> Result<String> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        writeln!(stdin, "{question}").with_context(|| format!("cannot write to {}", self.name))?;
        self.line(within)
    }

    /// Waits for the end; its first line is its result.
    pub(super) fn result(mut self, within: Duration) -> Result<String> {
        let line = self.line(within)?;
        let end = Instant::now() + within;
        while Instant::now() < end {
            match self.child.try_wait().context("cannot wait for a child")? {
                Some(status) if status.success() => return Ok(line),
                Some(status) => bail!("{} ended with {status}", self.name),
                None => std::thread::sleep(POLL),
            }
        }
        bail!("{} did not end within {} s", self.name, within.as_secs())
    }

    /// Closes its stdin and waits for its end.
    pub(super) fn finish(mut self) -> Result<()> {
        self.close()
    }

    fn close(&mut self) -> Result<()> {
        self.stdin = None;
        let end = Instant::now() + END;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                if !status.success() {
                    bail!("{} ended with {status}", self.name);
                }
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("{} did not end within {} s", self.name, END.as_secs())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ending == Ending::CloseStdin
            && let Err(error) = self.close()
        {
            eprintln!("{error:#}");
        }
        // Ended and reaped already: both calls fail, and nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
