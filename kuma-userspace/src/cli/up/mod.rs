//! `kuma-dns up`: a control plane and an agent in one process, on services from YAML files. Keeps: input and machine are
//! checked before anything is started; one signal ends it in order, a second one at once; who waits is told for what.

mod args;
mod plane;

pub(super) use args::Args;

use std::time::Instant;

use super::logs::Format;
use super::outcome::{Code, Failure, OrExit, Outcome};
use super::paths::Paths;
use super::service::{self, End, LastWords, Service};
use super::story::Story;
use crate::agent;
use crate::cp::{self, ControlPlane, Summary};
use crate::kernel::{cgroup, preflight};
use crate::rt::Ready;

use args::Config;

const LAST_WORDS: LastWords = LastWords {
    first: "ending: names stop first, then connections; a second signal ends it at once",
    second: "ended at once: what is attached stays until the next start or `kuma-dns cleanup`",
};

pub(super) fn run(args: Args, paths: Paths, format: Format) -> Outcome {
    let began = Instant::now();
    let summary = cp::check(args.files(), None).or_exit(Code::BadInput)?;
    preflight::check(&paths.bpffs).or_exit(Code::NotSupported)?;
    let cgroup2 = cgroup::find_cgroup2().or_exit(Code::NotSupported)?;
    let config = args.config(paths, format, cgroup2, summary.settings.clone());
    let story = Story::new(&config.paths, config.format, began, input(&config, &summary));
    service::block_on(serve(config, story))
}

/// `2 services of 3 endpoints in mesh.yaml`.
fn input(config: &Config, summary: &Summary) -> String {
    if config.control_plane.files.is_empty() {
        return "no file: what was stored before, and what comes over the API".into();
    }
    let files: Vec<String> =
        config.control_plane.files.iter().map(|file| file.display().to_string()).collect();
    format!("{} services of {} endpoints in {}", summary.services, summary.endpoints, files.join(", "))
}

async fn serve(mut config: Config, story: Story) -> Result<End, Failure> {
    let ready = Ready::default();
    let mut service = Service::new()?;
    let drain = service.tasks.drain();
    let plane = ControlPlane::open(config.control_plane, &ready).await.map_err(service::refused)?;
    config.agent.beside = Some(plane::beside(&plane));
    service.tasks.spawn("control plane", plane.run(drain.clone()));
    service.tasks.spawn("agent", agent::run(config.agent, drain.clone(), ready));
    service.tasks.spawn("start-up story", story.tell(drain));
    service.run(LAST_WORDS).await
}
