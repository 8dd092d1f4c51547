//! The store on disk: one redb file, one process at a time.
//! Keeps: a batch is one transaction, on disk (fsync) when `commit` returns; damaged records move to a table of their own,
//! bytes and all; a file of another schema is refused. Called by cp (open) and cp::publish.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Loaded, Quarantined, Store, StoreError, codec};
use crate::cp::allocator::Changes;
use crate::cp::record::Record;

/// `mesh/service` -> checksum and JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vips");
/// What was damaged: `mesh/service` -> (when it was found, why, the bytes).
const QUARANTINE: TableDefinition<'_, &str, (u64, &str, &[u8])> = TableDefinition::new("quarantine");
/// Facts about the file.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SCHEMA_KEY: &str = "schema";
/// Raised when a file written by this version cannot be read by the one before.
const SCHEMA: u64 = 1;
/// Pages that redb keeps in memory: the records of about 100,000 services.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Missing records that are reported one by one.
const MAX_MISSING: u64 = 1_000;

/// Records in a file.
#[derive(Debug)]
pub struct Embedded {
    database: Database,
    path: PathBuf,
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
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
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

impl Embedded {
    /// The file's name inside the data directory.
    pub const FILE: &'static str = "vips.redb";

    /// Opens the store in `directory`; both are made when they are not there, readable by their owner alone.
    ///
    /// # Errors
    /// See [`StoreError`]; a file that another process has open is one of them.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(Self::FILE);
        let create = |source| StoreError::Create { path: path.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(create)?;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let new = options.open(&path).and_then(|file| file.metadata()).map_err(create)?.len() == 0;
        let store = Self::open_file(path.clone())?;
        if new {
            // A new file is safe only when its directory is on disk as well (fsync(2)).
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(create)?;
        }
        Ok(store)
    }

    /// Opens the file and reads all of it once.
    fn open_file(path: PathBuf) -> Result<Self, StoreError> {
        let opened = guarded(|| {
            let database = Database::builder().set_cache_size(CACHE_BYTES).create(&path)?;
            let store = Self { database, path: path.clone() };
            let schema = store.schema()?;
            if schema == SCHEMA {
                store.read()?;
            }
            Ok((store, schema))
        });
        match opened {
            Ok((store, SCHEMA)) => Ok(store),
            Ok((_, found)) => Err(StoreError::Schema { path, found, wanted: SCHEMA }),
            Err(redb::Error::DatabaseAlreadyOpen) => Err(StoreError::InUse { path }),
            Err(source) => Err(StoreError::Unreadable { path, source: Box::new(source) }),
        }
    }

    /// The schema of the file; a new one gets ours.
    fn schema(&self) -> Result<u64, redb::Error> {
        let transaction = self.database.begin_write()?;
        let found = {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(SCHEMA_KEY)?.map(|value| value.value());
            if found.is_none() {
                meta.insert(SCHEMA_KEY, SCHEMA)?;
                transaction.open_table(RECORDS)?;
                transaction.open_table(QUARANTINE)?;
            }
            found
        };
        match found {
            Some(found) => transaction.abort().map(|()| found)?,
            None => transaction.commit().map(|()| SCHEMA)?,
        };
        Ok(found.unwrap_or(SCHEMA))
    }

    fn read(&self) -> Result<Read, redb::Error> {
        let transaction = self.database.begin_read()?;
        sort_out(&transaction.open_table(RECORDS)?)
    }

    /// Moves what is damaged to the quarantine and writes the rest anew: a changed key hides its neighbours as well.
    fn set_damage_aside(&self) -> Result<(), redb::Error> {
        let since_secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
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

    /// The inner result is the batch's, the outer one the file's.
    fn write(&self, changes: &Changes) -> Result<Result<(), StoreError>, redb::Error> {
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

    fn failed(&self, verb: &'static str, source: redb::Error) -> StoreError {
        StoreError::Failed { verb, path: self.path.clone(), source: Box::new(source) }
    }
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

impl Store for Embedded {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let load = || {
            let read = self.read()?;
            if !read.damaged.is_empty() {
                self.set_damage_aside()?;
            }
            Ok(Loaded { records: read.records, quarantined: self.quarantined()? })
        };
        guarded(load).map_err(|source| self.failed("read", source))
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        self.write(changes).map_err(|source| self.failed("write", source))?
    }
}

#[cfg(test)]
mod tests;
