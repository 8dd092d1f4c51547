//! The tables of the store's file: the part that speaks redb.
//! Keeps: one batch, one transaction; damaged records move to a table of their own, bytes and all. Called by
//! store::embedded.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle as _};

use super::documents::{ASIDE, DOCUMENTS};
use crate::cp::allocator::Changes;
use crate::cp::record::Record;
use crate::cp::store::{Loaded, Quarantined, StoreError, codec};

/// `mesh/service` -> checksum and JSON.
pub(super) const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vips");
/// What was damaged: `mesh/service` -> (when it was found, why, the bytes).
pub(super) const QUARANTINE: TableDefinition<'_, &str, (u64, &str, &[u8])> =
    TableDefinition::new("quarantine");
/// Facts about the file.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const SCHEMA_KEY: &str = "schema";
/// Raised when a file written by this version cannot be read by the one before.
pub(super) const SCHEMA: u64 = 1;
/// Pages that redb keeps in memory: the records of about 100,000 services.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// How long a damaged record is kept for whoever wants to look into it: 30 days.
pub(super) const QUARANTINE_SECS: u64 = 30 * 86_400;
/// Missing records that are reported one by one.
const MAX_MISSING: u64 = 1_000;

/// The open file.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) database: Database,
}

/// What the file holds.
#[derive(Default)]
struct Read {
    records: Vec<Record>,
    /// The records' keys and bytes; kept only when something is damaged.
    sound: Vec<(String, Vec<u8>)>,
    damaged: Vec<Damaged>,
}

struct Damaged {
    key: String,
    reason: String,
    bytes: Vec<u8>,
}

/// Runs what reads a file that may have been damaged from outside: redb trusts its own structures and panics where they
/// are broken. Such a file is an error like any other.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let broken = || redb::Error::Corrupted("its structure is broken".into());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| Err(broken()))
}

/// Tells records from damage. Records that the table counts and that cannot be reached are damage too.
fn sort_out(table: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Read, redb::Error> {
    let (mut read, mut seen) = (Read::default(), 0);
    for row in table.iter()? {
        let (key, value) = row?;
        seen += 1;
        match codec::decode(key.value(), value.value()) {
            Ok(record) => read.records.push(record),
            Err(damage) => read.damaged.push(Damaged {
                key: key.value().to_owned(),
                reason: damage.to_string(),
                bytes: value.value().to_vec(),
            }),
        }
    }
    for number in seen..table.len()?.min(seen + MAX_MISSING) {
        let (key, reason) = (format!("(missing {number})"), "the record cannot be found any more".to_owned());
        read.damaged.push(Damaged { key, reason, bytes: Vec::new() });
    }
    if !read.damaged.is_empty() {
        for row in table.iter()? {
            let (key, value) = row?;
            if codec::decode(key.value(), value.value()).is_ok() {
                read.sound.push((key.value().to_owned(), value.value().to_vec()));
            }
        }
    }
    Ok(read)
}

impl Tables {
    /// Opens the file and reads all of it once, if it has our schema; says which one it has.
    pub(super) fn open(path: &Path) -> Result<(Self, u64), redb::Error> {
        guarded(|| {
            let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
            let tables = Self { database };
            let schema = tables.schema()?;
            if schema == SCHEMA {
                tables.read()?;
            }
            Ok((tables, schema))
        })
    }

    /// Every record; what is damaged is set aside first.
    pub(super) fn load(&self) -> Result<Loaded, redb::Error> {
        guarded(|| {
            let read = self.read()?;
            if !read.damaged.is_empty() {
                self.set_damage_aside()?;
            }
            let mut quarantined = self.quarantined()?;
            let kept_since_secs = now_secs().saturating_sub(QUARANTINE_SECS);
            if quarantined.iter().any(|record| record.since_secs < kept_since_secs) {
                self.forget_before(kept_since_secs)?;
                quarantined.retain(|record| record.since_secs >= kept_since_secs);
            }
            Ok(Loaded { records: read.records, quarantined, ..Loaded::default() })
        })
    }

    /// The schema of the file; a new one gets ours, and one of an earlier version the tables that it lacks.
    fn schema(&self) -> Result<u64, redb::Error> {
        let transaction = self.database.begin_write()?;
        let found = {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(SCHEMA_KEY)?.map(|value| value.value());
            if found.is_none() {
                meta.insert(SCHEMA_KEY, SCHEMA)?;
            }
            found
        };
        let lacks = !transaction.list_tables()?.any(|table| table.name() == DOCUMENTS.name());
        if found.is_none() || (found == Some(SCHEMA) && lacks) {
            transaction.open_table(RECORDS)?;
            transaction.open_table(QUARANTINE)?;
            transaction.open_table(DOCUMENTS)?;
            transaction.open_table(ASIDE)?;
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(found.unwrap_or(SCHEMA))
    }

    fn read(&self) -> Result<Read, redb::Error> {
        let transaction = self.database.begin_read()?;
        sort_out(&transaction.open_table(RECORDS)?)
    }

    /// Moves what is damaged to the quarantine and writes the rest anew: a changed key hides its neighbours as well.
    fn set_damage_aside(&self) -> Result<(), redb::Error> {
        let since_secs = now_secs();
        let transaction = self.database.begin_write()?;
        {
            let read = sort_out(&transaction.open_table(RECORDS)?)?;
            let mut quarantine = transaction.open_table(QUARANTINE)?;
            for Damaged { key, reason, bytes } in &read.damaged {
                quarantine.insert(key.as_str(), (since_secs, reason.as_str(), bytes.as_slice()))?;
            }
            transaction.delete_table(RECORDS)?;
            let mut records = transaction.open_table(RECORDS)?;
            for (key, bytes) in &read.sound {
                records.insert(key.as_str(), bytes.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn quarantined(&self) -> Result<Vec<Quarantined>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(QUARANTINE)?;
        let mut found = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let (since_secs, reason, _) = value.value();
            found.push(Quarantined { key: key.value().into(), since_secs, reason: reason.into() });
        }
        Ok(found)
    }

    fn forget_before(&self, secs: u64) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(QUARANTINE)?.retain(|_, (since_secs, _, _)| since_secs >= secs)?;
        Ok(transaction.commit()?)
    }

    /// The inner result is the batch's, the outer one the file's.
    pub(super) fn write(&self, changes: &Changes) -> Result<Result<(), StoreError>, redb::Error> {
        let transaction = self.database.begin_write()?;
        let written = {
            let mut records = transaction.open_table(RECORDS)?;
            apply(&mut records, changes)?
        };
        match written {
            Ok(()) => transaction.commit()?,
            Err(_) => transaction.abort()?,
        }
        Ok(written)
    }
}

pub(super) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn apply(
    records: &mut redb::Table<'_, &str, &[u8]>,
    changes: &Changes,
) -> Result<Result<(), StoreError>, redb::Error> {
    for (record, keep) in
        changes.deletes.iter().map(|r| (r, false)).chain(changes.puts.iter().map(|r| (r, true)))
    {
        let key = codec::key(&record.service);
        let service = || record.service.clone();
        let found = records.get(key.as_str())?.map_or(0, |bytes| codec::version(&key, bytes.value()));
        if found != record.version {
            return Ok(Err(StoreError::Conflict { service: service(), expected: record.version, found }));
        }
        if !keep {
            records.remove(key.as_str())?;
            continue;
        }
        match codec::encode(record) {
            Ok(bytes) => records.insert(key.as_str(), bytes.as_slice())?,
            Err(source) => return Ok(Err(StoreError::Encode { service: service(), source })),
        };
    }
    Ok(Ok(()))
}
