//! Random changes through the API, one after the other, each followed until traffic is as it should be. Keeps: a new name's VIP
//! is asked once, at the moment when it resolves; a VIP that moves answers all the time; a removed one may refuse
//! only when its name is gone. Called by main.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::live::{ask, resolve};
use harness::rest::Rest;

use crate::backend;
use crate::clients::vips;
use crate::tally::{Dice, Tally};

/// How long a change may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at whether it is there.
const LOOK: Duration = Duration::from_millis(1);
const SEED: u64 = 0x6b75_6d61;

/// A service that the API gave.
struct Service {
    name: String,
    vips: [SocketAddr; 2],
    backend: SocketAddr,
}

/// Who makes the changes.
pub(crate) struct Changer {
    rest: Rest,
    dice: Dice,
    alive: Vec<Service>,
    /// The next backend that nobody has had.
    next: u32,
    tally: Tally,
    took: Vec<Duration>,
}

impl Changer {
    /// `services` are there already, with a backend each.
    pub(crate) fn new(services: u32) -> Self {
        let rest = Rest::here().unwrap();
        let (alive, tally, took) = (Vec::new(), Tally::default(), Vec::new());
        Self { rest, dice: Dice(SEED), alive, next: services, tally, took }
    }

    /// One change, and what comes of it.
    pub(crate) fn change(&mut self) {
        match self.dice.below(3) {
            1 if !self.alive.is_empty() => self.remove(),
            2 if !self.alive.is_empty() => self.displace(),
            _ => self.add(),
        }
    }

    /// What was seen, and how long each new VIP and each new endpoint took.
    pub(crate) fn finish(self) -> (Tally, Vec<Duration>) {
        (self.tally, self.took)
    }

    fn new_backend(&mut self) -> SocketAddr {
        self.next += 1;
        backend(self.next)
    }

    fn add(&mut self) {
        let backend = self.new_backend();
        let service = format!("api-{}", self.next);
        let name = format!("{service}.mesh");
        let begin = Instant::now();
        self.rest.put_service(&service, backend).unwrap();
        let mut found = None;
        if !eventually(|| {
            found = vips(&name);
            found.is_some()
        }) {
            return self.tally.wrong(format!("{name} does not resolve within {LIMIT:?}"));
        }
        let vips = found.expect("it was waited for");
        for vip in vips {
            self.tally.connected(&format!("new {name} at {vip}"), &ask(vip), backend);
        }
        self.took.push(begin.elapsed());
        self.alive.push(Service { name: service, vips, backend });
    }

    fn displace(&mut self) {
        let (chosen, new) = (self.dice.below(self.alive.len()), self.new_backend());
        let Service { name, vips, backend } = &mut self.alive[chosen];
        let old = std::mem::replace(backend, new);
        let begin = Instant::now();
        self.rest.put_service(name, new).unwrap();
        for vip in *vips {
            let to = format!("moved {name} at {vip}");
            let moved = eventually(|| {
                let said = ask(vip);
                let is_old = said.as_ref().is_ok_and(|said| *said == old.to_string());
                self.tally.connected(&to, &said, if is_old { old } else { new });
                !is_old
            });
            if !moved {
                self.tally.wrong(format!("{to} still leads to {old} after {LIMIT:?}"));
            }
        }
        self.took.push(begin.elapsed());
    }

    fn remove(&mut self) {
        let chosen = self.dice.below(self.alive.len());
        let Service { name, vips, backend } = self.alive.swap_remove(chosen);
        self.rest.delete_service(&name).unwrap();
        for vip in vips {
            let to = format!("removed {name} at {vip}");
            let refuses = eventually(|| {
                let said = ask(vip);
                let refused = said.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
                if !refused {
                    self.tally.connected(&to, &said, backend);
                }
                refused
            });
            if !refuses {
                self.tally.wrong(format!("{to} is not refused within {LIMIT:?}"));
            }
            if resolve(&format!("{name}.mesh")).unwrap().is_some() {
                self.tally.wrong(format!("{to} is refused and its name still resolves"));
            }
        }
    }
}

/// Looks until it holds.
fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}
