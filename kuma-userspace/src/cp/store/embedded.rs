//! The store on disk: one redb file, one process at a time.
//! Keeps: a batch is one transaction, on disk (fsync) when `commit` returns; damaged records move to a table of their own,
//! bytes and all; a file of another schema is refused. Called by cp (open) and cp::publish.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

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

/// Records in a file.
#[derive(Debug)]
pub struct Embedded {
    database: Database,
    path: PathBuf,
}

/// What the file holds: records, and the keys of what is none with the reason.
#[derive(Default)]
struct Read {
    records: Vec<Record>,
    damaged: Vec<(String, String)>,
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
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.clone() },
            other => StoreError::Unreadable { path: path.clone(), source: Box::new(other.into()) },
        })?;
        if new {
            // A new file is safe only when its directory is on disk as well (fsync(2)).
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(create)?;
        }
        let store = Self { database, path };
        let found = store.schema().map_err(|source| store.failed("read", source))?;
        match found {
            SCHEMA => Ok(store),
            found => Err(StoreError::Schema { path: store.path.clone(), found, wanted: SCHEMA }),
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
        let table = transaction.open_table(RECORDS)?;
        let mut read = Read::default();
        for row in table.iter()? {
            let (key, value) = row?;
            match codec::decode(key.value(), value.value()) {
                Ok(record) => read.records.push(record),
                Err(damage) => read.damaged.push((key.value().to_owned(), damage.to_string())),
            }
        }
        Ok(read)
    }

    fn set_aside(&self, damaged: &[(String, String)]) -> Result<(), redb::Error> {
        let since_secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let transaction = self.database.begin_write()?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            let mut quarantine = transaction.open_table(QUARANTINE)?;
            for (key, reason) in damaged {
                if let Some(bytes) = records.remove(key.as_str())? {
                    quarantine.insert(key.as_str(), (since_secs, reason.as_str(), bytes.value()))?;
                }
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
        let found = records.get(key.as_str())?.map_or(0, |bytes| codec::version(bytes.value()));
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
        let Read { records, damaged } = self.read().map_err(|source| self.failed("read", source))?;
        if !damaged.is_empty() {
            self.set_aside(&damaged).map_err(|source| self.failed("set damaged records aside in", source))?;
        }
        let quarantined = self.quarantined().map_err(|source| self.failed("read", source))?;
        Ok(Loaded { records, quarantined })
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        self.write(changes).map_err(|source| self.failed("write", source))?
    }
}
