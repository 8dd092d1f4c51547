//! Documents in the database: one row each, written by any replica.
//! Keeps: a batch is one transaction that holds the row of the revision until its end; a read is of one moment; a damaged
//! document moves to a table of its own, bytes and all, and counts as removed. Called by postgres.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, query, query_as};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::revisions::{self, What};
use super::server::{BATCH_TIMEOUT, CALL_TIMEOUT, Server};
use crate::cp::store::documents::batch::{Moment, Outcome, Standing, decide};
use crate::cp::store::documents::{DocumentNews, Documents, Write, codec};
use crate::cp::store::{Quarantined, StoreError};
use crate::model::kind::ResourceKey;

/// Where replicas tell each other that they stored documents; the payload is who.
pub(super) const CHANNEL: &str = "kuma_dns_documents";
/// How long a damaged document is kept for whoever wants to look into it: 30 days.
const QUARANTINE_SECS: i64 = 30 * 86_400;
/// A batch up to this size is one that somebody waits for.
const SMALL: usize = 100;
/// How often damage that is found is set aside before a read gives up: it may be found by several replicas at once.
const ATTEMPTS: usize = 3;

/// Documents in a database that other replicas use as well.
#[derive(Debug)]
pub struct PostgresDocuments {
    server: Server,
    /// Where the connections live; calls block on it.
    runtime: Handle,
    holder: String,
}

/// What was read, before the damage in it was set aside.
#[derive(Default)]
struct Read {
    news: DocumentNews,
    damaged: Vec<Damaged>,
}

struct Damaged {
    key: String,
    reason: String,
    bytes: Vec<u8>,
}

/// How a write ended that did not fail.
type Written = Result<u64, StoreError>;

impl PostgresDocuments {
    pub(super) fn new(server: Server, runtime: Handle, holder: String) -> Self {
        Self { server, runtime, holder }
    }

    async fn read_since(&self, since: Option<u64>) -> Result<DocumentNews, StoreError> {
        for _ in 0..ATTEMPTS {
            let mut connection = self.server.acquire().await?;
            let outcome = timeout(BATCH_TIMEOUT, read(&mut connection, since)).await;
            let Read { news, damaged } = self.server.settle("read documents in", connection, outcome)?;
            if damaged.is_empty() {
                return Ok(news);
            }
            let mut connection = self.server.acquire().await?;
            let outcome = timeout(BATCH_TIMEOUT, set_aside(&mut connection, &self.holder, &damaged)).await;
            self.server.settle("set damaged documents aside in", connection, outcome)?;
        }
        Err(StoreError::Damaged { attempts: ATTEMPTS })
    }

    async fn write_all(&self, writes: &[Write]) -> Result<u64, StoreError> {
        let limit: Duration = if writes.len() > SMALL { BATCH_TIMEOUT } else { CALL_TIMEOUT };
        let mut connection = self.server.acquire().await?;
        let outcome = timeout(limit, write(&mut connection, &self.holder, writes)).await;
        self.server.settle("write documents to", connection, outcome)?
    }
}

impl Documents for PostgresDocuments {
    fn read(&self, since: Option<u64>) -> Result<DocumentNews, StoreError> {
        self.runtime.block_on(self.read_since(since))
    }

    fn write(&self, writes: &[Write]) -> Result<u64, StoreError> {
        let written = self.runtime.block_on(self.write_all(writes));
        if !matches!(written, Err(StoreError::Stale { .. })) {
            // Also after a failure: it may have been stored before the answer was lost.
            self.server.tell_documents();
        }
        written
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.server.document_news()
    }
}

async fn read(connection: &mut PgConnection, since: Option<u64>) -> Result<Read, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let position = revisions::position(&mut transaction, What::Documents).await?;
    let since = since.filter(|since| position.knows(*since));
    let mut read = Read::default();
    read.news.revision = position.revision;
    read.news.whole = since.is_none();
    {
        const ALL: &str = "SELECT key, document FROM kuma_dns_documents WHERE revision > $1";
        let after = since.map_or(-1, u64::cast_signed);
        let mut rows = query_as::<_, (String, Vec<u8>)>(ALL).bind(after).fetch(&mut *transaction);
        while let Some((key, bytes)) = rows.try_next().await? {
            match codec::decode(&key, &bytes) {
                Ok(document) => read.news.changed.push(document),
                Err(damage) => read.damaged.push(Damaged { key, reason: damage.to_string(), bytes }),
            }
        }
    }
    if let Some(since) = since {
        let gone: Vec<(String,)> = query_as(
            "SELECT key FROM kuma_dns_removed AS r WHERE what = 'documents' AND revision > $1
             AND NOT EXISTS (SELECT 1 FROM kuma_dns_documents AS d WHERE d.key = r.key)",
        )
        .bind(since.cast_signed())
        .fetch_all(&mut *transaction)
        .await?;
        read.news.removed = gone.iter().filter_map(|(key,)| codec::parse(key)).collect();
    }
    let aside: Vec<(String, i64, String)> = query_as(
        "SELECT key, since_secs, reason FROM kuma_dns_documents_quarantine
         WHERE since_secs >= extract(epoch FROM clock_timestamp()) - $1 ORDER BY 2, 1",
    )
    .bind(QUARANTINE_SECS)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    let entry = |(key, since_secs, reason): (String, i64, String)| Quarantined {
        key,
        since_secs: since_secs.cast_unsigned(),
        reason,
    };
    read.news.quarantined = aside.into_iter().map(entry).collect();
    Ok(read)
}

/// Moves damaged documents to their quarantine, unless they were replaced meanwhile.
async fn set_aside(
    connection: &mut PgConnection,
    holder: &str,
    damaged: &[Damaged],
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let revision = revisions::raise(&mut transaction, What::Documents).await?;
    for Damaged { key, reason, bytes } in damaged {
        let gone = query("DELETE FROM kuma_dns_documents WHERE key = $1 AND document = $2")
            .bind(key)
            .bind(bytes)
            .execute(&mut *transaction)
            .await?;
        if gone.rows_affected() == 0 {
            continue;
        }
        query(
            "INSERT INTO kuma_dns_documents_quarantine
             VALUES ($1, extract(epoch FROM clock_timestamp())::bigint, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(key)
        .bind(reason)
        .bind(bytes)
        .execute(&mut *transaction)
        .await?;
        revisions::note_removed(&mut transaction, What::Documents, revision, std::slice::from_ref(key))
            .await?;
    }
    query(
        "DELETE FROM kuma_dns_documents_quarantine
         WHERE since_secs < extract(epoch FROM clock_timestamp()) - $1",
    )
    .bind(QUARANTINE_SECS)
    .execute(&mut *transaction)
    .await?;
    query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(holder).execute(&mut *transaction).await?;
    transaction.commit().await
}

async fn write(
    connection: &mut PgConnection,
    holder: &str,
    writes: &[Write],
) -> Result<Written, sqlx::Error> {
    // Dropped without a commit, it is rolled back.
    let mut transaction = connection.begin().await?;
    let revision = revisions::raise(&mut transaction, What::Documents).await?;
    let stored = stored(&mut transaction, writes).await?;
    let (now_secs,): (i64,) =
        query_as("SELECT extract(epoch FROM clock_timestamp())::bigint").fetch_one(&mut *transaction).await?;
    let look = |key: &ResourceKey| Ok::<_, Infallible>(stored.get(&codec::text(key)).copied());
    match decide(writes, Moment { revision, now_secs }, look) {
        Ok(Ok(outcome)) => store(&mut transaction, revision, outcome).await?,
        Ok(Err(refused)) => return Ok(Err(refused)),
        Err(never) => match never {},
    }
    query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(holder).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Ok(revision))
}

/// What is there of these documents. Nobody else can change it: the row of the revision is ours.
async fn stored(
    transaction: &mut PgConnection,
    writes: &[Write],
) -> Result<BTreeMap<String, Standing>, sqlx::Error> {
    let keys: Vec<String> = writes.iter().map(|write| codec::text(write.key())).collect();
    let rows: Vec<(String, Vec<u8>)> =
        query_as("SELECT key, document FROM kuma_dns_documents WHERE key = ANY($1)")
            .bind(keys)
            .fetch_all(transaction)
            .await?;
    let standing = |(key, bytes): (String, Vec<u8>)| {
        let standing = codec::standing(&key, &bytes)?;
        Some((key, standing))
    };
    Ok(rows.into_iter().filter_map(standing).collect())
}

async fn store(transaction: &mut PgConnection, revision: u64, outcome: Outcome) -> Result<(), sqlx::Error> {
    let (mut keys, mut bytes, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for (key, document) in outcome {
        match document {
            Some(document) => {
                keys.push(codec::text(&key));
                bytes.push(codec::encode(&document));
            }
            None => gone.push(codec::text(&key)),
        }
    }
    if !gone.is_empty() {
        query("DELETE FROM kuma_dns_documents WHERE key = ANY($1)")
            .bind(&gone)
            .execute(&mut *transaction)
            .await?;
        revisions::note_removed(transaction, What::Documents, revision, &gone).await?;
    }
    if !keys.is_empty() {
        query(
            "INSERT INTO kuma_dns_documents (key, revision, document)
             SELECT key, $1, document FROM unnest($2::text[], $3::bytea[]) AS new (key, document)
             ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, document = excluded.document",
        )
        .bind(revision.cast_signed())
        .bind(keys)
        .bind(bytes)
        .execute(transaction)
        .await?;
    }
    Ok(())
}
