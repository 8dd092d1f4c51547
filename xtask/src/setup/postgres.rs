//! A PostgreSQL server: Debian's, whose programs lie in a directory for each version and not on the path.
//! Called by setup.

use std::path::{Path, PathBuf};

use xtask::find_tool;

use super::{How, Missing};

const VERSIONS: &str = "/usr/lib/postgresql";
const PACKAGE: &str = "postgresql";

/// The server of any version.
fn server() -> Option<PathBuf> {
    let versions = Path::new(VERSIONS).read_dir().into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin/postgres")).find(|file| file.is_file())
}

/// The server, and the client that asks it apart from what is tested.
pub(super) fn missing() -> Vec<Missing> {
    let found = [("postgres", server()), ("psql", find_tool("psql"))];
    let missing = found.into_iter().filter(|(_, file)| file.is_none());
    missing
        .map(|(what, _)| Missing {
            what: what.to_owned(),
            why: "replicas of the control plane share it",
            how: How::Apt(vec![PACKAGE.to_owned()]),
        })
        .collect()
}

pub(super) fn describe() -> String {
    server().map_or_else(String::new, |file| file.display().to_string())
}
