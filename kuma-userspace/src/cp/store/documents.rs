//! Resources that were given to the control plane itself (REST), as documents: one small row each, beside the records.
//! Keeps: a batch is stored as a whole or not at all, and is safe from a crash when `write` returns; a document that somebody
//! else changed is never overwritten unasked; revisions are in the order of commits, so whoever reads since a revision misses
//! nothing. Called by cp::registry.

pub(super) mod batch;
pub(super) mod codec;
pub(super) mod recent;

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Quarantined, StoreError};
use crate::model::kind::ResourceKey;

/// A place for documents, shared by all replicas. Calls block: they are made from a thread that may.
pub trait Documents: Send + Sync + 'static {
    /// What changed since a revision; everything when none is given, or when it is not known any more.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&self, since: Option<u64>) -> Result<DocumentNews, StoreError>;

    /// Stores a batch in order; returns the revision that its documents have from then on.
    ///
    /// # Errors
    /// Nothing of the batch is stored: a document was not as expected ([`StoreError::Stale`]), or the store failed. After a
    /// failure on the way to a database nobody knows which: read it again.
    fn write(&self, writes: &[Write]) -> Result<u64, StoreError>;

    /// Counts up whenever `read` may find something new, also from other replicas.
    fn news(&self) -> watch::Receiver<u64>;
}

/// A resource as it was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    pub key: ResourceKey,
    /// Rises with every batch; all documents of a batch have the same.
    pub revision: u64,
    /// Seconds of the Unix epoch.
    pub created_secs: i64,
    pub modified_secs: i64,
    /// Canonical JSON, without what others decide: times, kri and status.
    pub body: Arc<str>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Put { key: ResourceKey, body: Arc<str>, expected: Expected },
    Delete { key: ResourceKey, expected: Expected },
}

impl Write {
    /// What it changes.
    pub fn key(&self) -> &ResourceKey {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// In which state.
    pub fn expected(&self) -> Expected {
        match self {
            Self::Put { expected, .. } | Self::Delete { expected, .. } => *expected,
        }
    }
}

/// The state that a document must be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expected {
    #[default]
    Any,
    Absent,
    Revision(u64),
}

impl Expected {
    /// Is this the state? Nothing stands for a document that is not there.
    pub fn allows(self, found: Option<u64>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Revision(revision) => found == Some(revision),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Absent => f.write_str("nothing"),
            Self::Revision(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// What a read found, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DocumentNews {
    /// To read on from.
    pub revision: u64,
    pub changed: Vec<Document>,
    pub removed: Vec<ResourceKey>,
    /// These are all documents there are; what is not among `changed` is gone.
    pub whole: bool,
    /// What could not be read and was set aside in the last 30 days.
    pub quarantined: Vec<Quarantined>,
}
