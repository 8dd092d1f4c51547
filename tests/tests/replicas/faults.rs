//! Leaders that are killed, paused and cut off while clients create and delete services. In the end the database's own log of
//! every change is judged, and what clients did with what replicas told: not what replicas say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use harness::audit::observed::{self, Outcome, Seen, Verb};
use harness::audit::{self, Observation};
use harness::wait::wait_until;

use crate::FAILOVER_SECS;
use crate::clients::{Client, Clients, Journal};
use crate::fleet::{Blow, Fleet, REST_SECS, base};

const REPLICAS: usize = 3;
const CLIENTS: usize = 4;
/// Set by `cargo xtask test replicas --long`.
const LONG_ENV: &str = "KUMA_DNS_TEST_LONG";
/// What is acknowledged before each blow, and while the leader is lost.
const OPERATIONS: usize = 12;
const BLOWS: [Blow; 4] = [Blow::Kill, Blow::Pause, Blow::Cut, Blow::Unplug];
/// Lease (5 s), heartbeat (1 s), and what a busy machine needs.
const LOST_SECS_MAX: f64 = 30.0;

/// How much is done.
struct Size {
    rounds: usize,
    services: usize,
}

impl Size {
    fn asked_for() -> Self {
        if std::env::var_os(LONG_ENV).is_some() {
            Self { rounds: 50, services: 10_000 }
        } else {
            Self { rounds: 4, services: 1_000 }
        }
    }
}

/// A fleet under load.
struct Trial {
    fleet: Fleet,
    journal: Arc<Journal>,
    /// One more client, with names that say whether the fleet works.
    probe: Client,
    size: Size,
}

impl Trial {
    fn start(size: Size) -> Self {
        let fleet = Fleet::start(REPLICAS, size.services);
        let journal = Arc::new(Journal::default());
        (0..REPLICAS).for_each(|replica| journal.set_healthy(replica, true));
        let probe = Client::new("probe", &fleet.doors(), &journal);
        Self { fleet, journal, probe, size }
    }

    /// Asks for a name at a replica, which must take it.
    fn put(&mut self, name: &str, replica: usize) {
        let mut outcome = Outcome::Never;
        wait_until(FAILOVER_SECS, "a healthy replica takes a service", || {
            outcome = self.probe.ask(name, Verb::Put, replica);
            outcome == Outcome::Acknowledged
        });
    }

    /// All healthy replicas tell it.
    fn told(&self, name: &str, verb: Verb) {
        assert!(
            self.probe.told(name, verb, FAILOVER_SECS),
            "{verb:?} {name} is not told:\n{}",
            self.fleet.said()
        );
    }

    /// One leader is lost, and comes back; says for how long nobody led.
    fn round(&mut self, number: usize, blow: Blow) -> f64 {
        let acknowledged = self.journal.acknowledged();
        wait_until(FAILOVER_SECS, "clients work", || {
            self.journal.acknowledged() >= acknowledged + OPERATIONS
        });
        let leader = self.fleet.leader();
        // It has just taken this one, and is about to give it a VIP.
        let taken = format!("probe-{number}-taken");
        self.put(&taken, leader);
        let struck = Instant::now();
        self.fleet.strike(leader, blow);
        self.journal.set_healthy(leader, false);
        let lost = format!("probe-{number}-lost");
        self.put(&lost, (leader + 1) % REPLICAS);
        self.told(&lost, Verb::Put);
        let lost_secs = struck.elapsed().as_secs_f64();
        self.told(&taken, Verb::Put);
        let acknowledged = self.journal.acknowledged();
        wait_until(FAILOVER_SECS, "clients work on", || {
            self.journal.acknowledged() >= acknowledged + OPERATIONS
        });
        self.fleet.heal(leader, blow);
        let back = format!("probe-{number}-back");
        self.put(&back, (leader + 2) % REPLICAS);
        self.journal.set_healthy(leader, true);
        self.told(&back, Verb::Put);
        for name in [taken, lost, back] {
            let asked = self.probe.ask(&name, Verb::Delete, leader);
            assert_eq!(
                asked,
                Outcome::Acknowledged,
                "{name} at a replica that is back: {}",
                self.fleet.said()
            );
            self.told(&name, Verb::Delete);
        }
        assert_eq!(self.fleet.ended(), BTreeSet::new(), "no replica ends by itself");
        lost_secs
    }

    /// Fails when anything was wrong at any moment.
    fn judge(&self) {
        let (changes, operations, seen) =
            (self.fleet.changes(), self.journal.operations(), self.fleet.seen());
        let told: Vec<Observation> = seen.iter().flat_map(told).collect();
        let mut wrong = self.journal.wrong();
        wrong.extend(audit::judge(&changes, &told, f64::from(REST_SECS)));
        wrong.extend(observed::judge(&operations, &seen, f64::from(REST_SECS)));
        wrong.extend(self.missing(&operations, &changes));
        assert!(wrong.is_empty(), "{} of {} changes: {wrong:#?}", wrong.len(), changes.len());
        assert_eq!(self.fleet.server.sql("SELECT count(*) FROM kuma_dns_quarantine").unwrap(), "0");
        let epochs: BTreeSet<u64> = changes.iter().map(|change| change.epoch).collect();
        assert!(epochs.len() > self.size.rounds, "every blow made a new leader: {epochs:?}");
        let again = given_again(&changes);
        assert!(again > 0, "no VIP was ever given again: the pool is too large to prove a rest");
        let acknowledged = self.journal.acknowledged();
        println!(
            "{} services, {} requests ({acknowledged} acknowledged), {} changes stored, {} epochs, {} VIPs told, \
             {again} given again: none doubled, changed, early or missing",
            self.size.services,
            operations.len(),
            changes.len(),
            epochs.len(),
            told.len()
        );
    }

    /// What was acknowledged and is not there, in what any replica tells and in the database.
    fn missing(&self, operations: &[observed::Operation], changes: &[audit::Change]) -> Vec<String> {
        let stored = audit::held(changes);
        let mut expected = observed::expected(operations);
        let base: Vec<String> =
            (0..self.size.services).map(|number| format!("MeshService:{}", base(number))).collect();
        expected.extend(base.iter().map(|local| (local.as_str(), Some(true))));
        let mut wrong = Vec::new();
        for (replica, door) in self.fleet.doors().iter().enumerate() {
            let view = door.observer.view();
            for (local, there) in &expected {
                let held = view.get(*local).map(|addresses| addresses.iter().collect::<BTreeSet<IpAddr>>());
                let in_database = stored.get(format!("default/{local}").as_str());
                let right = match there {
                    Some(true) => held.is_some() && held.as_ref() == in_database,
                    Some(false) => held.is_none() && in_database.is_none(),
                    None => held.as_ref() == in_database,
                };
                if !right {
                    let history: Vec<_> =
                        operations.iter().filter(|operation| operation.local == **local).collect();
                    wrong.push(format!(
                        "{local} at replica {replica}: {held:?}, stored {in_database:?}, expected there: {there:?}, \
                         after {history:?}"
                    ));
                }
            }
            let strangers = view.keys().filter(|local| !expected.contains_key(&***local));
            wrong.extend(strangers.map(|local| format!("{local} at replica {replica}: nobody asked for it")));
        }
        wrong
    }
}

/// Every address in a step of what replicas tell.
fn told(step: &Seen) -> impl Iterator<Item = Observation> {
    let at_secs = step.at_secs;
    step.changed.iter().flat_map(move |(local, addresses)| {
        let vips = addresses.iter().flat_map(|addresses| addresses.iter());
        vips.map(move |vip| Observation { key: format!("default/{local}"), vip, at_secs })
    })
}

/// How often an address went from one name to another.
fn given_again(changes: &[audit::Change]) -> usize {
    let mut owners: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    for change in changes {
        if let Some(address) = change.v4 {
            owners.entry(address).or_default().insert(&change.key);
        }
    }
    owners.values().map(|names| names.len() - 1).sum()
}

#[test]
fn no_vip_is_doubled_changed_early_or_missing_while_leaders_are_lost() {
    let mut trial = Trial::start(Size::asked_for());
    let clients = Clients::start(CLIENTS, &trial.fleet.doors(), &trial.journal);
    let mut lost: BTreeMap<Blow, Vec<f64>> = BTreeMap::new();
    for number in 0..trial.size.rounds {
        let blow = BLOWS[number % BLOWS.len()];
        let secs = trial.round(number, blow);
        lost.entry(blow).or_default().push(secs);
        assert!(secs < LOST_SECS_MAX, "{blow:?}: nobody led for {secs:.1} s");
    }
    clients.stop();
    trial.put("probe-end", 0);
    trial.told("probe-end", Verb::Put);
    trial.judge();
    for (blow, mut secs) in lost {
        secs.sort_by(f64::total_cmp);
        let (median, most) = (secs[secs.len() / 2], secs[secs.len() - 1]);
        println!(
            "{blow:?}: until the next leader's first VIP {median:.1} s at the median, {most:.1} s at most"
        );
    }
}

#[test]
fn a_database_that_was_restarted_is_used_again() {
    let mut trial = Trial::start(Size { rounds: 0, services: 10 });
    trial.put("probe-before", 0);
    trial.told("probe-before", Verb::Put);
    trial.fleet.server.restart().unwrap();
    for replica in 0..REPLICAS {
        let name = format!("probe-after-{replica}");
        trial.put(&name, replica);
        trial.told(&name, Verb::Put);
    }
    trial.probe.told("probe-before", Verb::Put, FAILOVER_SECS);
    assert_eq!(trial.fleet.ended(), BTreeSet::new(), "no replica ends by itself");
}
