//! What no status says because it is over: how often and how long. Written where it happens, a handful of times for a change
//! of resources, never for a packet or a query. Called by cp::publish and the metered store; read by metrics.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::cp::store::StoreError;

/// From half a millisecond, doubling, to 16 s.
const FIRST_BUCKET_SECS: f64 = 0.000_5;
const BUCKETS: u16 = 16;

/// All of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Meters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    publications: Histogram,
    published_at: Gauge,
    commits: Histogram,
    reads: Histogram,
    failures: Counter,
}

impl Default for Inner {
    fn default() -> Self {
        let histogram = || Histogram::new(exponential_buckets(FIRST_BUCKET_SECS, 2.0, BUCKETS));
        Self {
            publications: histogram(),
            published_at: Gauge::default(),
            commits: histogram(),
            reads: histogram(),
            failures: Counter::default(),
        }
    }
}

/// What the store was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Commit,
    Read,
}

impl Meters {
    /// A change of resources was planned, allocated and stored.
    pub(in crate::cp) fn published(&self, took: Duration) {
        self.0.publications.observe(took.as_secs_f64());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.published_at.set(i64::try_from(now.as_secs()).unwrap_or_default());
    }

    /// The store has answered.
    pub(super) fn stored<T>(&self, call: Call, took: Duration, outcome: &Result<T, StoreError>) {
        let histogram = match call {
            Call::Commit => &self.0.commits,
            Call::Read => &self.0.reads,
        };
        histogram.observe(took.as_secs_f64());
        if outcome.is_err() {
            self.0.failures.inc();
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Inner { publications, published_at, commits, reads, failures } = &*self.0;
        let mut duration = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        duration("kuma_dns_publication_duration", "From changed resources to stored VIPs", publications);
        duration("kuma_dns_store_commit_duration", "Storing VIPs, until it is safe from a crash", commits);
        duration("kuma_dns_store_read_duration", "Reading VIPs that are stored", reads);
        registry.register_with_unit(
            "kuma_dns_published_timestamp",
            "When VIPs were published last, since the Unix epoch",
            Unit::Seconds,
            published_at.clone(),
        );
        registry.register(
            "kuma_dns_store_failures",
            "Reads and commits that the store refused; each is tried again",
            failures.clone(),
        );
    }
}
