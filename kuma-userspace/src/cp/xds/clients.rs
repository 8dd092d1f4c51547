//! What the server knows of one client: who it is, what it has acknowledged, what it refuses. Called by the other
//! files of cp::xds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::per_type::PerType;
use crate::wire::node::Role;
use crate::wire::resource::{ResourceType, Version};

/// A stream of this server; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ClientId(pub(super) u64);

/// A resource that a client did not take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// Unknown: it is about everything that the client was sent.
    pub(super) version: Version,
    /// The client's own words.
    pub(super) reason: Arc<str>,
}

/// What a client holds, in terms of the generations of [`super::order`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Progress {
    /// Everything up to this generation is acknowledged; 0: nothing yet.
    pub(super) acked: PerType<u64>,
    /// By type and name; only refusals of the version that is published now.
    pub(super) refused: Arc<BTreeMap<(ResourceType, String), Refusal>>,
}

/// A client at one moment; cheap to copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) node: Arc<str>,
    pub(super) role: Role,
    /// The program and its version, if it says so.
    pub(super) software: Option<Arc<str>>,
    pub(super) connected: Instant,
    pub(super) progress: Progress,
}

impl Client {
    /// The last generation of `kind` that it has acknowledged.
    pub(super) fn acked(&self, kind: ResourceType) -> u64 {
        self.progress.acked[kind]
    }

    /// Did it refuse this resource?
    pub(super) fn refuses(&self, kind: ResourceType, name: &str) -> bool {
        // Nearly always empty, and asked for each listener.
        !self.progress.refused.is_empty() && self.progress.refused.contains_key(&(kind, name.to_owned()))
    }

    /// Did it refuse anything of this type?
    pub(super) fn refuses_any(&self, kind: ResourceType) -> bool {
        self.progress.refused.keys().any(|(refused, _)| *refused == kind)
    }
}
