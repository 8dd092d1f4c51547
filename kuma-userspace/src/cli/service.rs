//! What the commands that run for long have in common: threads, signals, an end in order. Keeps: one signal ends it in
//! order, a second one at once. Called by up and control_plane.

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info, warn};

use super::outcome::{Code, Failure, Outcome};
use super::signals::Signals;
use crate::cp;
use crate::rt::{Drain, DrainTrigger, TaskError, Tasks};

/// How a service ended.
pub(super) enum End {
    InOrder,
    AtOnce,
}

/// What is said at a first and at a second signal.
pub(super) struct LastWords {
    pub(super) first: &'static str,
    pub(super) second: &'static str,
}

/// Tasks that are started, and the signals that end them.
pub(super) struct Service {
    pub(super) tasks: Tasks,
    trigger: DrainTrigger,
    drain: Drain,
    signals: Signals,
}

impl Service {
    /// From here on signals do not end the process by themselves.
    pub(super) fn new() -> anyhow::Result<Self> {
        raise_file_limit();
        let (trigger, drain) = Drain::pair();
        let signals = Signals::new().context("cannot listen for signals")?;
        let tasks = Tasks::new(trigger.clone(), drain.clone());
        Ok(Self { tasks, trigger, drain, signals })
    }

    /// Until every task has ended, or a second signal came.
    pub(super) async fn run(self, words: LastWords) -> Result<End, Failure> {
        let Self { tasks, trigger, drain, mut signals } = self;
        let mut running = pin!(tasks.run());
        loop {
            tokio::select! {
                ended = &mut running => return ended.map(|()| End::InOrder).map_err(|error| plain(error).into()),
                () = signals.next() => {}
            }
            if drain.is_requested() {
                warn!("{}", words.second);
                return Ok(End::AtOnce);
            }
            info!("{}", words.first);
            trigger.request();
        }
    }
}

/// Each client is an open file: the soft limit, mostly 1,024, becomes the hard one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        debug!(%error, "the limit on open files stays as it is");
    }
}

/// Runs a service on threads of its own.
pub(super) fn block_on(service: impl Future<Output = Result<End, Failure>>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let end = runtime.block_on(service);
    // What is still running was asked to end and did not: the process ends without it.
    runtime.shutdown_background();
    match end? {
        End::InOrder => Ok(ExitCode::SUCCESS),
        End::AtOnce => Ok(Code::Failed.into()),
    }
}

/// Files that were good when they were checked may have been edited since.
pub(super) fn refused(error: cp::Error) -> Failure {
    let code = if matches!(error, cp::Error::Invalid(_)) { Code::BadInput } else { Code::Failed };
    Failure::new(code, error.into())
}

/// What a task failed with says all: that it was a task is our own affair.
fn plain(ended: TaskError) -> anyhow::Error {
    match ended {
        TaskError::Failed { source, .. } => anyhow::Error::from_boxed(source),
        other => other.into(),
    }
}
