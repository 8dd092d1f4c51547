//! What is done over each way, and the goals of the project. A table. Called by vip.

use std::net::SocketAddr;

use super::super::figures::Goal;
use super::variant::{Family, Variant, Way};
use super::world::Proxy;

/// An exchange between client and server.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) proxy: Proxy,
    kind: Kind,
    /// Operations in one measurement: some 30 ms.
    pub(super) count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A new connection, 64 bytes there and back, close.
    Connect,
    /// Round trips of so many bytes over one connection.
    Rounds(u32),
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "connect, 64 B, close", proxy: Proxy::Echo, kind: Kind::Connect, count: 400 },
    Scenario { name: "round trip of 64 B", proxy: Proxy::Echo, kind: Kind::Rounds(64), count: 1500 },
    Scenario { name: "round trip of 16 KiB", proxy: Proxy::Echo, kind: Kind::Rounds(16 * 1024), count: 1000 },
    Scenario { name: "connect through Envoy", proxy: Proxy::Envoy, kind: Kind::Connect, count: 150 },
];

impl Scenario {
    /// The words for vip-load.
    pub(super) fn words(&self, target: SocketAddr, count: u32) -> Vec<String> {
        let (target, count) = (target.to_string(), count.to_string());
        match self.kind {
            Kind::Connect => vec!["connect".into(), target, count],
            Kind::Rounds(size) => vec!["rounds".into(), target, size.to_string(), count],
        }
    }

    /// What this project promises: hardly more than direct, in both families.
    pub(super) fn goal(&self, variant: &Variant) -> Goal {
        match (self.proxy, self.kind, variant.way, variant.family) {
            (Proxy::Echo, Kind::Connect, Way::Ours, Family::V4) => Goal::AtMost(1.03),
            (Proxy::Echo, Kind::Connect, Way::Ours, Family::V6) => Goal::AtMost(1.10),
            (Proxy::Echo, Kind::Rounds(_), Way::Ours, _) => Goal::AtMost(1.01),
            (Proxy::Echo, Kind::Connect, Way::Iptables, _) => Goal::Expect("1.2 and more is usual"),
            _ => Goal::Reported,
        }
    }

    /// The one whose BPF programs are counted.
    pub(super) fn is_new_connections(&self) -> bool {
        self.proxy == Proxy::Echo && self.kind == Kind::Connect
    }
}
