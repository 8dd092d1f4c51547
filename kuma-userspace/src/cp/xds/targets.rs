//! Where each VIP and port of a mesh leads. Pure. Called by order.

use std::sync::Arc;

use super::name::Name;
use super::shape::Shape;
use crate::cp::snapshot::{Endpoint, Entry, Listener, Protocol, Published};
use crate::model::view::Route;
use crate::wire::envoy::{self, Codec};

/// Where the connections to a VIP and port go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Who has the VIP.
    pub(super) vip: Arc<str>,
    entry: Arc<Entry>,
    /// Which of the entry's listeners it is.
    nth: u16,
    pub(super) codec: Codec,
    pub(super) shape: Shape,
}

impl Target {
    /// The service that the connections reach.
    pub(super) fn service(&self) -> &Arc<str> {
        &self.listener().cluster
    }

    /// What is behind the service.
    pub(super) fn endpoints(&self) -> &Arc<[Endpoint]> {
        &self.listener().endpoints
    }

    /// The cluster that `route` needs in this shape.
    pub(super) fn cluster(&self, route: Route, shape: Shape) -> Name {
        match shape {
            Shape::Compact => Name::Vip(route),
            Shape::Listener => shared_cluster(self.service()),
        }
    }

    /// Is it the same value, part by part?
    pub(super) fn is(&self, other: &Self) -> bool {
        let small = |target: &Self| (target.nth, target.codec, target.shape);
        Arc::ptr_eq(&self.entry, &other.entry) && small(self) == small(other) && self.vip == other.vip
    }

    fn listener(&self) -> &Listener {
        &self.entry.listeners[usize::from(self.nth)]
    }
}

/// The cluster that all listeners of a service lead to.
pub(super) fn shared_cluster(service: &Arc<str>) -> Name {
    let name = envoy::cluster_name(service);
    if *name == **service { service.into() } else { Name::of(&name) }
}

/// Every VIP and port behind which a published VIP stands, also those that it is about to give up.
pub(super) fn routes(published: &Published) -> impl Iterator<Item = Route> {
    of_listeners(published).map(|(route, _)| route)
}

/// Where each of them leads, in the shape that `shape` has for its codec.
pub(super) fn targets(
    vip: &Arc<str>,
    published: &Published,
    shape: impl Fn(Codec) -> Shape,
) -> impl Iterator<Item = (Route, Target)> {
    of_listeners(published).map(move |(route, (nth, listener))| {
        let codec = codec(listener.protocol);
        let (entry, shape) = (published.entry.clone(), shape(codec));
        (route, Target { vip: vip.clone(), entry, nth, codec, shape })
    })
}

fn of_listeners(published: &Published) -> impl Iterator<Item = (Route, (u16, &Listener))> {
    let vips = || published.addresses.iter().chain(published.former.iter().copied());
    // Listeners have no port in common, so there are fewer than ports.
    (0..).zip(&published.entry.listeners).flat_map(move |(nth, listener)| {
        let ports = move |vip| listener.ports.iter().map(move |&port| (Route { vip, port }, (nth, listener)));
        vips().flat_map(ports)
    })
}

fn codec(protocol: Protocol) -> Codec {
    match protocol {
        Protocol::Tcp => Codec::Tcp,
        Protocol::Http => Codec::Http,
    }
}
