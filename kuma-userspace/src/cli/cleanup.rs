//! `kuma-dns cleanup`: removes every trace of an instance from this machine: processes of ours, pins, links, cgroups, socket.
//! Keeps: never under a running agent; a stranger in our cgroups is moved out and named, not ended; twice is once; what
//! cannot be removed does not stop the rest.

mod processes;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};

use crate::kernel::{Kernel, KernelError, cgroup};
use crate::model::instance::Instance;

use super::outcome::{Code, Failure, Outcome};
use super::paths::Paths;
use super::{socket, table};

/// Printed below `kuma-dns cleanup --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns cleanup                     the instance `default`
  kuma-dns cleanup --instance blue
  kuma-dns cleanup --all --purge       every instance, and which name had which VIP too

State in --data is kept without --purge: the next start gives every name its old VIP.

Exit codes: 0 nothing is left, 1 something could not be removed or an agent is running, 4 a privilege is missing";

/// Removes every pin, program, cgroup and socket of ours; harmless when there is none.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Every instance that has left something on this machine.
    #[arg(long)]
    all: bool,
    /// Remove the state in --data too: names get new VIPs.
    #[arg(long)]
    purge: bool,
    /// End a running agent first (SIGTERM, then SIGKILL); without it, a running agent is left alone.
    #[arg(long)]
    force: bool,
}

/// What `cleanup` needs to know.
pub(super) struct Config {
    paths: Paths,
    all: bool,
    purge: bool,
    force: bool,
}

impl Args {
    pub(super) fn config(self, paths: Paths) -> Config {
        Config { paths, all: self.all, purge: self.purge, force: self.force }
    }
}

pub(super) fn run(config: &Config) -> Outcome {
    let cgroup2 = cgroup::find_cgroup2().ok();
    let mut failed = Vec::new();
    for instance in instances(config, cgroup2.as_deref()) {
        let places = Places::of(&instance, config, cgroup2.as_deref());
        let mut done = Vec::new();
        let undone = clean(&places, config, &mut done);
        if done.is_empty() && undone.is_empty() {
            done.push("nothing to remove".into());
        }
        failed.extend(undone);
        if places.data.exists() {
            let data = places.data.display();
            done.push(format!("kept {data}: which name has which VIP (--purge removes it)"));
        }
        if !done.is_empty() {
            table::print(&format!("instance {instance}:\n  {}", done.join("\n  ")));
        }
    }
    conclude(failed)
}

/// One failure speaks for itself; several are listed.
fn conclude(mut failed: Vec<Failure>) -> Outcome {
    if failed.len() <= 1 {
        return failed.pop().map_or(Ok(ExitCode::SUCCESS), Err);
    }
    let denied = failed.iter().any(|failure| failure.code() == Code::NotSupported);
    let text: Vec<String> = failed.iter().map(|failure| format!("{:#}", failure.error())).collect();
    let all = anyhow!("{} things could not be removed:\n{}", failed.len(), text.join("\n"));
    Err(Failure::new(if denied { Code::NotSupported } else { Code::Failed }, all))
}

/// Where one instance may have left something.
struct Places {
    instance: Instance,
    socket: PathBuf,
    run: PathBuf,
    data: PathBuf,
    view: PathBuf,
    /// None on a machine without cgroup v2: then there is none of ours.
    cgroup: Option<PathBuf>,
    proxy_cgroup: Option<PathBuf>,
}

impl Places {
    fn of(instance: &Instance, config: &Config, cgroup2: Option<&Path>) -> Self {
        let socket = instance.socket(&config.paths.run_dir);
        Self {
            run: socket.parent().unwrap_or(&socket).to_owned(),
            socket,
            data: instance.data(&config.paths.data_dir),
            view: instance.view(&config.paths.data_dir),
            cgroup: cgroup2.map(|root| instance.cgroup(root)),
            proxy_cgroup: cgroup2.map(|root| instance.proxy_cgroup(root)),
            instance: instance.clone(),
        }
    }
}

/// The one that was named, or everyone who left something.
fn instances(config: &Config, cgroup2: Option<&Path>) -> BTreeSet<Instance> {
    if !config.all {
        return BTreeSet::from([config.paths.instance.clone()]);
    }
    let example = &config.paths.instance;
    let mut shelves = vec![example.pins(&config.paths.bpffs), example.socket(&config.paths.run_dir)];
    shelves[1].pop();
    shelves.extend(cgroup2.map(|root| example.cgroup(root)));
    if config.purge {
        shelves.push(example.data(&config.paths.data_dir));
    }
    let entries = shelves.iter().filter_map(|own| fs::read_dir(own.parent()?).ok()).flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Removes all of one instance; says what it did, and returns what it could not do.
fn clean(places: &Places, config: &Config, done: &mut Vec<String>) -> Vec<Failure> {
    if let Err(failure) = end_agent(places, config, done) {
        return vec![failure];
    }
    // First, because the kernel room knows who holds the instance, also one that has its socket elsewhere.
    let datapath = remove_datapath(places, config);
    if let Err(error) = &datapath
        && matches!(error.downcast_ref(), Some(KernelError::Locked { .. }))
    {
        return datapath.err().map(classify).into_iter().collect();
    }
    let mut failed = Vec::new();
    let mut attempt = |result: anyhow::Result<Vec<String>>| match result {
        Ok(lines) => done.extend(lines),
        Err(error) => failed.push(classify(error)),
    };
    attempt(datapath);
    attempt(end_envoy(places));
    attempt(remove_cgroups(places));
    attempt(remove_folder(&places.run));
    attempt(forget_view(places));
    if config.purge {
        attempt(remove_folder(&places.data));
    }
    failed
}

/// A running agent is refused, or ended first.
fn end_agent(places: &Places, config: &Config, done: &mut Vec<String>) -> Result<(), Failure> {
    let Some(pid) = socket::running_pid(&places.socket)? else { return Ok(()) };
    if !config.force {
        let running = anyhow!(
            "the agent of instance {} is running (pid {pid}): end it first with `kill {pid}`, or let --force do that",
            places.instance
        );
        return Err(Failure::new(Code::Failed, running));
    }
    processes::end(pid).context("cannot end the running agent")?;
    done.push(format!("ended the agent (pid {pid})"));
    Ok(())
}

/// An Envoy that `up` started and could not end any more. Its command line names a file in our run folder.
fn end_envoy(places: &Places) -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    let Some(cgroup) = &places.proxy_cgroup else { return Ok(done) };
    for pid in processes::members(cgroup) {
        if processes::command_line(pid).is_some_and(|line| line.contains(&*places.run.to_string_lossy())) {
            processes::end(pid)
                .with_context(|| format!("cannot end the Envoy that was left over (pid {pid})"))?;
            done.push(format!("ended the Envoy that was left over (pid {pid})"));
        }
    }
    Ok(done)
}

fn remove_datapath(places: &Places, config: &Config) -> anyhow::Result<Vec<String>> {
    let pins = places.instance.pins(&config.paths.bpffs);
    let there = pins.exists();
    Kernel::remove(&places.instance, &config.paths.bpffs)?;
    remove_if_empty(pins.parent());
    Ok(there
        .then(|| format!("detached the programs and removed their pins in {}", pins.display()))
        .into_iter()
        .collect())
}

fn remove_cgroups(places: &Places) -> anyhow::Result<Vec<String>> {
    let Some(cgroup) = places.cgroup.as_deref().filter(|cgroup| cgroup.exists()) else {
        return Ok(Vec::new());
    };
    let mut done: Vec<String> = processes::members_below(cgroup)
        .into_iter()
        .map(|pid| format!("moved process {pid} ({}) out of our cgroup; it goes on", processes::name(pid)))
        .collect();
    cgroup::remove(cgroup)?;
    remove_if_empty(cgroup.parent());
    done.push(format!("removed cgroup {}", cgroup.display()));
    Ok(done)
}

fn remove_folder(folder: &Path) -> anyhow::Result<Vec<String>> {
    match fs::remove_dir_all(folder) {
        Ok(()) => {
            remove_if_empty(folder.parent());
            Ok(vec![format!("removed {}", folder.display())])
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(anyhow::Error::new(error).context(format!("cannot remove {}", folder.display()))),
    }
}

/// What the agent wrote down for its next start; the folder too, when a control plane has nothing in it.
fn forget_view(places: &Places) -> anyhow::Result<Vec<String>> {
    match fs::remove_file(&places.view) {
        Ok(()) => {
            // Refused when anything else is in it, which is what the check is.
            let _ = fs::remove_dir(&places.data);
            remove_if_empty(places.data.parent());
            Ok(vec![format!("removed the remembered view {}", places.view.display())])
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => {
            Err(anyhow::Error::new(error).context(format!("cannot remove {}", places.view.display())))
        }
    }
}

/// The folder that all instances share goes with the last of them.
fn remove_if_empty(shared: Option<&Path>) {
    if let Some(shared) = shared.filter(|path| path.ends_with("kuma-dns")) {
        // Refused when others are still inside, which is what the check is.
        let _ = fs::remove_dir(shared);
    }
}

/// A refusal for want of a right has an exit code of its own.
fn classify(error: anyhow::Error) -> Failure {
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == ErrorKind::PermissionDenied)
    };
    let code = if error.chain().any(denied) { Code::NotSupported } else { Code::Failed };
    Failure::new(code, error)
}
