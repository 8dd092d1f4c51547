//! What the resolver did, as plain atomics that every thread of it adds to. Called by udp, tcp, upstream; read by agent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::question::{qtype, rcode};

/// Response codes are counted up to BADVERS; whatever lies above is counted with it.
const RCODES: usize = rcode::BADVERS as usize + 1;

/// Added to by the resolver; see [`Counts`] for what each means.
#[derive(Default, Debug)]
pub struct Counters {
    mesh: ByType,
    forwarded: ByType,
    rcodes: [AtomicU64; RCODES],
    dropped: AtomicU64,
    overloaded: AtomicU64,
    failed: AtomicU64,
    upstream_silent: AtomicU64,
    upstream_refused: AtomicU64,
    upstream_mismatched: AtomicU64,
    connections_refused: AtomicU64,
}

#[derive(Default, Debug)]
struct ByType {
    a: AtomicU64,
    aaaa: AtomicU64,
    other: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Answered from the zone, or with an error of ours.
    pub mesh: TypeCounts,
    /// Passed on to a nameserver.
    pub forwarded: TypeCounts,
    /// Answers by response code, ours and theirs.
    pub rcodes: BTreeMap<String, u64>,
    /// Messages that get no answer.
    pub dropped: u64,
    /// SERVFAIL because too many queries were in flight.
    pub overloaded: u64,
    /// SERVFAIL because no nameserver answered, or none is known.
    pub failed: u64,
    /// A nameserver did not answer in time.
    pub upstream_silent: u64,
    /// Nobody listens at a nameserver's port.
    pub upstream_refused: u64,
    /// An answer that fits no query of ours: late, or forged.
    pub upstream_mismatched: u64,
    /// TCP connections closed because too many were open.
    pub connections_refused: u64,
}

/// Queries by type.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TypeCounts {
    pub a: u64,
    pub aaaa: u64,
    pub other: u64,
}

/// What happened beside a plain answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Dropped,
    Overloaded,
    Failed,
    UpstreamSilent,
    UpstreamRefused,
    UpstreamMismatched,
    ConnectionRefused,
}

impl Counters {
    /// An answer from the zone, or an error of ours.
    pub fn mesh_answer(&self, qtype: Option<u16>, rcode: u8) {
        self.mesh.add(qtype);
        self.answer(rcode);
    }

    /// A query that goes to a nameserver.
    pub fn forwarded(&self, qtype: u16) {
        self.forwarded.add(Some(qtype));
    }

    /// An answer that leaves us.
    pub fn answer(&self, rcode: u8) {
        add(&self.rcodes[usize::from(rcode).min(RCODES - 1)]);
    }

    /// Anything else.
    pub fn event(&self, event: Event) {
        add(match event {
            Event::Dropped => &self.dropped,
            Event::Overloaded => &self.overloaded,
            Event::Failed => &self.failed,
            Event::UpstreamSilent => &self.upstream_silent,
            Event::UpstreamRefused => &self.upstream_refused,
            Event::UpstreamMismatched => &self.upstream_mismatched,
            Event::ConnectionRefused => &self.connections_refused,
        });
    }

    /// Their values now.
    pub fn counts(&self) -> Counts {
        let seen = |(code, counter)| (rcode_name(code), get(counter));
        Counts {
            mesh: self.mesh.counts(),
            forwarded: self.forwarded.counts(),
            rcodes: self.rcodes.iter().enumerate().map(seen).filter(|(_, count)| *count > 0).collect(),
            dropped: get(&self.dropped),
            overloaded: get(&self.overloaded),
            failed: get(&self.failed),
            upstream_silent: get(&self.upstream_silent),
            upstream_refused: get(&self.upstream_refused),
            upstream_mismatched: get(&self.upstream_mismatched),
            connections_refused: get(&self.connections_refused),
        }
    }
}

impl ByType {
    fn add(&self, asked: Option<u16>) {
        add(match asked {
            Some(qtype::A) => &self.a,
            Some(qtype::AAAA) => &self.aaaa,
            _ => &self.other,
        });
    }

    fn counts(&self) -> TypeCounts {
        TypeCounts { a: get(&self.a), aaaa: get(&self.aaaa), other: get(&self.other) }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The name of a response code as dig prints it.
fn rcode_name(code: usize) -> String {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
        "NOTAUTH", "NOTZONE",
    ];
    match NAMES.get(code) {
        Some(name) => (*name).into(),
        None if code == usize::from(rcode::BADVERS) => "BADVERS".into(),
        None => format!("RCODE{code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_say_what_was_added() {
        let counters = Counters::default();
        counters.mesh_answer(Some(qtype::A), rcode::NOERROR);
        counters.mesh_answer(Some(65), rcode::BADVERS);
        counters.forwarded(qtype::AAAA);
        counters.event(Event::Overloaded);
        let counts = counters.counts();
        assert_eq!(counts.mesh, TypeCounts { a: 1, aaaa: 0, other: 1 });
        assert_eq!((counts.forwarded.aaaa, counts.overloaded), (1, 1));
        assert_eq!(counts.rcodes, BTreeMap::from([("NOERROR".into(), 1), ("BADVERS".into(), 1)]));
    }
}
