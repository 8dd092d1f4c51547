//! Clients that create and delete services through any replica, one request after the other for each name, and wait until
//! replicas tell what was acknowledged. Keeps: what a paused or cut replica has not answered is not known until it has, and its
//! name is left alone as long. Called by faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::audit::observed::{Operation, Outcome, Verb, now_secs};
use harness::netns::Netns;
use harness::wait::{holds_within, wait_until};

use crate::FAILOVER_SECS;
use crate::api::{Answer, Call, external};
use crate::observer::Observer;

/// How long a client waits for an answer before it turns to others.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often an answer that is late is looked for.
const GLANCE: Duration = Duration::from_millis(1);
/// Names of each client.
const NAMES: usize = 20;

/// What clients need of a replica.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) netns: Arc<Netns>,
    pub(crate) observer: Arc<Observer>,
}

/// Everything that clients did.
#[derive(Default)]
pub(crate) struct Journal {
    operations: Mutex<Vec<Operation>>,
    wrong: Mutex<Vec<String>>,
    /// Replicas that nothing was done to.
    healthy: Mutex<BTreeSet<usize>>,
    stop: AtomicBool,
}

impl Journal {
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap().clone()
    }

    /// How many requests were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        let operations = self.operations.lock().unwrap();
        operations.iter().filter(|operation| operation.outcome == Outcome::Acknowledged).count()
    }

    pub(crate) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    pub(crate) fn set_healthy(&self, replica: usize, healthy: bool) {
        let mut set = self.healthy.lock().unwrap();
        if healthy {
            set.insert(replica)
        } else {
            set.remove(&replica)
        };
    }

    fn is_healthy(&self, replica: usize) -> bool {
        self.healthy.lock().unwrap().contains(&replica)
    }

    fn note(&self, operation: Operation) {
        self.operations.lock().unwrap().push(operation);
    }
}

/// Clients at work, each on a thread.
pub(crate) struct Clients {
    journal: Arc<Journal>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub(crate) fn start(count: usize, doors: &[Door], journal: &Arc<Journal>) -> Self {
        let start = |number: usize| {
            let mut client = Client::new(&format!("client-{number}"), doors, journal);
            std::thread::spawn(move || client.work(number))
        };
        Self { journal: Arc::clone(journal), threads: (0..count).map(start).collect() }
    }

    /// Ends them, once every open request is settled.
    pub(crate) fn stop(self) {
        self.journal.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// A request that nobody has answered.
struct Open {
    name: String,
    verb: Verb,
    start_secs: f64,
    call: Call,
}

/// One client with names of its own.
pub(crate) struct Client {
    prefix: String,
    doors: Vec<Door>,
    journal: Arc<Journal>,
    /// What is known to be there; a name in neither state was asked for and not answered.
    there: BTreeMap<String, bool>,
    open: Vec<Open>,
}

impl Client {
    pub(crate) fn new(prefix: &str, doors: &[Door], journal: &Arc<Journal>) -> Self {
        let (doors, journal) = (doors.to_vec(), Arc::clone(journal));
        Self { prefix: prefix.into(), doors, journal, there: BTreeMap::new(), open: Vec::new() }
    }

    /// Puts what is not there and deletes what is, name after name, at any replica.
    fn work(&mut self, seed: usize) {
        let mut dice = Dice(u64::try_from(seed).unwrap() + 1);
        while !self.journal.stop.load(Ordering::Relaxed) {
            self.settle(GLANCE);
            let name = format!("{}-{}", self.prefix, dice.roll(NAMES));
            if self.open.iter().any(|open| open.name == name) {
                continue;
            }
            let verb = if self.there.get(&name) == Some(&true) { Verb::Delete } else { Verb::Put };
            let replica = dice.roll(self.doors.len());
            if self.ask(&name, verb, replica) == Outcome::Acknowledged
                && !self.told(&name, verb, FAILOVER_SECS)
            {
                let wrong =
                    format!("{name}: {verb:?} was acknowledged, and not all healthy replicas tell it");
                self.journal.wrong.lock().unwrap().push(wrong);
            }
        }
        wait_until(FAILOVER_SECS, "every request is answered, or can be no more", || {
            self.settle(GLANCE);
            self.open.is_empty()
        });
    }

    /// One request at one replica.
    pub(crate) fn ask(&mut self, name: &str, verb: Verb, replica: usize) -> Outcome {
        let (path, body) = external(name);
        let (method, body) = match verb {
            Verb::Put => ("PUT", body.to_string()),
            Verb::Delete => ("DELETE", String::new()),
        };
        let start_secs = now_secs();
        // Who is not there took nothing; whatever else happens to the request, it may have been taken.
        let Ok(call) = Call::send(&self.doors[replica].netns, method, &path, &body) else {
            return Outcome::Never;
        };
        self.open.push(Open { name: name.into(), verb, start_secs, call });
        self.settle(PATIENCE);
        match self.open.iter().any(|open| open.name == name) {
            true => Outcome::Unknown,
            false if self.there.get(name) == Some(&(verb == Verb::Put)) => Outcome::Acknowledged,
            false => Outcome::Unknown,
        }
    }

    /// Do all healthy replicas tell it in time?
    pub(crate) fn told(&self, name: &str, verb: Verb, secs: u64) -> bool {
        holds_within(secs, || {
            self.doors.iter().enumerate().filter(|(replica, _)| self.journal.is_healthy(*replica)).all(
                |(_, door)| {
                    let found = door.observer.addresses(name);
                    let whole =
                        found.is_some_and(|addresses| addresses.v4.is_some() && addresses.v6.is_some());
                    if verb == Verb::Put { whole } else { found.is_none() }
                },
            )
        })
    }

    /// Looks at what was asked and not answered, the last of it for so long.
    fn settle(&mut self, limit: Duration) {
        let last = self.open.len().saturating_sub(1);
        for (at, mut open) in std::mem::take(&mut self.open).into_iter().enumerate() {
            let answer = open.call.answer(if at == last { limit } else { GLANCE });
            if answer == Answer::Pending {
                self.open.push(open);
                continue;
            }
            let Open { name, verb, start_secs, call } = open;
            let outcome = match answer {
                Answer::Status(200 | 201) => Outcome::Acknowledged,
                Answer::Status(404) if verb == Verb::Delete => Outcome::Acknowledged,
                Answer::Status(500..) | Answer::Lost | Answer::Pending => Outcome::Unknown,
                Answer::Status(_) => {
                    self.journal.wrong.lock().unwrap().push(format!("{verb:?} {name}: {}", call.said()));
                    Outcome::Never
                }
            };
            match outcome {
                Outcome::Acknowledged => drop(self.there.insert(name.clone(), verb == Verb::Put)),
                Outcome::Unknown => drop(self.there.remove(&name)),
                Outcome::Never => {}
            }
            self.journal.note(Operation { local: name, verb, start_secs, outcome });
        }
    }
}

/// Numbers that look like chance and are the same in each run (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(sides).unwrap()).unwrap()
    }
}
