//! What a replica tells of VIPs, watched over its API from inside of its namespace.
//! Keeps: every step is noted with its time; while nothing is told, what was told last is what is known, as for an agent.
//! Called by fleet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use harness::audit::observed::{Seen, now_secs};
use harness::http::{Events, Http};
use harness::netns::Netns;
use harness::wait::holds_within;
use kuma_dns::model::view::Addresses;
use serde_json::Value;

const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5681);
const WATCH: &str = "/meshes/default/vips?watch=true";
/// How long a replica that is not there is tried before its end is looked for.
const TRY_SECS: u64 = 1;

/// VIPs by local name.
type Vips = BTreeMap<Arc<str>, Addresses>;

/// Follows one replica, over its restarts.
pub(crate) struct Observer {
    shared: Arc<Shared>,
}

struct Shared {
    replica: usize,
    known: Mutex<Vips>,
    log: Mutex<Vec<Seen>>,
    stop: AtomicBool,
}

impl Observer {
    pub(crate) fn start(replica: usize, netns: Arc<Netns>) -> Self {
        let (known, log, stop) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { replica, known, log, stop });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || own.follow(netns));
        Self { shared }
    }

    /// The addresses of a VIP by its local name.
    pub(crate) fn addresses(&self, local: &str) -> Option<Addresses> {
        self.shared.known().get(local).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.known().len()
    }

    /// Everything that is known now.
    pub(crate) fn view(&self) -> Vips {
        self.shared.known().clone()
    }

    pub(crate) fn log(&self) -> Vec<Seen> {
        self.shared.log.lock().unwrap().clone()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Vips> {
        self.known.lock().unwrap()
    }

    fn follow(&self, netns: Arc<Netns>) {
        let http = Http::new(netns, API).unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            let mut watch = None;
            holds_within(TRY_SECS, || {
                watch = http.watch(WATCH).ok();
                watch.is_some() || self.stop.load(Ordering::Relaxed)
            });
            if let Some(mut watch) = watch {
                // It breaks off when the replica is killed, and when it is silent for too long.
                let _ = self.listen(&mut watch);
            }
        }
    }

    fn listen(&self, watch: &mut Events) -> anyhow::Result<()> {
        let first: Vips = watch.first()?.iter().filter_map(|event| vip(&event.data)).collect();
        let gone: Vec<_> = self.known().keys().filter(|local| !first.contains_key(*local)).cloned().collect();
        let put = first.into_iter().map(|(local, addresses)| (local, Some(addresses)));
        self.take(gone.into_iter().map(|local| (local, None)).chain(put).collect());
        while let Some(event) = watch.next_event()? {
            if let Some((local, addresses)) = vip(&event.data) {
                self.take(vec![(local, (event.name == "put").then_some(addresses))]);
            }
        }
        Ok(())
    }

    fn take(&self, changed: Vec<(Arc<str>, Option<Addresses>)>) {
        let mut known = self.known();
        for (local, addresses) in &changed {
            match addresses {
                Some(addresses) => drop(known.insert(local.clone(), *addresses)),
                None => drop(known.remove(local)),
            }
        }
        self.log.lock().unwrap().push(Seen { replica: self.replica, at_secs: now_secs(), changed });
    }
}

fn vip(item: &Value) -> Option<(Arc<str>, Addresses)> {
    let address = |family: &str| item[family].as_str().map(|text| text.parse::<IpAddr>().unwrap());
    let (mut v4, mut v6) = (None, None);
    for address in [address("v4"), address("v6")].into_iter().flatten() {
        match address {
            IpAddr::V4(address) => v4 = Some(address),
            IpAddr::V6(address) => v6 = Some(address),
        }
    }
    Some((item["name"].as_str()?.into(), Addresses { v4, v6 }))
}
