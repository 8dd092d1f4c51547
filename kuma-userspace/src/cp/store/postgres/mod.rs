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
mod settings;

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

pub use self::documents::PostgresDocuments;
use self::records::{Mark, Read, Term};
pub use self::replica::Replica;
use self::server::Server;
pub use self::settings::{Settings, Tls, TlsMode};
use super::{Loaded, Recent, Role, Store, StoreError};
use crate::cp::allocator::Changes;

/// Everything is read this often, also when only little is new: somebody may have changed the rows by hand.
const WHOLE_READ: Duration = Duration::from_secs(600);

/// Records in a database that other replicas use as well.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    /// Where the connections live; calls block on it.
    runtime: Handle,
    holder: String,
    /// The term in which the records were read that the next batch is decided on.
    term: Option<Term>,
    /// Up to where the caller knows everything; nothing after a failure.
    known: Option<Known>,
}

/// What the caller has been told.
#[derive(Clone, Copy, Debug)]
struct Known {
    mark: Mark,
    /// When it was told everything the last time.
    whole_at: Instant,
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
        Ok((Self { server, runtime: Handle::current(), holder, term: None, known: None }, replica))
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
        (self.term, self.known) = (None, None);
        let read = self.wait(records::read(&self.server, &self.holder, None))?;
        self.take_up(read)
    }

    fn recent(&mut self) -> Result<Option<Recent>, StoreError> {
        let known = self.known.take().filter(|known| known.whole_at.elapsed() < WHOLE_READ);
        self.term = None;
        let Some(known) = known else { return Ok(None) };
        let read = self.wait(records::read(&self.server, &self.holder, Some(known.mark)))?;
        let (Some(removed), true) = (read.removed, read.damaged.is_empty()) else { return Ok(None) };
        let role = role(read.term.as_ref(), read.leader);
        self.term = read.term;
        self.known = Some(Known { mark: read.mark, ..known });
        Ok(Some(Recent { changed: read.records, removed, role, wall: Some(read.wall) }))
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        // After a failure the records must be read again: nobody knows which of them were stored.
        let (term, known) = (self.term.take().ok_or(StoreError::Superseded)?, self.known.take());
        let revision = self.wait(records::write(&self.server, &term, changes))?;
        self.term = Some(term);
        // Who holds the term is the only one who writes.
        self.known = known.map(|known| Known { mark: Mark { revision, ..known.mark }, ..known });
        Ok(())
    }

    fn news(&self) -> Option<watch::Receiver<u64>> {
        Some(self.server.news())
    }
}

impl Postgres {
    /// Everything was read: damage is set aside, by whoever leads.
    fn take_up(&mut self, read: Read) -> Result<Loaded, StoreError> {
        let Read { term, leader, wall, records, damaged, mut quarantined, mut mark, .. } = read;
        if let (Some(term), false) = (&term, damaged.is_empty()) {
            mark = self.wait(records::set_aside(&self.server, term, &damaged))?;
        }
        quarantined.extend(damaged.into_iter().map(|damaged| damaged.entry));
        let role = role(term.as_ref(), leader);
        self.term = term;
        self.known = Some(Known { mark, whole_at: Instant::now() });
        Ok(Loaded { records, quarantined, role, wall: Some(wall) })
    }
}

fn role(term: Option<&Term>, leader: String) -> Role {
    match term {
        Some(term) => Role::Leader { epoch: term.epoch },
        None => Role::Follower { leader },
    }
}
