//! A real PostgreSQL of the test's own: its own port, socket and data directory, owned by the user postgres when the test
//! runs as root, which the server refuses to be. Keeps: ended by its pid. Called by tests of replicas.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use kuma_dns::cp::store::postgres::Settings;
use kuma_dns::model::view::Port;
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::process::Process;
use crate::wait::holds_within;

/// Debian's directory of versions; their programs are not on the path.
const VERSIONS: &str = "/usr/lib/postgresql";
const OWNER: &str = "postgres";
/// How long a server may take to start, on a busy machine.
const START_SECS: u64 = 60;
/// How long it may take to end.
const END_SECS: u64 = 20;

/// A running server with an empty database.
pub struct Postgres {
    // Before the directory: the server ends first.
    server: Process,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// PostgreSQL is not installed (`cargo xtask setup`), or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        if geteuid().is_root() {
            let owner = owner()?;
            chown(directory.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
        }
        let (data, log) = (directory.path().join("data"), directory.path().join("log"));
        let mut initdb = command("initdb")?;
        initdb.args([
            "--auth=trust",
            "--no-sync",
            "--no-instructions",
            "--encoding=UTF8",
            "--username=postgres",
        ]);
        let made = initdb.arg("--pgdata").arg(&data).output().context("cannot run initdb")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut postgres = command("postgres")?;
        postgres.arg("-D").arg(&data).arg("-k").arg(directory.path()).args(["-p", &port.to_string()]);
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        let server = Process::start(postgres, &log)?;
        let mut started = Self { server, port, _directory: directory };
        holds_within(START_SECS, || started.server.ended().is_some() || started.sql("SELECT 1").is_ok());
        started.sql("SELECT 1").with_context(|| format!("PostgreSQL said:\n{}", started.server.said()))?;
        Ok(started)
    }

    /// How the control plane gets there.
    pub fn settings(&self) -> Settings {
        Settings {
            host: "127.0.0.1".into(),
            port: Port::new(self.port),
            user: OWNER.into(),
            password: String::new(),
            db_name: OWNER.into(),
            ..Settings::default()
        }
    }

    /// Runs a statement by psql, apart from everything that is tested; returns its lines.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn sql(&self, statement: &str) -> anyhow::Result<String> {
        let mut psql = Command::new("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            OWNER,
            "-d",
            OWNER,
        ]);
        let asked =
            psql.args(["-p", &self.port.to_string(), "-c", statement]).output().context("cannot run psql")?;
        ensure!(asked.status.success(), "psql: {}", String::from_utf8_lossy(&asked.stderr));
        Ok(String::from_utf8(asked.stdout)?.trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGTERM would wait for every client (pg_ctl(1), smart shutdown).
        self.server.signal(Signal::SIGINT);
        let _ = self.server.wait(END_SECS);
    }
}

fn owner() -> anyhow::Result<User> {
    User::from_name(OWNER)?.with_context(|| format!("there is no user {OWNER}: run `cargo xtask setup`"))
}

/// A program of the server's, run by somebody who is not root.
fn command(program: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(find(program)?);
    if geteuid().is_root() {
        let owner = owner()?;
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw()).current_dir("/");
    }
    Ok(command)
}

/// The newest version's.
fn find(program: &str) -> anyhow::Result<PathBuf> {
    let versions = Path::new(VERSIONS).read_dir().into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(|path| number(path));
    match newest.map(|version| version.join("bin").join(program)) {
        Some(found) if found.exists() => Ok(found),
        _ => bail!("no {program} below {VERSIONS}: run `cargo xtask setup`"),
    }
}
