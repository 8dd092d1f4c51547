//! What an operator reads of a view that is not whole. Part of order. Keeps: short, whatever the size of the mesh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Order;
use crate::cp::xds::clients::Client;
use crate::cp::xds::name::Name;
use crate::wire::envoy::entrance_name;
use crate::wire::resource::ResourceType;

/// Names in one line.
const MAX_NAMES: usize = 10;

impl Order {
    /// Why agents do not see everything that is wanted, in words; empty when they do.
    pub(in super::super) fn waiting(&self) -> Vec<String> {
        if self.wanted.is_none() {
            return vec![format!("mesh {:?} does not exist", self.name)];
        }
        let mut waiting = Vec::new();
        if let Some(reason) = &self.refused {
            waiting.push(format!("the mesh cannot be published: {reason}"));
        }
        let count = self.book.counts().pending();
        if count == 0 {
            return waiting;
        }
        if self.crowd.proxies().next().is_none() {
            waiting.push(format!(
                "waiting for a proxy: none is connected, listeners that wait for one: {count}"
            ));
        }
        for proxy in self.crowd.proxies() {
            let node = &proxy.node;
            let refused = self.refused_of_pending(proxy);
            waiting.push(if refused.is_empty() {
                format!("waiting for proxy {node:?}, listeners that it has not taken: {count}")
            } else {
                format!("proxy {node:?} refuses {}", listed(&refused))
            });
        }
        waiting
    }

    /// What the proxy refuses of that which pending lines need.
    fn refused_of_pending<'c>(&self, proxy: &'c Client) -> Vec<&'c str> {
        let of_importance = |kind: ResourceType, name: &str| match (kind, Name::of(name)) {
            (ResourceType::Listener | ResourceType::Cluster, Name::Vip(route)) => self.book.is_pending(route),
            (ResourceType::Listener, Name::Text(_)) => self.entrance_of_pending(name),
            (ResourceType::Cluster, Name::Text(_)) => true,
            _ => false,
        };
        let refused = proxy.progress.refused.keys();
        let mut refused: Vec<&str> =
            refused.filter(|(kind, name)| of_importance(*kind, name)).map(|(_, name)| &**name).collect();
        refused.sort_unstable();
        refused.dedup();
        refused
    }

    fn entrance_of_pending(&self, name: &str) -> bool {
        let counts = self.book.counts();
        let is_of = |vip: IpAddr| name == entrance_name(vip);
        (counts.pending_v4 > 0 && is_of(Ipv4Addr::UNSPECIFIED.into()))
            || (counts.pending_v6 > 0 && is_of(Ipv6Addr::UNSPECIFIED.into()))
    }
}

fn listed(names: &[&str]) -> String {
    let shown = names[..names.len().min(MAX_NAMES)].join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
