//! The store in PostgreSQL (15 and later), for any number of replicas on one database: one row per service and per document.
//! Keeps: what was decided on records of one epoch of the lease is stored in that epoch or not at all, so a leader that was
//! paused or cut off changes nothing afterwards; a batch is one transaction; no call waits for ever. Called by cp and
//! cp::publish.

mod documents;
mod lease;
mod records;
mod replica;
mod revisions;
mod server;

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::watch;

pub use self::documents::PostgresDocuments;
use self::records::Term;
pub use self::replica::Replica;
use self::server::Server;
pub use self::server::{Settings, Tls, TlsMode};
use super::{Loaded, Role, Store, StoreError};
use crate::cp::allocator::Changes;

/// Records in a database that other replicas use as well.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    /// Where the connections live; calls block on it.
    runtime: Handle,
    holder: String,
    /// The term in which the records were read that the next batch is decided on.
    term: Option<Term>,
}

impl Postgres {
    /// Connects, brings the tables up to date, and asks for the lease once: the only replica leads from the start. The
    /// [`Replica`] keeps the lease from then on; without it another replica takes over.
    ///
    /// # Errors
    /// See [`StoreError`]: no connection, or tables of a newer version.
    pub async fn connect(settings: &Settings) -> Result<(Self, Replica), StoreError> {
        let server = Server::connect(settings).await?;
        let holder = replica::name();
        let mut replica = Replica::new(server.clone(), holder.clone());
        replica.ask().await;
        Ok((Self { server, runtime: Handle::current(), holder, term: None }, replica))
    }

    /// The documents in the same database.
    pub fn documents(&self) -> PostgresDocuments {
        PostgresDocuments::new(self.server.clone(), self.runtime.clone(), self.holder.clone())
    }

    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }
}

impl Store for Postgres {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.term = None;
        let read = self.wait(records::read(&self.server, &self.holder))?;
        if let (Some(term), false) = (&read.term, read.damaged.is_empty()) {
            self.wait(records::set_aside(&self.server, term, &read.damaged))?;
        }
        let mut quarantined = read.quarantined;
        quarantined.extend(read.damaged.into_iter().map(|damaged| damaged.entry));
        let role = match &read.term {
            Some(term) => Role::Leader { epoch: term.epoch },
            None => Role::Follower { leader: read.leader },
        };
        self.term = read.term;
        Ok(Loaded { records: read.records, quarantined, role, wall: Some(read.wall) })
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        // After a failure the records must be read again: nobody knows which of them were stored.
        let term = self.term.take().ok_or(StoreError::Superseded)?;
        self.wait(records::write(&self.server, &term, changes))?;
        self.term = Some(term);
        Ok(())
    }

    fn news(&self) -> Option<watch::Receiver<u64>> {
        Some(self.server.news())
    }
}
