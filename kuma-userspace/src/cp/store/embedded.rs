//! The store on disk: one redb file for records and documents, one process at a time.
//! Keeps: a batch is one transaction, on disk (fsync) when the call returns; after a failure the file is opened anew, so that
//! a disk that was full works again when it has room; a file of another schema is refused. Called by cp and cp::publish.

mod documents;
mod tables;

use std::io::ErrorKind::{InvalidData, UnexpectedEof};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::documents::EmbeddedDocuments;
use self::tables::{SCHEMA, Tables};
use super::{Loaded, Store, StoreError};
use crate::cp::allocator::Changes;

/// Records in a file.
#[derive(Debug)]
pub struct Embedded {
    file: Arc<File>,
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
        let file = File { path: path.clone(), tables: Mutex::new(None) };
        file.with("open", |_| Ok(()))?;
        if new {
            // A new file is safe only when its directory is on disk as well (fsync(2)).
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(create)?;
        }
        Ok(Self { file: Arc::new(file) })
    }

    /// The documents in the same file. Once: changes that are made through one are no news to another.
    pub fn documents(&self) -> EmbeddedDocuments {
        EmbeddedDocuments::new(Arc::clone(&self.file))
    }
}

/// The file, used by one call at a time.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Nothing after a failure, until the next call.
    tables: Mutex<Option<Tables>>,
}

impl File {
    /// Works on the open file, which is opened now if it is not. It is closed after a failure: redb refuses all work after a
    /// failed write.
    fn with<T>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&Tables) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut open = self.lock();
        let tables = match open.take() {
            Some(tables) => tables,
            None => self.open()?,
        };
        match work(&tables) {
            Ok(done) => {
                *open = Some(tables);
                Ok(done)
            }
            Err(source) => Err(failed(verb, self.path.clone(), source)),
        }
    }

    /// A call that panicked has left no file behind: it is taken out for each call.
    fn lock(&self) -> MutexGuard<'_, Option<Tables>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Tables, StoreError> {
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
}

fn failed(verb: &'static str, path: PathBuf, source: redb::Error) -> StoreError {
    StoreError::Failed { verb, path, source: Box::new(source) }
}

impl Store for Embedded {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.file.with("read", Tables::load)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        self.file.with("write", |tables| tables.write(changes))?
    }
}

#[cfg(test)]
mod tests;
