//! What the control plane is doing and what troubles it, for `kuma-dns status`.
//! Keeps: always answerable, never blocks its writers. Written by cp::watch and cp::publish, read by cli.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::plan;
use super::store::Role;

/// No list is longer: what is counted beside it says how many there are.
pub const LISTED_MAX: usize = 1_000;

/// The state of the control plane at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What is read and watched.
    pub files: Vec<PathBuf>,
    /// Services, hosts and other resources that want a VIP, all meshes.
    pub services: usize,
    /// Those that have one.
    pub published: usize,
    /// Mistakes of the last edit; while there are any, the state before that edit is served.
    pub mistakes: Vec<String>,
    /// Why the store refused the last change; it is tried again.
    pub store_error: Option<String>,
    /// Services without an address of a family, because its pool is used up.
    pub starving: Vec<Starving>,
    pub starving_count: usize,
    /// Names, and ports of names, that two of a mesh want.
    pub conflicts: Vec<Conflict>,
    pub conflict_count: usize,
    /// Names that were meant for a resource and that it has not got.
    pub conditions: Vec<Condition>,
    pub condition_count: usize,
    /// Records of the store that could not be read and were set aside.
    pub quarantined: Vec<Quarantined>,
    pub quarantined_count: usize,
    /// Stored resources without effect, because a file gives one of the same name; the first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadowed: Vec<Shadowed>,
    /// Stored resources without effect, because they cannot be read; the first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Quarantined>,
    pub pools: Vec<Pool>,
    /// Where several replicas use one store: which part this one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
}

/// This control plane among its replicas.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "role", rename_all = "camelCase")]
pub enum Replica {
    /// It allocates for all.
    Leader { epoch: u64 },
    /// It publishes what the leader stores.
    Follower { leader: String },
}

pub(super) fn replica(role: &Role) -> Option<Replica> {
    match role {
        Role::Sole => None,
        Role::Leader { epoch } => Some(Replica::Leader { epoch: *epoch }),
        Role::Follower { leader } => Some(Replica::Follower { leader: leader.clone() }),
    }
}

/// A service that waits for an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Starving {
    pub mesh: String,
    pub service: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
}

/// A name and who has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Conflict {
    pub mesh: String,
    pub name: String,
    pub winner: String,
    pub loser: String,
}

impl From<plan::Conflict> for Conflict {
    fn from(plan::Conflict { mesh, name, winner, loser }: plan::Conflict) -> Self {
        Self { mesh, name, winner, loser }
    }
}

/// Kuma's condition `Generated=False`, with the one who has the name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Condition {
    pub mesh: String,
    /// Kind and name.
    pub resource: String,
    /// Kind and name of what was to make the name.
    pub generator: String,
    /// `Collision` or `TemplateError`.
    pub reason: &'static str,
    pub message: String,
}

impl From<plan::Condition> for Condition {
    fn from(plan::Condition { mesh, resource, generator, reason, message }: plan::Condition) -> Self {
        Self { mesh, resource, generator, reason, message }
    }
}

/// A damaged record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    pub key: String,
    pub since_secs: u64,
    pub reason: String,
}

/// A stored resource that a file stands before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Shadowed {
    pub resource: String,
    pub file: PathBuf,
}

/// A VIP pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Pool {
    pub range: String,
    /// Whose addresses: `dnsServer`, `ipam.meshService` and so on.
    pub of: &'static str,
    /// Addresses in it; a decimal number, since IPv6 pools do not fit into JSON's.
    pub size: String,
    pub held: usize,
    pub resting: usize,
}

/// The one status, written in turns; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusCell(Arc<watch::Sender<Status>>);

impl StatusCell {
    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
