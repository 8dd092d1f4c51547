//! Leaders that are killed, paused and cut off while services come and go. The database's own log of every change is judged in the
//! end, not what the replicas say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::audit::{self, Observation};
use harness::postgres::Postgres as Server;
use harness::process::Process;
use harness::relay::Relay;
use harness::wait::wait_until;
use kuma_dns::cp::store::Postgres;
use kuma_dns::rt::Drain;
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::FAILOVER_SECS;

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
const REST_SECS: u64 = 4;

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
