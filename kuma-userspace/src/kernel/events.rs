//! Log lines of the BPF programs, when they were asked for. Keeps: without `--bpf-log` the verifier prunes every line of them
//! from the load, and nothing runs here. Called by loader; the agent runs it as a task (Kernel::take_events).
#![expect(unsafe_code, reason = "tokio's AsyncFd asks for a promise about the ring's descriptor")]

use std::str::FromStr;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{debug, error, info, trace, warn};

use crate::kernel::error::KernelError;
use crate::rt::Drain;

/// How much the programs say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BpfLog {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Why a text is no level.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("BPF log level {0:?} is unknown: take error, warn, info, debug or trace")]
pub struct BpfLogError(String);

impl FromStr for BpfLog {
    type Err = BpfLogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            other => Err(BpfLogError(other.into())),
        }
    }
}

impl BpfLog {
    /// The number that the programs compare with; 0 is "nothing".
    pub(super) fn level(self) -> u8 {
        match self {
            Self::Error => 1,
            Self::Warn => 2,
            Self::Info => 3,
            Self::Debug => 4,
            Self::Trace => 5,
        }
    }
}

/// The ring that the programs write to.
pub struct Events(EbpfLogger<ToTracing>);

impl Events {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing);
        logger.map(Self).map_err(|error| KernelError::Events(std::io::Error::other(error)))
    }

    /// Writes every line to this process's log until the drain is asked for.
    ///
    /// # Errors
    /// The ring cannot be watched.
    pub async fn run(self, drain: Drain) -> Result<(), KernelError> {
        // SAFETY: the logger owns the ring's descriptor, keeps it for its whole life and always names the same one; AsyncFd
        // owns the logger and deregisters before it drops it.
        let ring = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let mut ring = ring.map_err(|error| KernelError::Events(error.into()))?;
        loop {
            let mut ready = tokio::select! {
                ready = ring.readable_mut() => ready.map_err(KernelError::Events)?,
                () = drain.requested() => return Ok(()),
            };
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

/// Hands a line over to `tracing`, at the level the program gave it.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (program, line) = (record.target(), record.args());
        match record.level() {
            Level::Error => error!(target: "bpf", program, "{line}"),
            Level::Warn => warn!(target: "bpf", program, "{line}"),
            Level::Info => info!(target: "bpf", program, "{line}"),
            Level::Debug => debug!(target: "bpf", program, "{line}"),
            Level::Trace => trace!(target: "bpf", program, "{line}"),
        }
    }

    fn flush(&self) {}
}
