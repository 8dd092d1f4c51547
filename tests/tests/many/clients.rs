//! Clients that connect to services that stay, all the time, by name and in both families. Called by main.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::live::{ask, resolve, resolve_v6};

use crate::tally::{Dice, Tally};
use crate::{backend, stable};

const CLIENTS: u64 = 2;
/// Between two connections of a client: the machine is not for clients alone.
const PAUSE: Duration = Duration::from_millis(2);
/// The port of services without one of their own.
pub(crate) const VIP_PORT: u16 = 80;

/// Clients at work, each on a thread.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Clients {
    /// They choose among this many services.
    pub(crate) fn start(services: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number| {
            let stop = stop.clone();
            std::thread::spawn(move || run(services, Dice(number), &stop))
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { stop, threads }
    }

    /// What all of them saw.
    pub(crate) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        self.threads.into_iter().for_each(|thread| all += thread.join().unwrap());
        all
    }
}

fn run(services: u32, mut dice: Dice, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let number = dice.below(services as usize) as u32;
        let name = format!("{}.mesh", stable(number));
        match vips(&name) {
            Some(vips) => {
                let vip = vips[dice.below(2)];
                tally.connected(&format!("{name} at {vip}"), &ask(vip), backend(number));
            }
            None => tally.wrong(format!("{name} does not resolve")),
        }
        std::thread::sleep(PAUSE);
    }
    tally
}

/// Where the name leads, in both families.
pub(crate) fn vips(name: &str) -> Option<[SocketAddr; 2]> {
    let v4 = IpAddr::from(resolve(name).unwrap()?);
    let v6 = IpAddr::from(resolve_v6(name).unwrap()?);
    Some([v4, v6].map(|address| SocketAddr::new(address, VIP_PORT)))
}
