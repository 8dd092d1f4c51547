//! A real PostgreSQL of the test's own: its own port, socket and data directory, owned by the user postgres when the test
//! runs as root, which the server refuses to be; in the caller's network namespace or in one of its own. Keeps: ended by its
//! pid. Called by tests of replicas.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use kuma_dns::cp::store::postgres::Settings;
use kuma_dns::model::view::Port;
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::netns::Netns;
use crate::process::Process;
use crate::wait::holds_within;

/// Debian's directory of versions; their programs are not on the path.
const VERSIONS: &str = "/usr/lib/postgresql";
const OWNER: &str = "postgres";
/// How long a server may take to start, on a busy machine.
const START_SECS: u64 = 60;
/// How long it may take to end.
const END_SECS: u64 = 20;

/// The port in a namespace of its own.
const PORT: u16 = 5432;

/// A running server with an empty database.
pub struct Postgres {
    // Before the directory: the server ends first.
    server: Process,
    place: Place,
    directory: tempfile::TempDir,
}

/// Where a server listens.
struct Place {
    port: u16,
    /// Absent: the caller's own.
    netns: Option<Arc<Netns>>,
}

impl Postgres {
    /// Makes a cluster and starts it. It speaks TLS to those who ask for it, with a certificate for 127.0.0.1.
    ///
    /// # Errors
    /// PostgreSQL is not installed (`cargo xtask setup`), or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Self::start_at(Place { port, netns: None })
    }

    /// The same in a namespace, for everybody in its networks. [`Self::settings`] are for those inside.
    ///
    /// # Errors
    /// As above.
    pub fn start_in(netns: Arc<Netns>) -> anyhow::Result<Self> {
        Self::start_at(Place { port: PORT, netns: Some(netns) })
    }

    fn start_at(place: Place) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        if geteuid().is_root() {
            let owner = owner()?;
            chown(directory.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
        }
        let mut initdb = command(find("initdb")?)?;
        initdb.args([
            "--auth=trust",
            "--no-sync",
            "--no-instructions",
            "--encoding=UTF8",
            "--username=postgres",
        ]);
        run(initdb.arg("--pgdata").arg(directory.path().join("data")))?;
        certify(directory.path())?;
        if place.netns.is_some() {
            let rules = directory.path().join("data/pg_hba.conf");
            let mut rules = std::fs::OpenOptions::new().append(true).open(rules)?;
            rules.write_all(b"host all all samenet trust\n")?;
        }
        let server = serve(directory.path(), &place)?;
        let mut started = Self { server, place, directory };
        started.answers()?;
        Ok(started)
    }

    /// Ends the server, with every connection, and starts it on the same data and port.
    ///
    /// # Errors
    /// It does not end or does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.end()?;
        self.server = serve(self.directory.path(), &self.place)?;
        self.answers()
    }

    /// Who vouches for the server's certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn answers(&mut self) -> anyhow::Result<()> {
        holds_within(START_SECS, || self.server.ended().is_some() || self.sql("SELECT 1").is_ok());
        self.sql("SELECT 1").with_context(|| format!("PostgreSQL said:\n{}", self.server.said())).map(drop)
    }

    /// SIGTERM would wait for every client (pg_ctl(1), smart shutdown).
    fn end(&mut self) -> anyhow::Result<()> {
        self.server.signal(Signal::SIGINT);
        self.server.wait(END_SECS).map(drop)
    }

    /// How the control plane gets there.
    pub fn settings(&self) -> Settings {
        Settings {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: Port::new(self.place.port),
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
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", OWNER, "-d", OWNER]);
        // The Unix socket is there in every namespace.
        psql.arg("-h").arg(self.directory.path()).args(["-p", &self.place.port.to_string()]);
        let asked = psql.args(["-c", statement]).output().context("cannot run psql")?;
        ensure!(asked.status.success(), "psql: {}", String::from_utf8_lossy(&asked.stderr));
        Ok(String::from_utf8(asked.stdout)?.trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // If it does not end, dropping the process says the rest.
        let _ = self.end();
    }
}

fn serve(directory: &Path, place: &Place) -> anyhow::Result<Process> {
    let mut postgres = command(find("postgres")?)?;
    postgres.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
    postgres.args(["-p", &place.port.to_string()]);
    let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
    let listen = if place.netns.is_some() { "*" } else { "127.0.0.1" };
    let settings = [format!("listen_addresses={listen}"), "fsync=off".to_owned(), "ssl=on".to_owned()];
    let files =
        [format!("ssl_cert_file={}", certificate.display()), format!("ssl_key_file={}", key.display())];
    for setting in settings.iter().chain(&files) {
        postgres.arg("-c").arg(setting);
    }
    let log = directory.join("log");
    match &place.netns {
        Some(netns) => netns.run(|| Process::start(postgres, &log)),
        None => Process::start(postgres, &log),
    }
}

/// Makes an authority and a certificate of it.
fn certify(directory: &Path) -> anyhow::Result<()> {
    let make = |name: &str, rest: &[&str]| {
        let mut openssl = command("openssl".into())?;
        openssl.current_dir(directory).args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=kuma-dns test"]);
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]).args(rest);
        run(&mut openssl)
    };
    make("ca", &[])?;
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"];
    make("server", &[&["-CA", "ca.pem", "-CAkey", "ca.key"], &leaf[..]].concat())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let ended = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(
        ended.status.success(),
        "{:?}: {}",
        command.get_program(),
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(())
}

fn owner() -> anyhow::Result<User> {
    User::from_name(OWNER)?.with_context(|| format!("there is no user {OWNER}: run `cargo xtask setup`"))
}

/// A program that is run by the server's owner.
fn command(program: PathBuf) -> anyhow::Result<Command> {
    let mut command = Command::new(program);
    if geteuid().is_root() {
        let owner = owner()?;
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw()).current_dir("/");
    }
    Ok(command)
}

/// A program of the newest version.
fn find(program: &str) -> anyhow::Result<PathBuf> {
    let versions = Path::new(VERSIONS).read_dir().into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(|path| number(path));
    match newest.map(|version| version.join("bin").join(program)) {
        Some(found) if found.exists() => Ok(found),
        _ => bail!("no {program} below {VERSIONS}: run `cargo xtask setup`"),
    }
}
