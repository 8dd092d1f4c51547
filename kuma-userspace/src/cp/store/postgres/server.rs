//! The connections to the database: settings, limits, tables up to date, and errors that name the server and the next step.
//! Keeps: every wait has an end; a connection that did not answer in time is never used again. Called by postgres.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, SqlSafeStr as _};
use tokio::sync::watch;
use tokio::time::error::Elapsed;

use crate::cp::store::StoreError;
use crate::model::view::Port;

/// Records, documents, lease, notifications, and two to spare.
const CONNECTIONS_MAX: u32 = 6;
/// How long a connection may take, from waiting for a free one to its first use.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A question about the lease; shorter than the lease.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Reading or writing 100,000 records, on a busy server.
pub(super) const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Bringing the tables up to date, also while another replica does it.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Enforced by the server, so that a replica that was paused in the middle of a batch holds the others up no longer.
const IDLE_IN_TRANSACTION: &str = "2s";
/// Also enforced by the server.
const STATEMENT_TIMEOUT: &str = "30s";

const MIGRATIONS_TABLE: &str = "kuma_dns_migrations";

/// Which database, and as whom. The defaults are Kuma's.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    pub port: Port,
    pub user: String,
    pub password: String,
    pub db_name: String,
    pub tls: Tls,
}

/// How the connection is protected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    pub mode: TlsMode,
    /// Whom to trust; without it, the well-known authorities.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, for a server that asks for them.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// How much is checked; Kuma's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    #[default]
    Disable,
    /// Encrypted, to whoever answers.
    VerifyNone,
    /// The certificate is from an authority that we trust.
    VerifyCa,
    /// And it is for this host.
    VerifyFull,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: Port::new(15432),
            user: "kuma".into(),
            password: "kuma".into(),
            db_name: "kuma".into(),
            tls: Tls::default(),
        }
    }
}

/// Where it is, without the password.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, user, db_name, .. } = self;
        write!(f, "database {db_name} at {host}:{port} as user {user}")
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}, {:?}", self.tls)
    }
}

impl Settings {
    fn options(&self) -> PgConnectOptions {
        let mode = match self.tls.mode {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::VerifyNone => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        };
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port.get())
            .username(&self.user)
            .password(&self.password)
            .database(&self.db_name)
            .ssl_mode(mode)
            .application_name("kuma-dns")
            .options([
                ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
                ("statement_timeout", STATEMENT_TIMEOUT),
            ])
            .disable_statement_logging();
        if let Some(ca) = &self.tls.ca {
            options = options.ssl_root_cert(ca);
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        options
    }
}

/// A database and our connections to it; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pool: PgPool,
    place: Arc<str>,
    /// Counts what whoever publishes should read.
    news: Arc<watch::Sender<u64>>,
    /// Counts what whoever follows the documents should read.
    document_news: Arc<watch::Sender<u64>>,
}

impl Server {
    /// Connects and brings the tables up to date.
    pub(super) async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let place: Arc<str> = settings.to_string().into();
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(CONNECT_TIMEOUT);
        let pool = pool.connect_lazy_with(settings.options());
        let counter = || Arc::new(watch::channel(0).0);
        let server = Self { pool, place, news: counter(), document_news: counter() };
        // One connection without the pool, which would only say that it took too long.
        let options = settings.options();
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, options.connect());
        let refused = |source| StoreError::Connect { place: server.place.clone(), source };
        match connect.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(refused(Some(Box::new(error)))),
            Err(Elapsed { .. }) => return Err(refused(None)),
        }
        server.migrate().await?;
        Ok(server)
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
        self.pool
            .acquire()
            .await
            .map_err(|error| StoreError::Connect { place: self.place.clone(), source: Some(Box::new(error)) })
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
