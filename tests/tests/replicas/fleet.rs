//! Replicas as they are deployed: real `kuma-dns control-plane` processes, each in a network namespace of its own, and a real
//! PostgreSQL in another, with a cable to each. Keeps: all of it ends with the fleet. Called by faults.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use harness::audit;
use harness::audit::observed::Seen;
use harness::binaries;
use harness::documents::key;
use harness::netns::{Link, Netns, UPLINK};
use harness::postgres::Postgres as Server;
use harness::process::Process;
use harness::wait::{holds_within, wait_until};
use kuma_dns::cp::store::Postgres;
use kuma_dns::cp::store::documents::{Documents, Expected, Write};
use kuma_dns::rt::Drain;
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::FAILOVER_SECS;
use crate::api::mesh_service;
use crate::clients::Door;
use crate::observer::Observer;

/// How long a freed VIP rests here.
pub(crate) const REST_SECS: u32 = 4;
/// So few VIPs for services outside that each is given again and again.
const CONFIGURATION: &str = "dnsServer: {CIDR: 240.0.0.0/26, CIDR6: 'fd00:fd00::/122', ttl: 2, rest: 4}\n";
const MESH: &str = "type: Mesh\nname: default\n";

/// How long three replicas may take to read 10,000 services and tell them, on a busy machine.
const START_SECS: u64 = 240;
/// Lines of each replica in a failure.
const SAID_LINES: usize = 20;

/// What happens to a leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Blow {
    /// SIGKILL, and a new process afterwards.
    Kill,
    /// SIGSTOP, and SIGCONT afterwards.
    Pause,
    /// Its interface goes down: whatever it sends fails at once.
    Unplug,
    /// Its neighbour's interface goes down: whatever it sends is lost.
    Cut,
}

pub(crate) struct Fleet {
    replicas: Vec<Replica>,
    pub(crate) server: Server,
    database: Arc<Netns>,
    directory: tempfile::TempDir,
}

struct Replica {
    process: Process,
    door: Door,
    starts: usize,
}

impl Fleet {
    /// A database with so many services in it, and so many replicas on it, which tell them all.
    pub(crate) fn start(replicas: usize, services: usize) -> Self {
        let database = Arc::new(Netns::new().unwrap());
        let server = Server::start_in(database.clone()).unwrap();
        let mut fleet =
            Self { replicas: Vec::new(), server, database, directory: tempfile::tempdir().unwrap() };
        fs::write(fleet.path("mesh.yaml"), MESH).unwrap();
        fs::write(fleet.path("control-plane.yaml"), CONFIGURATION).unwrap();
        fleet.fill(services);
        for index in 0..replicas {
            fleet.add(index);
        }
        let told = || fleet.replicas.iter().map(|replica| replica.door.observer.len()).collect::<Vec<_>>();
        let whole = holds_within(START_SECS, || told().iter().all(|told| *told == services));
        assert!(whole, "told of {services}: {:?}\n{}", told(), fleet.said());
        fleet
    }

    /// The tables are there before the trigger is, and the trigger before the first change.
    fn fill(&self, services: usize) {
        let settings = self.server.settings();
        let put = |number: usize| {
            let name = base(number);
            let body = mesh_service(&name).to_string().into();
            Write::Put { key: key(&name), body, expected: Expected::Absent }
        };
        self.database.run(|| {
            let runtime = Runtime::new().unwrap();
            let (store, replica) = runtime.block_on(Postgres::connect(&settings)).unwrap();
            self.server.sql(audit::TRIGGER).unwrap();
            store.documents().write(&(0..services).map(put).collect::<Vec<_>>()).unwrap();
            let (trigger, drain) = Drain::pair();
            trigger.request();
            runtime.block_on(replica.run(drain)).unwrap();
        });
    }

    fn add(&mut self, index: usize) {
        let netns = Arc::new(Netns::new().unwrap());
        netns.join(&self.database, &cable(index)).unwrap();
        let address = |host| (IpAddr::from(Ipv4Addr::new(10, 77, u8::try_from(index).unwrap(), host)), 24);
        self.database.add_addresses(&cable(index), &[address(1)]).unwrap();
        netns.add_addresses(UPLINK, &[address(2)]).unwrap();
        let observer = Arc::new(Observer::start(index, netns.clone()));
        let process = self.spawn(index, 0, &netns);
        self.replicas.push(Replica { process, door: Door { netns, observer }, starts: 1 });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spawn(&self, index: usize, start: usize, netns: &Netns) -> Process {
        let settings = self.server.settings();
        let mut command = Command::new(binaries::kuma_dns().unwrap());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KUMA_")) {
            command.env_remove(name);
        }
        command.arg("--data").arg(self.path(&format!("data-{index}"))).arg("control-plane");
        command.arg("-c").arg(self.path("control-plane.yaml")).arg("-f").arg(self.path("mesh.yaml"));
        command.env("KUMA_STORE_TYPE", "postgres");
        command.env("KUMA_STORE_POSTGRES_HOST", format!("10.77.{index}.1"));
        command.env("KUMA_STORE_POSTGRES_PORT", settings.port.get().to_string());
        command.env("KUMA_STORE_POSTGRES_USER", &settings.user);
        command.env("KUMA_STORE_POSTGRES_DB_NAME", &settings.db_name);
        let log = self.path(&format!("replica-{index}-{start}"));
        netns.run(|| Process::start(command, &log)).unwrap()
    }

    pub(crate) fn doors(&self) -> Vec<Door> {
        self.replicas.iter().map(|replica| replica.door.clone()).collect()
    }

    /// Everything that replicas told, by each replica in its order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.replicas.iter().flat_map(|replica| replica.door.observer.log()).collect()
    }

    /// Who leads, by the database's word: the process that holds the lease.
    pub(crate) fn leader(&self) -> usize {
        let mut found = None;
        wait_until(FAILOVER_SECS, "one of the replicas leads", || {
            let asked = "SELECT holder FROM kuma_dns_lease WHERE expires_at > clock_timestamp()";
            let holder = self.server.sql(asked).unwrap();
            let pid = holder.split('/').nth(1).and_then(|pid| pid.parse::<i32>().ok());
            found = self.replicas.iter().position(|replica| Some(replica.process.pid()) == pid);
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn strike(&self, index: usize, blow: Blow) {
        let replica = &self.replicas[index];
        match blow {
            Blow::Kill => replica.process.signal(Signal::SIGKILL),
            Blow::Pause => replica.process.signal(Signal::SIGSTOP),
            Blow::Unplug => replica.door.netns.set_link(UPLINK, Link::Down).unwrap(),
            Blow::Cut => self.database.set_link(&cable(index), Link::Down).unwrap(),
        }
    }

    pub(crate) fn heal(&mut self, index: usize, blow: Blow) {
        match blow {
            Blow::Kill => {
                let (start, netns) = (self.replicas[index].starts, self.replicas[index].door.netns.clone());
                let process = self.spawn(index, start, &netns);
                self.replicas[index].process = process;
                self.replicas[index].starts += 1;
            }
            Blow::Pause => self.replicas[index].process.signal(Signal::SIGCONT),
            Blow::Unplug => self.replicas[index].door.netns.set_link(UPLINK, Link::Up).unwrap(),
            Blow::Cut => self.database.set_link(&cable(index), Link::Up).unwrap(),
        }
    }

    /// All records that the database ever had, in the order of its commits.
    pub(crate) fn changes(&self) -> Vec<audit::Change> {
        let log = self.server.sql(audit::LOG).unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the replicas last said, for a failure.
    pub(crate) fn said(&self) -> String {
        let last = |said: String| {
            let lines: Vec<&str> = said.lines().collect();
            lines[lines.len().saturating_sub(SAID_LINES)..].join("\n")
        };
        let each = self.replicas.iter().enumerate();
        let said =
            each.map(|(index, replica)| format!("replica {index}:\n{}\n", last(replica.process.said())));
        said.collect()
    }

    pub(crate) fn ended(&mut self) -> BTreeSet<usize> {
        let ended = self
            .replicas
            .iter_mut()
            .enumerate()
            .filter_map(|(index, replica)| replica.process.ended().map(|_| index));
        ended.collect()
    }
}

/// A service that nobody deletes.
pub(crate) fn base(number: usize) -> String {
    format!("service-{number:05}")
}

/// The database's end of the cable to a replica.
fn cable(index: usize) -> String {
    format!("cable{index}")
}
