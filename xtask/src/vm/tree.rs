//! A private apt tree: reads any suite of the machine's own mirror without touching the machine's apt.
//! Keeps: the mirror comes from the machine's sources files, never from us. Called by vm and by setup's apt.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::{exec, read};

/// Where Debian keeps its keys.
const KEYRINGS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A folder with its own sources, lists and cache.
pub(crate) struct Tree {
    folder: PathBuf,
}

impl Tree {
    /// Writes the sources of these suites.
    pub(crate) fn open(folder: &Path, suites: &[&str]) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(sub);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {path:?}"))?;
        }
        let mirrors = Mirrors::of_this_machine()?;
        let lines = suites.iter().map(|suite| mirrors.line(suite)).collect::<Result<String>>()?;
        std::fs::write(folder.join("sources.list"), lines).context("cannot write sources.list")?;
        std::fs::write(folder.join("status"), "").context("cannot write an empty status")?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The options that make apt use these sources with the machine's own status.
    pub(crate) fn sources(&self) -> Vec<String> {
        let folder = self.folder.display();
        vec![
            format!("-oDir::Etc::SourceList={folder}/sources.list"),
            "-oDir::Etc::SourceParts=/dev/null".to_owned(),
            format!("-oDir::State::Lists={folder}/lists"),
            format!("-oDir::Cache={folder}/cache"),
            "-oAPT::Sandbox::User=root".to_owned(),
        ]
    }

    /// The same with nothing installed, so that any package of any suite can be looked at.
    fn options(&self) -> Vec<String> {
        let status = format!("-oDir::State::Status={}/status", self.folder.display());
        self.sources().into_iter().chain([status]).collect()
    }

    /// Fetches the lists.
    pub(crate) fn update(&self) -> Result<()> {
        exec(Command::new("apt-get").args(self.options()).args(["-q", "-q", "update"]))
    }

    /// Every package name with this beginning.
    pub(crate) fn names(&self, beginning: &str) -> Result<Vec<String>> {
        let mut command = Command::new("apt-cache");
        let names = read(command.args(self.options()).args(["pkgnames", beginning]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The record of a package: `Depends`, `Version` and so on.
    pub(crate) fn show(&self, package: &str) -> Result<String> {
        let mut command = Command::new("apt-cache");
        read(command.args(self.options()).args(["show", "--no-all-versions", package]))
    }

    /// Downloads a package, without what it depends on, and unpacks it into `into`.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let place = tempfile::tempdir_in(&self.folder).context("cannot make a folder")?;
        let mut command = Command::new("apt-get");
        command.args(self.options()).args(["-q", "-q", "download", package]);
        exec(command.current_dir(place.path()))?;
        let mut entries = place.path().read_dir().context("cannot list the download")?;
        let file = entries.next().context("apt-get download brought no file")??.path();
        std::fs::create_dir_all(into).with_context(|| format!("cannot make {into:?}"))?;
        exec(Command::new("dpkg-deb").arg("-x").arg(file).arg(into))
    }
}

/// Where this machine gets Debian from.
#[derive(PartialEq, Eq, Debug)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let parts = Path::new("/etc/apt/sources.list.d");
        let entries = parts.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let mut text = std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        for file in entries {
            let extension = file.extension().and_then(|e| e.to_str());
            if matches!(extension, Some("list" | "sources")) {
                text.push_str("\n\n");
                text.push_str(&std::fs::read_to_string(&file).unwrap_or_default());
            }
        }
        Self::parse(&text, &codename()?).context("no mirror of Debian in this machine's apt sources")
    }

    /// Reads both forms of sources files: `deb URI SUITE …` lines and `URIs:`/`Suites:` stanzas.
    fn parse(text: &str, codename: &str) -> Option<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let (mut uri, mut suites) = (String::new(), String::new());
        for line in text.lines().chain([""]) {
            let line = line.trim();
            if let Some(rest) = line.strip_prefix("deb ") {
                let rest = rest.split_once("] ").map_or(rest, |(_, rest)| rest);
                let mut words = rest.split_whitespace().map(str::to_owned);
                pairs.extend(words.next().zip(words.next()));
            } else if let Some(rest) = line.strip_prefix("URIs:") {
                uri = rest.split_whitespace().next().unwrap_or_default().to_owned();
            } else if let Some(rest) = line.strip_prefix("Suites:") {
                suites = rest.to_owned();
            } else if line.is_empty() && !uri.is_empty() {
                pairs.extend(suites.split_whitespace().map(|suite| (uri.clone(), suite.to_owned())));
                uri.clear();
            }
        }
        let of = |suite: &str| pairs.iter().find(|(_, s)| s == suite).map(|(uri, _)| uri.clone());
        let security = of(&format!("{codename}-security"));
        Some(Self { main: of(codename)?, security })
    }

    fn line(&self, suite: &str) -> Result<String> {
        let uri = match (suite.ends_with("-security"), &self.security) {
            (true, Some(security)) => security,
            (true, None) => bail!("this machine's apt sources name no security mirror"),
            (false, _) => &self.main,
        };
        Ok(format!("deb [signed-by={KEYRINGS}] {uri} {suite} main\n"))
    }
}

/// The name of this machine's Debian release.
pub(crate) fn codename() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("cannot read os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map(|name| name.trim_matches('"').to_owned()).context("os-release names no VERSION_CODENAME")
}

/// The suites that a release consists of.
pub(crate) fn own_suites(codename: &str) -> Vec<String> {
    ["", "-updates", "-security"].map(|suffix| format!("{codename}{suffix}")).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_from_both_forms_of_sources() {
        let want = Mirrors { main: "http://m/debian".into(), security: Some("http://m/sec".into()) };
        let stanzas = "Types: deb\n# a comment\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\n\
                       URIs: http://m/sec\nSuites: bookworm-security\n";
        assert_eq!(Mirrors::parse(stanzas, "bookworm").unwrap(), want);
        let lines = "deb [arch=amd64 signed-by=/k] http://m/debian bookworm main\n\
                     deb http://m/sec bookworm-security main\n";
        assert_eq!(Mirrors::parse(lines, "bookworm").unwrap(), want);
        assert_eq!(Mirrors::parse(lines, "trixie"), None);
    }

    #[test]
    fn a_security_suite_comes_from_the_security_mirror() {
        let mirrors = Mirrors { main: "http://m/debian".into(), security: Some("http://m/sec".into()) };
        assert!(mirrors.line("bullseye-security").unwrap().contains("http://m/sec bullseye-security"));
        assert!(mirrors.line("sid").unwrap().contains("http://m/debian sid main"));
    }
}
