//! Replicas on a real PostgreSQL: compare-and-swap, fencing, and leaders that are killed, paused and cut off while services
//! come and go. The database's own log of every change is judged in the end, not what the replicas say of themselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::audit::{self, Observation};
use harness::documents;
use harness::postgres::Postgres as Server;
use harness::process::Process;
use harness::relay::Relay;
use harness::wait::wait_until;
use kuma_dns::cp::allocator::Changes;
use kuma_dns::cp::record::Record;
use kuma_dns::cp::store::documents::{Documents, Expected};
use kuma_dns::cp::store::postgres::{Settings, Tls, TlsMode};
use kuma_dns::cp::store::{Postgres, Role, Store, StoreError};
use kuma_dns::model::resource::ServiceKey;
use kuma_dns::rt::Drain;
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::runtime::Runtime;

/// How often the leader is killed, paused or cut off.
const ROUNDS: usize = 4;
/// The same under `cargo xtask test replicas --long`, which sets the variable.
const LONG_ROUNDS: usize = 50;
const LONG_ENV: &str = "KUMA_DNS_TEST_LONG";
const REPLICAS: usize = 3;
/// Edits that are waited for in each round.
const EDITS: usize = 3;
/// Services at any time; each edit replaces two.
const SERVICES: usize = 8;
/// Lease (5 s), heartbeat (1 s), and what a busy machine needs.
const FAILOVER_SECS: u64 = 40;
const REST_SECS: u64 = 4;

fn put(service: &str, version: u64, v4: &str) -> Record {
    let mut record = Record::new(ServiceKey::new("default", service));
    record.version = version;
    record.held.v4 = Some(v4.parse().unwrap());
    record
}

fn puts(records: &[Record]) -> Changes {
    Changes { puts: records.to_vec(), deletes: Vec::new() }
}

/// What the records hold, by service.
fn held(store: &mut Postgres) -> BTreeMap<String, (u64, String)> {
    let records = store.load().unwrap().records;
    let entry =
        |record: Record| (record.service.to_string(), (record.version, record.held.v4.unwrap().to_string()));
    records.into_iter().map(entry).collect()
}

#[test]
fn a_batch_on_an_old_version_is_refused_as_a_whole() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let (mut store, _replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    assert_eq!(store.load().unwrap().role, Role::Leader { epoch: 1 });
    store.commit(&puts(&[put("a", 0, "240.0.0.0"), put("b", 0, "240.0.0.1")])).unwrap();
    store.commit(&puts(&[put("a", 1, "240.0.0.2")])).unwrap();
    let refused = store.commit(&puts(&[put("c", 0, "240.0.0.3"), put("a", 1, "240.0.0.4")])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "record of service default/a has version 2, expected 1: somebody else changed it"
    );
    let wanted = [("default/a", (2, "240.0.0.2")), ("default/b", (1, "240.0.0.1"))];
    let wanted = wanted.map(|(key, (version, v4))| (key.to_owned(), (version, v4.to_owned())));
    assert_eq!(held(&mut store), BTreeMap::from(wanted), "nothing of the refused batch");
    let gone = Changes { puts: Vec::new(), deletes: vec![put("a", 2, "240.0.0.2")] };
    store.commit(&gone).unwrap();
    assert_eq!(held(&mut store).len(), 1);
    let again = put("b", 0, "240.0.0.9");
    assert!(
        matches!(store.commit(&puts(&[again])), Err(StoreError::Conflict { found: 1, .. })),
        "there is one"
    );
}

#[test]
fn a_leader_that_did_not_renew_is_refused_once_another_leads() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    // Its task does not run, as if the process were paused.
    let (mut old, _paused) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    old.load().unwrap();
    old.commit(&puts(&[put("a", 0, "240.0.0.0")])).unwrap();
    let (mut new, replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    assert!(matches!(new.load().unwrap().role, Role::Follower { leader } if !leader.is_empty()));
    let refused = new.commit(&puts(&[put("x", 0, "240.0.0.1")])).unwrap_err();
    assert!(matches!(refused, StoreError::Superseded), "a follower stores nothing: {refused}");
    let (trigger, drain) = Drain::pair();
    let running = runtime.spawn(replica.run(drain));
    wait_until(FAILOVER_SECS, "the other leads", || new.load().unwrap().role == Role::Leader { epoch: 2 });
    new.commit(&puts(&[put("b", 0, "240.0.0.1")])).unwrap();
    // The old one decided this before it was paused; no version stands against it, and the address is taken.
    let refused = old.commit(&puts(&[put("c", 0, "240.0.0.1")])).unwrap_err();
    assert!(matches!(refused, StoreError::Superseded), "{refused}");
    assert!(!old.load().unwrap().role.allocates());
    let stored: Vec<String> = held(&mut old).into_keys().collect();
    assert_eq!(stored, ["default/a", "default/b"]);
    trigger.request();
    runtime.block_on(running).unwrap().unwrap();
    let (mut third, _) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    assert_eq!(
        third.load().unwrap().role,
        Role::Leader { epoch: 3 },
        "a graceful end frees the lease at once"
    );
}

#[test]
fn documents_of_one_replica_are_read_by_another_and_a_stale_one_is_refused() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let (one, _replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    let (other, replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    let (one, other) = (one.documents(), other.documents());
    documents::keeps_its_promises(&one, &other);

    let (trigger, drain) = Drain::pair();
    let running = runtime.spawn(replica.run(drain));
    let mut heard = other.news();
    wait_until(FAILOVER_SECS, "the other listens", || heard.has_changed().unwrap());
    heard.mark_unchanged();
    one.write(&[documents::put("heard", "{}", Expected::Any)]).unwrap();
    wait_until(FAILOVER_SECS, "the other hears of a document", || heard.has_changed().unwrap());
    trigger.request();
    runtime.block_on(running).unwrap().unwrap();

    // Whoever was away for too long is told everything: what went meanwhile is not known any more.
    let before = other.read(None).unwrap().revision;
    one.write(&[documents::delete("heard", Expected::Any)]).unwrap();
    server.sql("UPDATE kuma_dns_removed SET at = at - interval '2 hours'").unwrap();
    assert_eq!(documents::summary(&other.read(Some(before)).unwrap()).1, ["heard"]);
    one.write(&[documents::delete("a", Expected::Any)]).unwrap();
    let news = other.read(Some(before)).unwrap();
    assert!(news.whole && !documents::summary(&news).0.contains_key("heard"), "{news:?}");

    server.sql("UPDATE kuma_dns_documents SET document = '\\x00' WHERE key LIKE '%/b'").unwrap();
    for documents in [&other, &one] {
        let news = documents.read(None).unwrap();
        assert!(news.whole && !documents::summary(&news).0.contains_key("b"), "{news:?}");
        let aside: Vec<_> = news.quarantined.iter().map(|one| (&*one.key, &*one.reason)).collect();
        assert_eq!(aside, [("MeshService/default/b", "1 bytes are too few")]);
    }
    let bytes = server.sql("SELECT document FROM kuma_dns_documents_quarantine").unwrap();
    assert_eq!(bytes, "\\x00", "with its bytes");
    one.write(&[documents::put("b", "5", Expected::Absent)]).unwrap();
}

#[test]
fn a_damaged_row_is_set_aside_by_the_leader_and_harms_no_other() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let (mut leader, _replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    let (mut follower, _other) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    leader.load().unwrap();
    leader.commit(&puts(&[put("a", 0, "240.0.0.0"), put("b", 0, "240.0.0.1")])).unwrap();
    server.sql("UPDATE kuma_dns_vips SET record = '\\x00' WHERE key = 'default/a'").unwrap();
    for store in [&mut follower, &mut leader] {
        let loaded = store.load().unwrap();
        assert_eq!(loaded.records.len(), 1);
        let quarantined: Vec<_> =
            loaded.quarantined.iter().map(|record| (&*record.key, &*record.reason)).collect();
        assert_eq!(quarantined, [("default/a", "1 bytes are too few")]);
    }
    assert_eq!(server.sql("SELECT key FROM kuma_dns_vips").unwrap(), "default/b");
    assert_eq!(server.sql("SELECT record FROM kuma_dns_quarantine").unwrap(), "\\x00", "with its bytes");
    leader.commit(&puts(&[put("a", 0, "240.0.0.2")])).unwrap();
}

#[test]
fn a_server_that_is_not_there_and_tables_of_a_newer_version_are_refused_in_words() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let settings = server.settings();
    runtime.block_on(Postgres::connect(&settings)).unwrap();
    let newer = "INSERT INTO kuma_dns_migrations SELECT 99, description, installed_on, success, checksum, execution_time
                 FROM kuma_dns_migrations WHERE version = 1";
    server.sql(newer).unwrap();
    let place = format!("database postgres at 127.0.0.1:{} as user postgres", settings.port.get());
    let refused = runtime.block_on(Postgres::connect(&settings)).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!("PostgreSQL, {place}, has tables of a newer kuma-dns (migration 99): use that version")
    );
    drop(server);
    let refused = runtime.block_on(Postgres::connect(&settings)).unwrap_err().to_string();
    assert!(
        refused.starts_with(&format!("cannot connect to PostgreSQL, {place}: is it running")),
        "{refused}"
    );
}

#[test]
fn tls_is_checked_as_far_as_it_was_asked_for() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let connect = |host: &str, mode, ca| {
        let tls = Tls { mode, ca, certificate: None };
        let settings = Settings { host: host.into(), tls, ..server.settings() };
        let connected = runtime.block_on(Postgres::connect(&settings))?;
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                         WHERE application_name = 'kuma-dns'";
        let encrypted = server.sql(encrypted).unwrap();
        drop(connected);
        Ok::<_, StoreError>(encrypted)
    };
    let ca = || Some(server.authority());
    assert_eq!(connect("127.0.0.1", TlsMode::VerifyFull, ca()).unwrap(), "t");
    assert_eq!(
        connect("localhost", TlsMode::VerifyCa, ca()).unwrap(),
        "t",
        "the certificate is for 127.0.0.1"
    );
    assert_eq!(connect("127.0.0.1", TlsMode::VerifyNone, None).unwrap(), "t");
    let name = connect("localhost", TlsMode::VerifyFull, ca()).unwrap_err();
    assert!(matches!(name, StoreError::Connect { source: Some(_), .. }), "another host: {name}");
    let authority = connect("127.0.0.1", TlsMode::VerifyCa, None).unwrap_err();
    assert!(
        matches!(authority, StoreError::Connect { source: Some(_), .. }),
        "unknown authority: {authority}"
    );
}

/// One line of a replica.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    at_secs: f64,
    replica: Option<Part>,
    vips: BTreeMap<String, Option<std::net::IpAddr>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Part {
    role: String,
}

/// Replicas on one file and one database, and everything that they ever said.
struct Fleet {
    server: Server,
    directory: tempfile::TempDir,
    replicas: Vec<Process>,
    /// What lies between each of them and the database.
    relays: Vec<Relay>,
    logs: Vec<PathBuf>,
}

impl Fleet {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fleet = Self {
            server: Server::start().unwrap(),
            directory,
            replicas: Vec::new(),
            relays: Vec::new(),
            logs: Vec::new(),
        };
        // The tables are there before the trigger is, and the trigger before the first change.
        let runtime = Runtime::new().unwrap();
        let (_store, replica) = runtime.block_on(Postgres::connect(&fleet.server.settings())).unwrap();
        fleet.server.sql(audit::TRIGGER).unwrap();
        let (trigger, drain) = Drain::pair();
        trigger.request();
        runtime.block_on(replica.run(drain)).unwrap();
        fleet
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("mesh.yaml")
    }

    fn add(&mut self) {
        let port = self.server.settings().port.get();
        self.relays.push(Relay::start(([127, 0, 0, 1], port).into()).unwrap());
        let replica = self.spawn(self.replicas.len());
        self.replicas.push(replica);
    }

    /// A process in this place.
    fn spawn(&mut self, index: usize) -> Process {
        let (settings, relay) = (self.server.settings(), self.relays[index].address());
        let log = self.directory.path().join(format!("replica-{}", self.logs.len()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_replica"));
        command.arg(self.file()).args([relay.ip().to_string(), relay.port().to_string()]);
        command.args([&settings.user, &settings.db_name]);
        self.logs.push(log.clone());
        Process::start(command, &log).unwrap()
    }

    /// Changes the services to those of edit `number`.
    fn edit(&self, number: usize) {
        let lines = wanted(number)
            .into_iter()
            .map(|name| format!("- {{service: {name}, endpoints: [\"127.0.0.1:80\"]}}\n"));
        let settings = format!("dnsServer: {{CIDR: 240.0.0.0/27, ttl: 2, rest: {REST_SECS}}}\n");
        let temporary = self.directory.path().join("mesh.new");
        fs::write(&temporary, format!("{settings}services:\n{}", lines.collect::<String>())).unwrap();
        fs::rename(&temporary, self.file()).unwrap();
    }

    /// Waits until these replicas all publish the services of edit `number`, and the same VIPs.
    fn agree(&self, replicas: &[usize], number: usize) {
        let wanted = wanted(number);
        let what = format!("replicas {replicas:?} publish edit {number}");
        wait_until(FAILOVER_SECS, &what, || {
            let last: Vec<_> =
                replicas.iter().map(|index| last(&self.replicas[*index]).map(|line| line.vips)).collect();
            let same = last.windows(2).all(|pair| pair[0] == pair[1]);
            same && last[0].as_ref().is_some_and(|vips| {
                vips.keys().cloned().collect::<BTreeSet<_>>() == wanted && vips.values().all(Option::is_some)
            })
        });
    }

    /// The one that leads among these.
    fn leader(&self, replicas: &[usize]) -> usize {
        let leads = |index: &&usize| {
            let part = last(&self.replicas[**index]).and_then(|line| line.replica);
            part.is_some_and(|part| part.role == "leader")
        };
        wait_until(FAILOVER_SECS, "one replica leads", || replicas.iter().filter(leads).count() == 1);
        *replicas.iter().find(leads).unwrap()
    }

    /// Fails when anything was wrong at any moment; returns what the database saw, and how much was published.
    fn judge(&self) -> (Vec<audit::Change>, usize) {
        let log = self.server.sql(audit::LOG).unwrap();
        let log: Vec<audit::Change> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let seen = self.seen();
        let wrong = audit::judge(&log, &seen, REST_SECS as f64);
        assert!(!log.is_empty() && wrong.is_empty(), "{} changes: {wrong:#?}", log.len());
        assert_eq!(self.server.sql("SELECT count(*) FROM kuma_dns_quarantine").unwrap(), "0");
        (log, seen.len())
    }

    /// Everything that was ever published, by whomever.
    fn seen(&self) -> Vec<Observation> {
        let lines = self.logs.iter().flat_map(|log| lines(log));
        let each = |line: Line| {
            let vips = line.vips.into_iter().filter_map(|(name, vip)| Some((name, vip?)));
            vips.map(move |(name, vip)| Observation {
                key: format!("default/{name}"),
                vip,
                at_secs: line.at_secs,
            })
        };
        lines.flat_map(each).collect()
    }
}

/// What happens to a leader.
#[derive(Clone, Copy)]
enum Blow {
    Kill,
    Pause,
    /// From the database, not from those who ask it.
    Cut,
}

fn wanted(number: usize) -> BTreeSet<String> {
    (2 * number..2 * number + SERVICES).map(|index| format!("service-{index}")).collect()
}

fn lines(log: &Path) -> Vec<Line> {
    let text = fs::read_to_string(log).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn last(replica: &Process) -> Option<Line> {
    replica.said().lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[test]
fn a_database_that_was_restarted_is_used_again() {
    let mut fleet = Fleet::start();
    fleet.edit(0);
    (0..2).for_each(|_| fleet.add());
    fleet.agree(&[0, 1], 0);
    fleet.server.restart().unwrap();
    fleet.edit(1);
    fleet.agree(&[0, 1], 1);
    fleet.judge();
}

#[test]
fn no_vip_is_doubled_changed_or_given_too_early_while_leaders_are_lost() {
    let rounds = if std::env::var_os(LONG_ENV).is_some() { LONG_ROUNDS } else { ROUNDS };
    let mut fleet = Fleet::start();
    let mut number = 0;
    fleet.edit(number);
    (0..REPLICAS).for_each(|_| fleet.add());
    let all: Vec<usize> = (0..REPLICAS).collect();
    fleet.agree(&all, number);
    for round in 0..rounds {
        let leader = fleet.leader(&all);
        let others: Vec<usize> = all.iter().copied().filter(|index| *index != leader).collect();
        for _ in 0..EDITS {
            number += 1;
            fleet.edit(number);
            fleet.agree(&all, number);
        }
        // The blow falls while the leader is about to store this edit.
        number += 1;
        fleet.edit(number);
        let blow = [Blow::Kill, Blow::Pause, Blow::Cut][round % 3];
        match blow {
            Blow::Kill => fleet.replicas[leader].signal(Signal::SIGKILL),
            Blow::Pause => fleet.replicas[leader].signal(Signal::SIGSTOP),
            Blow::Cut => fleet.relays[leader].cut(),
        }
        fleet.agree(&others, number);
        number += 1;
        fleet.edit(number);
        fleet.agree(&others, number);
        match blow {
            Blow::Kill => fleet.replicas[leader] = fleet.spawn(leader),
            Blow::Pause => fleet.replicas[leader].signal(Signal::SIGCONT),
            Blow::Cut => fleet.relays[leader].join(),
        }
        fleet.agree(&all, number);
    }
    let (log, seen) = fleet.judge();
    assert!(seen > rounds * EDITS * SERVICES, "{seen} VIPs seen");
    let mut stored = BTreeMap::new();
    for change in &log {
        stored.insert(change.key.trim_start_matches("default/").to_owned(), change.v4);
    }
    stored.retain(|_, v4| v4.is_some());
    assert_eq!(
        stored,
        last(&fleet.replicas[0]).unwrap().vips,
        "what was acknowledged last is what is stored"
    );
    let epochs: BTreeSet<u64> = log.iter().map(|change| change.epoch).collect();
    assert!(epochs.len() > rounds, "every blow made a new leader: {epochs:?}");
    println!("{} changes, {} epochs, {seen} VIPs seen, none wrong", log.len(), epochs.len());
}
