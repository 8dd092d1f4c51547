//! The rows of the store: the part that speaks SQL.
//! Keeps: a read is of one moment and says who led then; a write is one transaction that first proves, under a lock, that
//! the lease is still in the epoch that the records were read in. Called by postgres.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, query, query_as};
use tokio::time::timeout;

use super::replica::CHANNEL;
use super::revisions::{self, What};
use super::server::{BATCH_TIMEOUT, Server};
use crate::cp::allocator::Changes;
use crate::cp::record::Record;
use crate::cp::store::{Quarantined, StoreError, codec};
use crate::model::resource::ServiceKey;

/// How long a damaged record is kept for whoever wants to look into it: 30 days.
const QUARANTINE_SECS: u64 = 30 * 86_400;

/// The right to write: the lease as it stood when the records were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Term {
    pub(super) holder: Arc<str>,
    pub(super) epoch: u64,
}

/// Where a reader stands: with the same quarantine, what is newer is all that is new to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) revision: u64,
    /// Of damaged records: an allocator must know of those whatever it knows of the others.
    pub(super) quarantined: usize,
}

/// Everything, or everything new, at one moment.
pub(super) struct Read {
    /// Nothing when another replica led.
    pub(super) term: Option<Term>,
    pub(super) leader: String,
    /// The database's clock.
    pub(super) wall: SystemTime,
    pub(super) records: Vec<Record>,
    /// Nothing when the records are all there are.
    pub(super) removed: Option<Vec<ServiceKey>>,
    pub(super) damaged: Vec<Damaged>,
    pub(super) quarantined: Vec<Quarantined>,
    pub(super) mark: Mark,
}

/// A row that is no record.
pub(super) struct Damaged {
    pub(super) entry: Quarantined,
    bytes: Vec<u8>,
}

/// How a write ended that did not fail.
type Written<T> = Result<T, StoreError>;

/// Reads what is new since a mark, or everything without one and where the rest is not known.
pub(super) async fn read(server: &Server, holder: &str, since: Option<Mark>) -> Result<Read, StoreError> {
    let mut connection = server.acquire().await?;
    let outcome = timeout(BATCH_TIMEOUT, read_rows(&mut connection, holder, since)).await;
    server.settle("read", connection, outcome)
}

async fn read_rows(
    connection: &mut PgConnection,
    holder: &str,
    since: Option<Mark>,
) -> Result<Read, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let (now, leader, epoch): (f64, Option<String>, Option<i64>) = query_as(
        "SELECT extract(epoch FROM clock_timestamp())::float8, l.holder, l.epoch
         FROM (SELECT 1) AS one LEFT JOIN kuma_dns_lease AS l ON l.id = 1",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let now = Duration::try_from_secs_f64(now).unwrap_or_default();
    let quarantined = quarantined(&mut transaction, now.as_secs()).await?;
    let position = revisions::position(&mut transaction, What::Vips).await?;
    let mark = Mark { revision: position.revision, quarantined: quarantined.len() };
    let known = |since: &Mark| position.knows(since.revision) && since.quarantined == mark.quarantined;
    let since = since.filter(known);
    let (records, damaged) = changed(&mut transaction, since, now.as_secs()).await?;
    let removed = match since {
        Some(since) => Some(removed(&mut transaction, since).await?),
        None => None,
    };
    transaction.rollback().await?;
    let leader = leader.unwrap_or_default();
    let ours = epoch.filter(|_| leader == holder);
    Ok(Read {
        term: ours.map(|epoch| Term { holder: holder.into(), epoch: epoch.cast_unsigned() }),
        leader,
        wall: UNIX_EPOCH + now,
        records,
        removed,
        damaged,
        quarantined,
        mark,
    })
}

async fn quarantined(transaction: &mut PgConnection, now_secs: u64) -> Result<Vec<Quarantined>, sqlx::Error> {
    let rows: Vec<(String, i64, String)> = query_as(
        "SELECT key, since_secs, reason FROM kuma_dns_quarantine WHERE since_secs >= $1 ORDER BY 2, 1",
    )
    .bind(now_secs.saturating_sub(QUARANTINE_SECS).cast_signed())
    .fetch_all(transaction)
    .await?;
    Ok(rows.into_iter().map(entry).collect())
}

/// Records later than a mark. Row by row: the bytes of 100,000 at once would be as much again.
async fn changed(
    transaction: &mut PgConnection,
    since: Option<Mark>,
    now_secs: u64,
) -> Result<(Vec<Record>, Vec<Damaged>), sqlx::Error> {
    let (mut records, mut damaged) = (Vec::new(), Vec::new());
    let after = since.map_or(-1, |mark| mark.revision.cast_signed());
    let mut rows =
        query_as::<_, (String, Vec<u8>)>("SELECT key, record FROM kuma_dns_vips WHERE revision > $1")
            .bind(after)
            .fetch(transaction);
    while let Some((key, bytes)) = rows.try_next().await? {
        match codec::decode(&key, &bytes) {
            Ok(record) => records.push(record),
            Err(damage) => {
                let entry = Quarantined { key, since_secs: now_secs, reason: damage.to_string() };
                damaged.push(Damaged { entry, bytes });
            }
        }
    }
    Ok((records, damaged))
}

/// What went later than a mark and is not there again.
async fn removed(transaction: &mut PgConnection, since: Mark) -> Result<Vec<ServiceKey>, sqlx::Error> {
    let rows: Vec<(String,)> = query_as(
        "SELECT key FROM kuma_dns_removed AS r WHERE what = 'vips' AND revision > $1
         AND NOT EXISTS (SELECT 1 FROM kuma_dns_vips AS v WHERE v.key = r.key)",
    )
    .bind(since.revision.cast_signed())
    .fetch_all(transaction)
    .await?;
    Ok(rows.iter().filter_map(|(key,)| ServiceKey::parse(key)).collect())
}

fn entry((key, since_secs, reason): (String, i64, String)) -> Quarantined {
    Quarantined { key, since_secs: since_secs.cast_unsigned(), reason }
}

/// Moves damaged records to the quarantine, bytes and all.
pub(super) async fn set_aside(server: &Server, term: &Term, damaged: &[Damaged]) -> Result<Mark, StoreError> {
    let mut connection = server.acquire().await?;
    let outcome = timeout(BATCH_TIMEOUT, move_all(&mut connection, term, damaged)).await;
    server.settle("set damaged records aside in", connection, outcome)?
}

async fn move_all(
    connection: &mut PgConnection,
    term: &Term,
    damaged: &[Damaged],
) -> Result<Written<Mark>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    if !holds(&mut transaction, term).await? {
        return Ok(Err(StoreError::Superseded));
    }
    let revision = revisions::raise(&mut transaction, What::Vips).await?;
    let keys: Vec<String> = damaged.iter().map(|damaged| damaged.entry.key.clone()).collect();
    revisions::note_removed(&mut transaction, What::Vips, revision, &keys).await?;
    for Damaged { entry, bytes } in damaged {
        query("INSERT INTO kuma_dns_quarantine VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
            .bind(&entry.key)
            .bind(entry.since_secs.cast_signed())
            .bind(&entry.reason)
            .bind(bytes)
            .execute(&mut *transaction)
            .await?;
        query("DELETE FROM kuma_dns_vips WHERE key = $1").bind(&entry.key).execute(&mut *transaction).await?;
        let kept_since_secs = entry.since_secs.saturating_sub(QUARANTINE_SECS);
        query("DELETE FROM kuma_dns_quarantine WHERE since_secs < $1")
            .bind(kept_since_secs.cast_signed())
            .execute(&mut *transaction)
            .await?;
    }
    let now_secs = damaged.iter().map(|damaged| damaged.entry.since_secs).max().unwrap_or(0);
    let quarantined = quarantined(&mut transaction, now_secs).await?.len();
    transaction.commit().await?;
    Ok(Ok(Mark { revision, quarantined }))
}

/// Stores a batch; returns its revision.
pub(super) async fn write(server: &Server, term: &Term, changes: &Changes) -> Result<u64, StoreError> {
    let mut connection = server.acquire().await?;
    let outcome = timeout(BATCH_TIMEOUT, write_all(&mut connection, term, changes)).await;
    server.settle("write", connection, outcome)?
}

async fn write_all(
    connection: &mut PgConnection,
    term: &Term,
    changes: &Changes,
) -> Result<Written<u64>, sqlx::Error> {
    let mut rows = (Vec::new(), Vec::new());
    for record in &changes.puts {
        match codec::encode(record) {
            Ok(bytes) => {
                rows.0.push(codec::key(&record.service));
                rows.1.push(bytes);
            }
            Err(source) => {
                let service = record.service.clone();
                return Ok(Err(StoreError::Encode { service, source }));
            }
        }
    }
    // Dropped without a commit, it is rolled back.
    let mut transaction = connection.begin().await?;
    if !holds(&mut transaction, term).await? {
        return Ok(Err(StoreError::Superseded));
    }
    if let Some(conflict) = conflict(&mut transaction, changes).await? {
        return Ok(Err(conflict));
    }
    let revision = revisions::raise(&mut transaction, What::Vips).await?;
    let gone: Vec<String> = changes.deletes.iter().map(|record| codec::key(&record.service)).collect();
    query("DELETE FROM kuma_dns_vips WHERE key = ANY($1)").bind(&gone).execute(&mut *transaction).await?;
    revisions::note_removed(&mut transaction, What::Vips, revision, &gone).await?;
    query(
        "INSERT INTO kuma_dns_vips (key, revision, record)
         SELECT key, $1, record FROM unnest($2::text[], $3::bytea[]) AS new (key, record)
         ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, record = excluded.record",
    )
    .bind(revision.cast_signed())
    .bind(rows.0)
    .bind(rows.1)
    .execute(&mut *transaction)
    .await?;
    query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(&*term.holder).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Ok(revision))
}

/// Is the lease still in this term? It stays so until the transaction ends: whoever wants to take it over waits for the
/// row's lock, and whoever took it over has raised the epoch.
async fn holds(transaction: &mut PgConnection, term: &Term) -> Result<bool, sqlx::Error> {
    let found = query("SELECT 1 FROM kuma_dns_lease WHERE id = 1 AND holder = $1 AND epoch = $2 FOR UPDATE")
        .bind(&*term.holder)
        .bind(term.epoch.cast_signed())
        .fetch_optional(transaction)
        .await?;
    Ok(found.is_some())
}

/// The first record that is not in the version that the batch was decided on. The rows stay locked.
async fn conflict(
    transaction: &mut PgConnection,
    changes: &Changes,
) -> Result<Option<StoreError>, sqlx::Error> {
    let records = || changes.deletes.iter().chain(&changes.puts);
    let keys: Vec<String> = records().map(|record| codec::key(&record.service)).collect();
    let rows: Vec<(String, Vec<u8>)> =
        query_as("SELECT key, record FROM kuma_dns_vips WHERE key = ANY($1) FOR UPDATE")
            .bind(keys)
            .fetch_all(transaction)
            .await?;
    let stored: BTreeMap<String, u64> = rows
        .into_iter()
        .map(|(key, bytes)| {
            let version = codec::version(&key, &bytes);
            (key, version)
        })
        .collect();
    Ok(records().find_map(|record| {
        let found = stored.get(&codec::key(&record.service)).copied().unwrap_or(0);
        let (service, expected) = (record.service.clone(), record.version);
        (found != expected).then_some(StoreError::Conflict { service, expected, found })
    }))
}
