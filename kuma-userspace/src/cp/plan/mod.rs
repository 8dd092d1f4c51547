//! From resources to what is to be: who gets a VIP, what it is called, and where each of its ports leads. Pure.
//! Keeps: the same resources give the same plan in whatever order they come; a name belongs to one VIP of its mesh, a port
//! of a VIP leads to one place; who wanted it too and who won is said; a change costs what has to do with it, however
//! much else there is. Called by cp::publish.
//!
//! In reading order: [`rules`] (what counts for all), [`drawing`] (the plan of some resources: [`legacy`],
//! [`virtual_outbounds`], [`mesh_services`], [`generators`], with [`claims`] to settle who has what), [`pieces`] with
//! [`token`] and [`selection`] (who has to do with whom), [`follow`] (from one state to the next).

mod claims;
mod drawing;
mod follow;
mod generators;
mod legacy;
mod mesh_services;
mod pieces;
mod rules;
mod selection;
#[cfg(test)]
mod tests;
mod token;
mod virtual_outbounds;

use std::collections::{BTreeMap, BTreeSet};

pub use self::follow::Planner;
pub(in crate::cp) use self::generators::Generators;
use crate::model::name::Hostname;
use crate::model::resource::{Endpoint, Protocol};
use crate::model::view::Port;

/// A VIP to be, while it is drawn.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Entry {
    names: BTreeSet<Hostname>,
    /// By cluster: the ports that lead there.
    listeners: BTreeMap<String, Listener>,
}

/// Ports that lead to one place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Listener {
    ports: BTreeSet<Port>,
    backend: Backend,
}

/// Where connections go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Backend {
    protocol: Protocol,
    endpoints: BTreeSet<Endpoint>,
}

/// Two in a mesh wanted one name, or one port of a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    pub mesh: String,
    /// `redis.mesh`, or `redis.mesh:6379`.
    pub name: String,
    pub winner: String,
    pub loser: String,
}

/// Why a resource has not got the name that was meant for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Condition {
    pub mesh: String,
    /// Kind and name: `MeshService redis`.
    pub resource: String,
    /// What was to make the name: `HostnameGenerator local`.
    pub generator: String,
    /// Kuma's words: `Collision`, `TemplateError`.
    pub reason: &'static str,
    pub message: String,
}

impl Backend {
    /// One of several instances.
    fn add(&mut self, first: bool, protocol: Protocol, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.protocol = if first { protocol } else { self.protocol.common(protocol) };
        self.endpoints.extend(endpoints);
    }
}
