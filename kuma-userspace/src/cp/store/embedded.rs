//! The store on disk: one redb file, one process at a time.
//! Keeps: a batch is one transaction, on disk (fsync) when `commit` returns; after a failure the file is opened anew, so that
//! a disk that was full works again when it has room; a file of another schema is refused. Called by cp and cp::publish.

mod tables;

use std::io::ErrorKind::{InvalidData, UnexpectedEof};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use self::tables::{SCHEMA, Tables};
use super::{Loaded, Store, StoreError};
use crate::cp::allocator::Changes;

/// Records in a file.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    /// Nothing after a failure, until the next call.
    tables: Option<Tables>,
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
        let mut store = Self { path: path.clone(), tables: None };
        store.tables()?;
        if new {
            // A new file is safe only when its directory is on disk as well (fsync(2)).
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(create)?;
        }
        Ok(store)
    }

    /// The open file, opened now if it is not.
    fn tables(&mut self) -> Result<&Tables, StoreError> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => self.open_tables()?,
        };
        Ok(self.tables.insert(tables))
    }

    fn open_tables(&self) -> Result<Tables, StoreError> {
        let path = || self.path.clone();
        match Tables::open(&self.path) {
            Ok((tables, SCHEMA)) => Ok(tables),
            Ok((_, found)) => Err(StoreError::Schema { path: path(), found, wanted: SCHEMA }),
            Err(redb::Error::DatabaseAlreadyOpen) => Err(StoreError::InUse { path: path() }),
            // A foreign file is invalid data, or ends too early; every other I/O error is the disk's.
            Err(redb::Error::Io(error)) if !matches!(error.kind(), InvalidData | UnexpectedEof) => {
                Err(failed("open", path(), redb::Error::Io(error)))
            }
            Err(source) => Err(StoreError::Unreadable { path: path(), source: Box::new(source) }),
        }
    }

    /// Closes the file: redb refuses all work after a failed write.
    fn give_up(&mut self, verb: &'static str, source: redb::Error) -> StoreError {
        self.tables = None;
        failed(verb, self.path.clone(), source)
    }
}

fn failed(verb: &'static str, path: PathBuf, source: redb::Error) -> StoreError {
    StoreError::Failed { verb, path, source: Box::new(source) }
}

impl Store for Embedded {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.tables()?.load().map_err(|source| self.give_up("read", source))
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        self.tables()?.write(changes).map_err(|source| self.give_up("write", source))?
    }
}

#[cfg(test)]
mod tests;
