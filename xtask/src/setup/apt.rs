//! Debian's package tool: which version would come, and installing. Keeps: the machine's own sources are read and never
//! edited; lists are fetched at most once per run; nothing installed is ever removed. Called by setup and vm.

use std::cell::Cell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use xtask::{exec, find_tool, is_root, read, target};

use super::super::vm::tree::{self, Tree};

/// Where apt keeps the lists of packages.
const LISTS: &str = "/var/lib/apt/lists";

/// Lists older than this are fetched again before something is installed from them.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The package tool of this machine, as far as we may use it.
pub(crate) struct Apt {
    hindrance: Option<String>,
    updated: Cell<bool>,
}

impl Apt {
    /// Looks whether packages can be installed here.
    pub(crate) fn detect() -> Self {
        let hindrance = if find_tool("apt-get").is_none() {
            Some("this is not Debian (no apt-get)".to_owned())
        } else if !is_root() {
            Some("only root can install packages".to_owned())
        } else {
            None
        };
        Self { hindrance, updated: Cell::new(false) }
    }

    /// Why packages cannot be installed here, if so.
    pub(crate) fn hindrance(&self) -> Option<&str> {
        self.hindrance.as_deref()
    }

    /// The version of a package that would be installed. None: these lists do not have it.
    pub(crate) fn candidate(&self, package: &str) -> Result<Option<String>> {
        if self.hindrance.is_none() && newest_list().is_none() {
            self.update()?;
        }
        if find_tool("apt-cache").is_none() {
            return Ok(None);
        }
        let policy = read(Command::new("apt-cache").args(["policy", package]))?;
        let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(line.filter(|version| *version != "(none)").map(str::to_owned))
    }

    /// Installs packages and what they depend on.
    pub(crate) fn install(&self, packages: &[String]) -> Result<()> {
        if let Some(hindrance) = &self.hindrance {
            bail!("{hindrance}; install {}", packages.join(" "));
        }
        let fresh = newest_list().is_some_and(|age| age < LISTS_AGE_MAX);
        if !fresh {
            self.update()?;
        }
        match plan(&[], packages) {
            Ok(Plan::Clean) => exec(apt_get().arg("install").args(packages)),
            Ok(Plan::Removes(others)) => self.install_from_backports(packages, &others),
            Err(error) if self.updated.get() => Err(error),
            Err(_) => {
                self.update()?;
                exec(apt_get().arg("install").args(packages))
            }
        }
    }

    fn update(&self) -> Result<()> {
        if self.updated.replace(true) {
            return Ok(());
        }
        exec(Command::new("apt-get").args(["-q", "update"]).stdout(Stdio::null()))
    }

    /// A machine that took one package from backports needs its siblings from there too, or loses it. The sources file
    /// for that is ours and lies under target.
    fn install_from_backports(&self, packages: &[String], others: &[String]) -> Result<()> {
        let codename = tree::codename()?;
        let suite = format!("{codename}-backports");
        eprintln!("  the packages of {codename} would remove {}: taking {suite}", others.join(" "));
        let own = tree::own_suites(&codename);
        let suites: Vec<&str> = own.iter().map(String::as_str).chain([suite.as_str()]).collect();
        let tree = Tree::open(&target().join("vm/apt-backports"), &suites)?;
        tree.update()?;
        let mut options = tree.sources();
        options.extend(["-t".to_owned(), suite]);
        match plan(&options, packages)? {
            Plan::Clean => exec(apt_get().args(&options).arg("install").args(packages)),
            Plan::Removes(others) => {
                bail!("installing {} would remove {}", packages.join(" "), others.join(" "))
            }
        }
    }
}

/// What apt would do besides installing.
enum Plan {
    Clean,
    Removes(Vec<String>),
}

fn plan(options: &[String], packages: &[String]) -> Result<Plan> {
    let mut command = apt_get();
    command.args(options).args(["--simulate", "install"]).args(packages);
    let text = read(&mut command)?;
    let removals = text.lines().filter_map(|line| line.strip_prefix("Remv "));
    let removals: Vec<String> =
        removals.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    Ok(if removals.is_empty() { Plan::Clean } else { Plan::Removes(removals) })
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-q", "-y", "--no-install-recommends"]);
    command
}

/// The age of the newest list; None when there is none, as in fresh images.
fn newest_list() -> Option<Duration> {
    let entries = std::fs::read_dir(Path::new(LISTS)).context("lists").ok()?;
    let lists = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().contains("_Packages")
    });
    let newest = lists.filter_map(|list| list.metadata().ok()?.modified().ok()).max()?;
    SystemTime::now().duration_since(newest).ok().or(Some(Duration::ZERO))
}
