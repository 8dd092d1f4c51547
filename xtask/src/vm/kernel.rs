//! Debian's own kernels: finds the newest of a line, fetches it with its modules once, keeps it under target/vm.
//! Called by vmtest.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use xtask::{read, target, tool};

use super::tree::Tree;

/// Lists of packages older than this are fetched again.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The flavour for virtual machines: small, with everything that we need built in or as a module.
const FLAVOUR: &str = "-cloud-amd64";

/// A line of kernels of which the newest is wanted.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    /// Where it is looked for; a suite that the mirror lacks is left out as long as one remains.
    pub(crate) suites: &'static [&'static str],
    /// The beginning of its version.
    pub(crate) version: &'static str,
}

/// A kernel on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// The folder that holds `lib/modules/<release>`.
    pub(crate) folder: PathBuf,
}

/// Finds the newest kernel of a line and fetches it unless it is here.
pub(crate) fn fetch(line: &Line) -> Result<Kernel> {
    let trees = line.suites.iter().map(|suite| open(suite)).collect::<Vec<_>>();
    let mut best: Option<(Vec<u64>, String, &Tree)> = None;
    for tree in trees.iter().flatten() {
        for package in tree.names(&format!("linux-image-{}", line.version))? {
            let Some(release) = release(&package) else { continue };
            let key = version_key(release);
            if best.as_ref().is_none_or(|(other, ..)| key > *other) {
                best = Some((key, package, tree));
            }
        }
    }
    let (_, package, tree) = best.with_context(|| {
        let reasons: Vec<String> =
            trees.iter().filter_map(|tree| tree.as_ref().err()).map(|e| format!("{e:#}")).collect();
        format!("no {}* in {}. {}", line.version, line.suites.join(", "), reasons.join("; "))
    })?;
    unpack(tree, &package)
}

fn folder() -> PathBuf {
    target().join("vm")
}

fn open(suite: &str) -> Result<Tree> {
    let place = folder().join("apt").join(suite);
    let tree = Tree::open(&place, &[suite])?;
    let stamp = place.join("updated");
    let age = stamp.metadata().and_then(|data| data.modified()).ok();
    let age = age.and_then(|time| SystemTime::now().duration_since(time).ok());
    if age.is_none_or(|age| age > LISTS_AGE_MAX) {
        tree.update().with_context(|| format!("cannot read the suite {suite}"))?;
        std::fs::write(&stamp, "").context("cannot write the time stamp")?;
    }
    Ok(tree)
}

/// `linux-image-5.10.0-46-cloud-amd64` is a kernel; meta packages, symbols and other releases' backports are not.
fn release(package: &str) -> Option<&str> {
    let release = package.strip_prefix("linux-image-")?;
    let version = release.strip_suffix(FLAVOUR)?;
    let is_version = version.starts_with(|c: char| c.is_ascii_digit());
    (is_version && !version.contains("deb1") || version.contains("+deb")).then_some(release)
}

/// The numbers of a version, to compare by.
fn version_key(release: &str) -> Vec<u64> {
    let numbers = release.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    numbers.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

/// Fetches a kernel package and those that its files are in: since 7.x `linux-image-*` is a shell around
/// `linux-binary-*` and `linux-modules-*`.
fn unpack(tree: &Tree, package: &str) -> Result<Kernel> {
    let release = package.trim_start_matches("linux-image-").to_owned();
    let place = folder().join("kernels").join(&release);
    if let Some(kernel) = find(&place, &release) {
        return Ok(kernel);
    }
    eprintln!("fetching {package}");
    let record = tree.show(package)?;
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let parts = depends.split(", ").filter_map(|part| part.split([' ', '|']).next());
    let parts = parts.filter(|part| {
        (part.starts_with("linux-binary-") || part.starts_with("linux-modules-")) && part.contains(&release)
    });
    let fresh = folder().join("kernels").join(format!("{release}.new"));
    let _ = std::fs::remove_dir_all(&fresh);
    for package in [package].into_iter().chain(parts) {
        tree.unpack(package, &fresh)?;
    }
    merge_usr(&fresh)?;
    // Captured, because it warns of lists that it does not need here.
    read(tool("depmod").arg("-b").arg(&fresh).arg(&release))?;
    let _ = std::fs::remove_dir_all(&place);
    std::fs::rename(&fresh, &place).with_context(|| format!("cannot keep {}", place.display()))?;
    find(&place, &release).with_context(|| format!("{package} holds no kernel image"))
}

/// Newer packages keep modules under usr/lib; depmod and modprobe look under lib.
fn merge_usr(folder: &Path) -> Result<()> {
    let (old, new) = (folder.join("lib"), folder.join("usr/lib"));
    if !old.exists() && new.exists() {
        std::os::unix::fs::symlink("usr/lib", &old).context("cannot link lib to usr/lib")?;
    }
    Ok(())
}

fn find(folder: &Path, release: &str) -> Option<Kernel> {
    let images = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
    let image = images.iter().map(|image| folder.join(image)).find(|image| image.is_file())?;
    let modules = folder.join("lib/modules").join(release).join("modules.dep");
    let kernel = Kernel { release: release.to_owned(), image, folder: folder.to_owned() };
    modules.is_file().then_some(kernel)
}

impl Kernel {
    /// The files of these modules and of those that they need, in the order in which they load.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = Vec::new();
        for name in names {
            let mut command = tool("modprobe");
            command.args(["--show-depends", "-S", &self.release, "-d"]).arg(&self.folder).arg(name);
            let lines = read(&mut command)?;
            let inserts = lines.lines().filter_map(|line| line.strip_prefix("insmod "));
            for file in inserts.filter_map(|rest| rest.split_whitespace().next()).map(PathBuf::from) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernels_of_the_release_itself_count() {
        assert_eq!(release("linux-image-5.10.0-46-cloud-amd64"), Some("5.10.0-46-cloud-amd64"));
        assert_eq!(release("linux-image-7.2.13+deb14-cloud-amd64"), Some("7.2.13+deb14-cloud-amd64"));
        assert_eq!(release("linux-image-7.3-cloud-amd64"), Some("7.3-cloud-amd64"));
        for other in ["linux-image-cloud-amd64", "linux-image-7.3-cloud-amd64-dbg", "linux-image-7.3-amd64"] {
            assert_eq!(release(other), None, "{other}");
        }
        assert_eq!(release("linux-image-6.1.0-0.deb11.50-cloud-amd64"), None);
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(version_key("5.10.0-46-cloud-amd64") > version_key("5.10.0-9-cloud-amd64"));
        assert!(version_key("7.3-cloud-amd64") > version_key("7.2.13+deb14-cloud-amd64"));
    }
}
