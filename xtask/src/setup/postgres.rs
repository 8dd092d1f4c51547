//! A PostgreSQL server: Debian's, whose programs lie in a directory for each version and not on the path.
//! Called by setup.

use std::path::{Path, PathBuf};

use xtask::find_tool;

use super::{How, Missing};

const VERSIONS: &str = "/usr/lib/postgresql";

/// The server of any version.
fn server() -> Option<PathBuf> {
    let versions = Path::new(VERSIONS).read_dir().into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin/postgres")).find(|file| file.is_file())
}

/// The server and what the tests need beside it.
pub(super) fn missing() -> Vec<Missing> {
    let wanted = [
        ("postgres", server(), "postgresql", "replicas of the control plane share it"),
        ("psql", find_tool("psql"), "postgresql", "asks it what replicas have stored"),
        ("openssl", find_tool("openssl"), "openssl", "makes the certificate of the tests' PostgreSQL"),
    ];
    let missing = wanted.into_iter().filter(|(_, file, ..)| file.is_none());
    missing
        .map(|(what, _, package, why)| Missing {
            what: what.to_owned(),
            why,
            how: How::Apt(vec![package.to_owned()]),
        })
        .collect()
}

pub(super) fn describe() -> String {
    server().map_or_else(String::new, |file| file.display().to_string())
}
