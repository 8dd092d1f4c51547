//! Who has which name and which port, in one mesh: the first claim wins, a later different one is noted, an equal one is
//! nothing. Called by the other files of plan, in the order of the claims.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::token::{self, Token};
use super::{Backend, Condition, Conflict, Entry};
use crate::model::name::Hostname;
use crate::model::resource::{Kind, ServiceKey};
use crate::model::view::Port;

/// The claims of one mesh.
pub(super) struct Claims<'m> {
    pub(super) mesh: &'m str,
    pub(super) entries: BTreeMap<ServiceKey, Entry>,
    /// With what each is about.
    pub(super) conflicts: BTreeSet<(Token, Conflict)>,
    pub(super) conditions: BTreeSet<(Token, Condition)>,
    names: BTreeMap<Hostname, (ServiceKey, Rc<str>)>,
    ports: BTreeMap<ServiceKey, BTreeMap<Port, Claimed>>,
}

/// Who has a port, and for what.
struct Claimed {
    who: Rc<str>,
    what: Rc<str>,
}

/// A claim to a port.
pub(super) struct Claim {
    pub(super) port: Port,
    pub(super) who: Rc<str>,
    /// Claims to the same are equal.
    pub(super) what: Rc<str>,
    /// The name under which the port is known.
    pub(super) shown: Option<Hostname>,
    pub(super) cluster: String,
    pub(super) backend: Backend,
}

impl<'m> Claims<'m> {
    pub(super) fn new(mesh: &'m str) -> Self {
        Self {
            mesh,
            entries: BTreeMap::new(),
            conflicts: BTreeSet::new(),
            conditions: BTreeSet::new(),
            names: BTreeMap::new(),
            ports: BTreeMap::new(),
        }
    }

    /// Something of this mesh.
    pub(super) fn key(&self, kind: Kind, name: &str) -> ServiceKey {
        ServiceKey::of(self.mesh, kind, name)
    }

    /// Gives a name to a VIP unless another has it; then says who.
    pub(super) fn name(&mut self, name: Hostname, key: &ServiceKey, who: &Rc<str>) -> Result<(), Rc<str>> {
        if let Some((owner, winner)) = self.names.get(&name) {
            return if owner == key { Ok(()) } else { Err(winner.clone()) };
        }
        self.entries.entry(key.clone()).or_default().names.insert(name.clone());
        self.names.insert(name, (key.clone(), who.clone()));
        Ok(())
    }

    /// The VIP that has a name.
    pub(super) fn owner(&self, name: &Hostname) -> Option<&ServiceKey> {
        self.names.get(name).map(|(key, _)| key)
    }

    /// Lets a port of a VIP lead somewhere, unless it leads elsewhere already.
    pub(super) fn port(&mut self, key: &ServiceKey, claim: Claim) {
        let Claim { port, who, what, shown, cluster, backend } = claim;
        let ports = self.ports.entry(key.clone()).or_default();
        let claimed = Claimed { who, what };
        if let Some(winner) = ports.get(&port) {
            if winner.what != claimed.what {
                let name = shown.map_or_else(|| key.local(), |name| name.to_string());
                let [winner, loser] = told_apart(winner, &claimed);
                let name = format!("{name}:{}", port.get());
                let conflict = Conflict { mesh: self.mesh.into(), name, winner, loser };
                self.conflicts.insert((token::of_key(key), conflict));
            }
            return;
        }
        ports.insert(port, claimed);
        let listeners = &mut self.entries.entry(key.clone()).or_default().listeners;
        let listener = listeners.entry(cluster).or_default();
        listener.ports.insert(port);
        listener.backend = backend;
    }

    /// Has a VIP this port?
    pub(super) fn has_port(&self, key: &ServiceKey, port: Port) -> bool {
        self.ports.get(key).is_some_and(|ports| ports.contains_key(&port))
    }

    /// Notes that somebody has not got a name.
    pub(super) fn conflict(&mut self, name: &Hostname, winner: &str, loser: &str) {
        let about = token::of_name(self.mesh, name);
        let (mesh, name) = (self.mesh.to_owned(), name.to_string());
        self.conflicts.insert((about, Conflict { mesh, name, winner: winner.into(), loser: loser.into() }));
    }

    /// Notes that a name could not be made.
    pub(super) fn condition(
        &mut self,
        about: Token,
        resource: &str,
        generator: &str,
        reason: &'static str,
        message: String,
    ) {
        let (mesh, resource, generator) = (self.mesh.to_owned(), resource.to_owned(), generator.to_owned());
        self.conditions.insert((about, Condition { mesh, resource, generator, reason, message }));
    }
}

/// Both in words; one VirtualOutbound can want one port for two sets of tags.
fn told_apart(winner: &Claimed, loser: &Claimed) -> [String; 2] {
    [winner, loser].map(|claimed| {
        if winner.who == loser.who {
            format!("{} ({})", claimed.who, claimed.what)
        } else {
            claimed.who.to_string()
        }
    })
}
