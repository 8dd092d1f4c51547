//! What resources can get into each other's way about, or look at together: a name, a service tag, a pair of labels; each
//! a number. Two that have the same number by chance are looked at together for nothing, and no harm is done.
//! Called by the other files of plan.

use std::hash::{BuildHasher, Hash};

use crate::cp::names;
use crate::model::name::Hostname;
use crate::model::resource::{Kind, ServiceKey};

pub(super) type Token = u64;

pub(super) fn of(mesh: &str, what: &impl Hash) -> Token {
    foldhash::fast::FixedState::default().hash_one((mesh, what))
}

/// A name that several may want.
pub(super) fn of_name(mesh: &str, name: &Hostname) -> Token {
    of(mesh, &("name", name.as_str()))
}

/// A service tag: the same as its own name, which is where all look who are about it.
pub(super) fn of_tag(mesh: &str, service: &str, domain: &Hostname) -> Token {
    match names::canonical(service, domain) {
        Ok(name) => of_name(mesh, &name),
        Err(_) => of(mesh, &("tag", service)),
    }
}

/// Who has a VIP, if that is not said by a name.
pub(super) fn of_key(key: &ServiceKey) -> Token {
    match (key.kind, Hostname::parse(&key.service)) {
        (Kind::Host | Kind::Fqdn, Ok(host)) => of_name(&key.mesh, &host),
        _ => of(&key.mesh, &(key.kind, &key.service)),
    }
}
