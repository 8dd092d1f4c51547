//! `kuma-dns up`: a control plane and an agent in one process, on services from YAML files. Keeps: input and machine are
//! checked before anything is started; one signal ends it in order, a second one at once; who waits is told for what.

mod args;
mod plane;
mod signals;
mod story;

pub(super) use args::Args;

use std::pin::pin;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use tracing::{info, warn};

use super::logs::Format;
use super::outcome::{Code, Failure, OrExit, Outcome};
use super::paths::Paths;
use crate::agent;
use crate::cp::{self, ControlPlane};
use crate::kernel::{cgroup, preflight};
use crate::rt::{Drain, Ready, TaskError, Tasks};

use args::Config;
use signals::Signals;
use story::Story;

/// How the services of `up` end.
enum End {
    InOrder,
    AtOnce,
}

pub(super) fn run(args: Args, paths: Paths, format: Format) -> Outcome {
    let began = Instant::now();
    let summary = cp::check(args.files()).or_exit(Code::BadInput)?;
    preflight::check(&paths.bpffs).or_exit(Code::NotSupported)?;
    let cgroup2 = cgroup::find_cgroup2().or_exit(Code::NotSupported)?;
    let config = args.config(paths, format, cgroup2);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let story = Story::new(&config, &summary, began);
    let end = runtime.block_on(serve(config, story));
    // What is still running was asked to end and did not: the process ends without it.
    runtime.shutdown_background();
    match end? {
        End::InOrder => Ok(ExitCode::SUCCESS),
        End::AtOnce => Ok(Code::Failed.into()),
    }
}

/// Files that were good when they were checked may have been edited since.
fn refused(error: cp::Error) -> Failure {
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

async fn serve(mut config: Config, story: Story) -> Result<End, Failure> {
    let (trigger, drain) = Drain::pair();
    let ready = Ready::default();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut tasks = Tasks::new(trigger.clone(), drain.clone());
    let plane = ControlPlane::open(config.control_plane, &ready).await.map_err(refused)?;
    config.agent.beside = Some(plane::beside(&plane));
    tasks.spawn("control plane", plane.run(drain.clone()));
    tasks.spawn("agent", agent::run(config.agent, drain.clone(), ready));
    tasks.spawn("start-up story", story.tell(drain.clone()));
    let mut running = pin!(tasks.run());
    loop {
        tokio::select! {
            ended = &mut running => return ended.map(|()| End::InOrder).map_err(|error| plain(error).into()),
            () = signals.next() => {}
        }
        if drain.is_requested() {
            warn!("ended at once: what is attached stays until the next start or `kuma-dns cleanup`");
            return Ok(End::AtOnce);
        }
        info!("ending: names stop first, then connections; a second signal ends it at once");
        trigger.request();
    }
}
