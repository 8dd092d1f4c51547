//! The connections to the database: its address, limits, tables up to date, and errors that name the server and the next step.
//! Keeps: every wait has an end; a connection that did not answer in time is never used again; a host that is given by name is
//! looked up again whenever it cannot be reached. Called by postgres.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, SqlSafeStr as _};
use tokio::sync::watch;
use tokio::time::error::Elapsed;

use super::settings::Settings;
use crate::cp::store::StoreError;
use crate::dns::lookup::lookup;

/// Records, documents, lease, notifications, and two to spare.
const CONNECTIONS_MAX: u32 = 6;
/// How long a connection may take, from waiting for a free one to its first use.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long looking up a name may take, with every nameserver and search domain.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// A question about the lease; shorter than the lease.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Reading or writing 100,000 records, on a busy server.
pub(super) const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Bringing the tables up to date, also while another replica does it.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(60);
const MIGRATIONS_TABLE: &str = "kuma_dns_migrations";

/// A database and our connections to it; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pool: PgPool,
    settings: Arc<Settings>,
    place: Arc<str>,
    /// The address of a host that was given by name.
    address: Arc<Mutex<Option<IpAddr>>>,
    /// Counts what whoever publishes should read.
    news: Arc<watch::Sender<u64>>,
    /// Counts what whoever follows the documents should read.
    document_news: Arc<watch::Sender<u64>>,
}

impl Server {
    /// Connects and brings the tables up to date.
    pub(super) async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(CONNECT_TIMEOUT);
        let counter = || Arc::new(watch::channel(0).0);
        let server = Self {
            pool: pool.connect_lazy_with(settings.options(None)),
            settings: Arc::new(settings.clone()),
            place: settings.to_string().into(),
            address: Arc::default(),
            news: counter(),
            document_news: counter(),
        };
        server.reach().await?;
        server.migrate().await?;
        Ok(server)
    }

    /// Finds the first address that lets us in. One connection without the pool, which would only say that it took too long.
    async fn reach(&self) -> Result<(), StoreError> {
        let refused = |source| StoreError::Connect { place: self.place.clone(), source };
        let mut outcome = Err(refused(None));
        for address in self.addresses().await? {
            let options = self.settings.options(address);
            outcome = match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
                Ok(Ok(_)) => {
                    self.settle_at(address);
                    return Ok(());
                }
                Ok(Err(error)) => Err(refused(Some(Box::new(error)))),
                Err(Elapsed { .. }) => Err(refused(None)),
            };
        }
        outcome
    }

    /// Where the host may be; nothing where there is nothing to look up.
    async fn addresses(&self) -> Result<Vec<Option<IpAddr>>, StoreError> {
        let Some(name) = self.settings.name() else { return Ok(vec![None]) };
        let place = || self.place.clone();
        match tokio::time::timeout(LOOKUP_TIMEOUT, lookup(name)).await {
            Ok(Ok(found)) => Ok(found.into_iter().map(Some).collect()),
            Ok(Err(source)) => Err(StoreError::Host { place: place(), source: Some(source) }),
            Err(Elapsed { .. }) => Err(StoreError::Host { place: place(), source: None }),
        }
    }

    fn settle_at(&self, address: Option<IpAddr>) {
        *self.address() = address;
        self.pool.set_connect_options(self.settings.options(address));
    }

    fn address(&self) -> std::sync::MutexGuard<'_, Option<IpAddr>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a failure: the name may stand for another address by now, and of several the next is tried.
    async fn look_again(&self) {
        let Ok(found) = self.addresses().await else { return };
        let now = *self.address();
        let next = found.iter().position(|address| *address == now).map_or(0, |at| (at + 1) % found.len());
        if let Some(next) = found.get(next).filter(|next| **next != now) {
            self.settle_at(*next);
        }
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let migration = |version, what: &'static str, sql: &'static str| {
            Migration::new(version, what.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        let mut migrator = Migrator::with_migrations(vec![
            migration(1, "records and lease", include_str!("migrations/1_replicas.sql")),
            migration(2, "documents and revisions", include_str!("migrations/2_documents.sql")),
        ]);
        migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
        let place = || self.place.clone();
        match tokio::time::timeout(MIGRATE_TIMEOUT, migrator.run(&self.pool)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(MigrateError::VersionMissing(found))) => Err(StoreError::Newer { place: place(), found }),
            Ok(Err(error)) => Err(StoreError::Migrate { place: place(), source: Box::new(error) }),
            Err(Elapsed { .. }) => Err(StoreError::Silent { verb: "bring up to date", place: place() }),
        }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Says that there are records to read.
    pub(super) fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    pub(super) fn document_news(&self) -> watch::Receiver<u64> {
        self.document_news.subscribe()
    }

    /// Says that there are documents to read.
    pub(super) fn tell_documents(&self) {
        self.document_news.send_modify(|count| *count += 1);
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<sqlx::Postgres>, StoreError> {
        match self.pool.acquire().await {
            Ok(connection) => Ok(connection),
            Err(error) => {
                self.look_again().await;
                Err(StoreError::Connect { place: self.place.clone(), source: Some(Box::new(error)) })
            }
        }
    }

    /// The outcome of a call; the connection of one that failed is closed: nobody knows what it is still busy with.
    pub(super) fn settle<T>(
        &self,
        verb: &'static str,
        mut connection: PoolConnection<sqlx::Postgres>,
        outcome: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, StoreError> {
        let place = || self.place.clone();
        let error = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => StoreError::Query { verb, place: place(), source: Box::new(error) },
            Err(Elapsed { .. }) => StoreError::Silent { verb, place: place() },
        };
        connection.close_on_drop();
        Err(error)
    }
}
