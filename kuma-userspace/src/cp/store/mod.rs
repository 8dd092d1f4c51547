//! Where records (who has which VIP) and documents (resources given by REST) are kept: one small row each, behind two small
//! traits.
//! Keeps: a batch is stored as a whole or not at all, and is safe from a crash when `commit` returns; a record that
//! somebody else changed is never overwritten; a damaged record stops nobody but itself. Called by cp::publish.

mod codec;
pub mod documents;
mod embedded;
mod memory;
pub mod postgres;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

pub use self::codec::Damage;
use self::documents::{Documents, Expected};
pub use self::embedded::{Embedded, EmbeddedDocuments};
pub use self::memory::{Memory, MemoryDocuments};
use self::postgres::Replica;
pub use self::postgres::{Postgres, PostgresDocuments};
use super::allocator::Changes;
use super::record::Record;
use crate::dns::lookup::LookupError;
use crate::model::kind::ResourceKey;
use crate::model::resource::ServiceKey;

/// A place for records. Calls may block: they are made from a thread that may.
pub trait Store: Send + 'static {
    /// Every record. Damaged ones are set aside first: they are reported here and by later loads, but not in the way.
    ///
    /// # Errors
    /// The store as a whole cannot be read.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// What others have stored, for a caller whose records are those of the last `load`, of later calls of this, and of its
    /// own commits since. Nothing where the store cannot tell, and after a failure: then `load` comes first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn recent(&mut self) -> Result<Option<Recent>, StoreError> {
        Ok(None)
    }

    /// Stores a batch, in the versions that its records say (0: there must be none yet), each raised by one.
    ///
    /// # Errors
    /// Nothing of the batch is stored: a version was not the expected one, another replica has led since the last `load`,
    /// or the store failed. After any of them `load` comes first.
    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError>;

    /// Counts up whenever `recent` may find something new, for stores that others write as well.
    fn news(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// Which store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreConfig {
    /// Forgets.
    Memory,
    /// In this directory, for one control plane alone.
    Embedded(PathBuf),
    /// In a database, for any number of control planes on the same resources.
    Postgres(postgres::Settings),
}

impl StoreConfig {
    /// Opens it.
    ///
    /// # Errors
    /// It cannot be opened, or somebody else has it.
    pub async fn open(self) -> Result<Opened, StoreError> {
        match self {
            Self::Memory => {
                Ok(Opened::alone(Box::new(Memory::default()), Arc::new(MemoryDocuments::default())))
            }
            Self::Embedded(directory) => {
                // Reads the whole file, so on a thread that may block.
                let opened = tokio::task::spawn_blocking(move || Embedded::open(&directory)).await;
                let records = opened.map_err(StoreError::Panicked)??;
                let documents = Arc::new(records.documents());
                Ok(Opened::alone(Box::new(records), documents))
            }
            Self::Postgres(settings) => {
                let (records, replica) = Postgres::connect(&settings).await?;
                let documents = Arc::new(records.documents());
                Ok(Opened { records: Box::new(records), documents, replica: Some(replica) })
            }
        }
    }
}

/// A store that was opened.
pub struct Opened {
    pub records: Box<dyn Store>,
    pub documents: Arc<dyn Documents>,
    /// The task that plays our part among those who use the store as well.
    pub replica: Option<Replica>,
}

impl Opened {
    fn alone(records: Box<dyn Store>, documents: Arc<dyn Documents>) -> Self {
        Self { records, documents, replica: None }
    }
}

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loaded {
    pub records: Vec<Record>,
    pub quarantined: Vec<Quarantined>,
    /// Who may commit on top of this.
    pub role: Role,
    /// The clock that all who use the store share, if there is one.
    pub wall: Option<SystemTime>,
}

/// What others stored and removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recent {
    /// In the versions that are stored.
    pub changed: Vec<Record>,
    pub removed: Vec<ServiceKey>,
    /// Who may commit on top of this.
    pub role: Role,
    pub wall: Option<SystemTime>,
}

/// This process among those that use the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// There is no other.
    #[default]
    Sole,
    /// It allocates for all; the epoch rises with every new leader.
    Leader { epoch: u64 },
    /// It publishes what the leader has stored. The name is empty when there never was one.
    Follower { leader: String },
}

impl Role {
    /// May this process allocate?
    pub fn allocates(&self) -> bool {
        !matches!(self, Self::Follower { .. })
    }
}

/// A record that was set aside, with its bytes, because it could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// The key as it stands in the store.
    pub key: String,
    pub since_secs: u64,
    pub reason: String,
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: std::io::Error },
    #[error(
        "store {} is in use by another process: stop the other `kuma-dns up`, or use another --instance or --data",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "store {} is no store of kuma-dns or is damaged as a whole: restore it from a backup, or move it away and every \
         service gets a new VIP",
        path.display()
    )]
    Unreadable { path: PathBuf, source: Box<redb::Error> },
    #[error("store {} has schema {found}, this version of kuma-dns reads {wanted}: use the version that wrote it", path.display())]
    Schema { path: PathBuf, found: u64, wanted: u64 },
    #[error("cannot {verb} store {}", path.display())]
    Failed { verb: &'static str, path: PathBuf, source: Box<redb::Error> },
    #[error("record of service {service} has version {found}, expected {expected}: somebody else changed it")]
    Conflict { service: ServiceKey, expected: u64, found: u64 },
    #[error("{key} {}, expected {expected}: somebody else changed it, read it again", found_words(*found))]
    Stale { key: ResourceKey, expected: Expected, found: Option<u64> },
    #[error(
        "cannot connect to PostgreSQL, {place}: is it running and reachable, and may this user come from this host \
         (pg_hba.conf, store.postgres)?"
    )]
    Connect { place: Arc<str>, source: Option<Box<sqlx::Error>> },
    #[error("cannot find the host of PostgreSQL, {place}: is store.postgres.host right?")]
    Host { place: Arc<str>, source: Option<LookupError> },
    #[error("cannot {verb} PostgreSQL, {place}")]
    Query { verb: &'static str, place: Arc<str>, source: Box<sqlx::Error> },
    #[error("cannot {verb} PostgreSQL, {place}: no answer in time, is it overloaded or cut off?")]
    Silent { verb: &'static str, place: Arc<str> },
    #[error(
        "cannot bring the tables up to date in PostgreSQL, {place}: this user must be allowed to create tables"
    )]
    Migrate { place: Arc<str>, source: Box<sqlx::migrate::MigrateError> },
    #[error("PostgreSQL, {place}, has tables of a newer kuma-dns (migration {found}): use that version")]
    Newer { place: Arc<str>, found: i64 },
    #[error("documents are damaged again and again: they were set aside {attempts} times and others came")]
    Damaged { attempts: usize },
    #[error("opening the store panicked")]
    Panicked(#[source] tokio::task::JoinError),
    #[error("another replica leads since the store was read: nothing was stored")]
    Superseded,
    #[error("record of service {service} cannot be written")]
    Encode { service: ServiceKey, source: serde_json::Error },
}

fn found_words(found: Option<u64>) -> String {
    found.map_or_else(|| "is not there".to_owned(), |revision| format!("is at revision {revision}"))
}
