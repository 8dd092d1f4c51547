//! Resources from files and from people, as one: what REST reads and writes, and what the plan is made of.
//! Keeps: a write is acknowledged when it is stored, and whoever reads after that sees it; a resource of a file is only
//! changed by an edit; what was acknowledged is checked as files are. Opened by cp, called by cp::rest.

mod catalog;
mod checks;
mod core;
mod document;
pub mod given;
mod layer;
mod state;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::catalog::{Catalog, Listed, Origin};
pub use self::layer::Layer;
pub(super) use self::layer::LayerReader;
pub(super) use self::writer::Writer;
use super::store::StoreError;
use super::store::documents::Expected;
use super::violation::Invalid;
use crate::model::kind::ResourceKey;

/// Writes that wait to be stored; beyond that the writer's callers wait.
const MAX_WAITING: usize = 1024;
/// The longest that a write may take: a database that is away answers later, or never.
const DEADLINE: Duration = Duration::from_secs(30);

/// Everybody's way to the resources; cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    catalog: watch::Receiver<Arc<Catalog>>,
    requests: mpsc::Sender<Request>,
}

/// What became of a put, and the revision that the document has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutOutcome {
    Created {
        revision: u64,
    },
    Updated {
        revision: u64,
    },
    /// It was just so.
    Unchanged {
        revision: u64,
    },
}

/// Why a write was refused. Nothing was stored, except where nobody knows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("{key} is given by {}: edit that file", file.display())]
    InFile { key: ResourceKey, file: PathBuf },
    #[error("{key} is not found")]
    NotFound { key: ResourceKey },
    #[error(
        "{key} is there although nobody gave it, so it cannot be deleted: put another one of its name in its place"
    )]
    NotGiven { key: ResourceKey },
    #[error("{key} is in another state than expected: read it again")]
    Stale { key: ResourceKey, expected: Expected, found: Option<u64> },
    #[error("the store refused the write, or did not say whether it took it")]
    Store(#[source] Arc<StoreError>),
    #[error("the write was not stored within {} s: read again later what became of it", DEADLINE.as_secs())]
    Late,
    #[error("the control plane is ending")]
    Ending,
}

/// A write that waits.
#[derive(Debug)]
struct Request {
    key: ResourceKey,
    change: Change,
    expected: Expected,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Option<PutOutcome>, Refusal>>;

enum Change {
    Put(Box<document::Parsed>),
    Delete,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Put(_) => "put",
            Self::Delete => "delete",
        })
    }
}

/// Checks a body by itself, as a put does before it is compared with what there is; its canonical form.
///
/// # Errors
/// Everything that is wrong with it.
pub fn canonical(key: &ResourceKey, body: &[u8]) -> Result<Arc<str>, Invalid> {
    document::parse(key, body).map(|parsed| parsed.body)
}

impl Registry {
    /// The newest state.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// The newest state, now and from now on; a reader's `diff` of `entries` costs the change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// Gives a resource, in the state that is expected.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn put(
        &self,
        key: ResourceKey,
        body: Bytes,
        expected: Expected,
    ) -> Result<PutOutcome, Refusal> {
        let parsed = document::parse(&key, &body)?;
        let outcome = self.ask(key, Change::Put(Box::new(parsed)), expected).await?;
        Ok(outcome.expect("a put has an outcome"))
    }

    /// Takes a resource away that was put, in the state that is expected.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn delete(&self, key: &ResourceKey, expected: Expected) -> Result<(), Refusal> {
        self.ask(key.clone(), Change::Delete, expected).await.map(drop)
    }

    async fn ask(
        &self,
        key: ResourceKey,
        change: Change,
        expected: Expected,
    ) -> Result<Option<PutOutcome>, Refusal> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            let request = Request { key, change, expected, answer };
            self.requests.send(request).await.map_err(|_closed| Refusal::Ending)?;
            answered.await.map_err(|_closed| Refusal::Ending)?
        };
        tokio::time::timeout(DEADLINE, asked).await.map_err(|_elapsed| Refusal::Late)?
    }
}

#[cfg(test)]
mod tests;
