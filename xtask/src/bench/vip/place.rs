//! Where a process of the benchmark runs: its network namespace, its cgroup, its CPU and scheduling class. Keeps: the
//! placing is done by util-linux before the program starts, so that it costs nothing while it is measured; cgroups of
//! ours are removed. Called by world and routes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xtask::{ending_with_us, with_our_path};

/// Above every ordinary process, below the kernel's own threads.
const PRIORITY: &str = "10";

/// The beginning of our cgroup's name; our process id follows.
const NAME: &str = "kuma-dns-bench-";

/// What lies in it.
const PARTS: [&str; 3] = ["plain", "workloads", "proxy"];

/// How long a cgroup may take to notice that its last process has gone.
const EMPTYING: Duration = Duration::from_secs(5);

/// The CPU that client and server share.
pub(super) struct Cpu {
    pub(super) number: u32,
    fifo: bool,
}

impl Cpu {
    /// The last CPU that we may use: interrupts tend to go to the first.
    pub(super) fn choose() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").context("cannot read our status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let last = list.and_then(|list| list.trim().rsplit([',', '-']).next()?.parse().ok());
        let number = last.context("no Cpus_allowed_list in our status")?;
        let mut command = Command::new("chrt");
        command.args(["--fifo", PRIORITY, "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        let fifo = command.status().is_ok_and(|status| status.success());
        Ok(Self { number, fifo })
    }

    /// In words, for the report.
    pub(super) fn class(&self) -> &'static str {
        if self.fifo { "SCHED_FIFO" } else { "SCHED_OTHER (SCHED_FIFO is not permitted here)" }
    }
}

/// A command inside a network namespace, for setting it up.
pub(super) fn inside(netns: &Path, program: &str) -> Command {
    let mut command = ending_with_us("nsenter");
    with_our_path(&mut command);
    command.arg(format!("--net={}", netns.display())).arg("--").arg(program);
    command
}

/// A command in its place. The shell joins the cgroup, then becomes the program.
pub(super) fn placed(netns: &Path, cgroup: &Path, cpu: &Cpu, program: &Path) -> Command {
    let mut command = inside(netns, "taskset");
    command.args(["--cpu-list", &cpu.number.to_string()]);
    if cpu.fifo {
        command.args(["chrt", "--fifo", PRIORITY]);
    }
    command.args(["sh", "-c", "echo 0 >\"$0\" && exec \"$@\""]).arg(cgroup.join("cgroup.procs")).arg(program);
    command
}

/// The cgroups of one run.
pub(super) struct Cgroups {
    top: PathBuf,
    /// Everything that our hooks must not see.
    pub(super) plain: PathBuf,
    /// Clients whose connections are redirected.
    pub(super) workloads: PathBuf,
    /// What receives them.
    pub(super) proxy: PathBuf,
    removed: bool,
}

impl Cgroups {
    pub(super) fn make() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read our mounts")?;
        let root = cgroup2(&mounts).context("no cgroup v2 hierarchy is mounted")?;
        remove_leftovers(&root);
        let top = root.join(format!("{NAME}{}", std::process::id()));
        let [plain, workloads, proxy] = PARTS.map(|name| top.join(name));
        let cgroups = Self { top, plain, workloads, proxy, removed: false };
        for folder in cgroups.folders() {
            std::fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(cgroups)
    }

    fn folders(&self) -> [&PathBuf; 4] {
        [&self.top, &self.plain, &self.workloads, &self.proxy]
    }

    /// Removes them; their processes have ended.
    pub(super) fn remove(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        self.removed = true;
        let end = Instant::now() + EMPTYING;
        for folder in self.folders().into_iter().rev() {
            while let Err(error) = std::fs::remove_dir(folder) {
                if !folder.exists() {
                    break;
                }
                if Instant::now() > end {
                    bail!("cannot remove {}: {error}", folder.display());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.take_away()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Takes away what a killed run left: cgroups whose number is no process any more. Those that are not empty stay.
fn remove_leftovers(root: &Path) {
    for entry in root.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix(NAME)).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            for inner in PARTS {
                let _ = std::fs::remove_dir(entry.path().join(inner));
            }
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// The mount point of the cgroup v2 hierarchy, from the text of mountinfo.
fn cgroup2(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_hierarchy_is_found_beside_v1() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2("30 24 0:26 / / rw - ext4 /dev/sda rw\n"), None);
    }
}
