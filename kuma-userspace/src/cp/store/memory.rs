//! A store that forgets: for tests, and for a control plane that shall leave nothing behind.
//! Keeps: the same rules as the others, except that nothing survives the process. Called by cp::publish and cp::registry.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::documents::batch::{Moment, Standing, decide};
use super::documents::recent::Recent;
use super::documents::{Document, DocumentNews, Documents, Write};
use super::{Loaded, Store, StoreError};
use crate::cp::allocator::Changes;
use crate::cp::record::Record;
use crate::model::kind::ResourceKey;
use crate::model::resource::ServiceKey;

/// Records in memory.
#[derive(Debug, Default)]
pub struct Memory {
    records: BTreeMap<ServiceKey, Record>,
}

impl Memory {
    fn expect(&self, record: &Record) -> Result<(), StoreError> {
        let found = self.records.get(&record.service).map_or(0, |stored| stored.version);
        if found == record.version {
            return Ok(());
        }
        Err(StoreError::Conflict { service: record.service.clone(), expected: record.version, found })
    }
}

impl Store for Memory {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(Loaded { records: self.records.values().cloned().collect(), ..Loaded::default() })
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        changes.puts.iter().chain(&changes.deletes).try_for_each(|record| self.expect(record))?;
        for record in &changes.deletes {
            self.records.remove(&record.service);
        }
        for record in &changes.puts {
            let stored = Record { version: record.version + 1, ..record.clone() };
            self.records.insert(record.service.clone(), stored);
        }
        Ok(())
    }
}

/// Documents in memory.
#[derive(Debug)]
pub struct MemoryDocuments {
    held: Mutex<Held>,
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Held {
    revision: u64,
    documents: BTreeMap<ResourceKey, Document>,
    recent: Recent,
}

impl Default for MemoryDocuments {
    fn default() -> Self {
        Self { held: Mutex::default(), news: watch::channel(0).0 }
    }
}

impl MemoryDocuments {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Documents for MemoryDocuments {
    fn read(&self, since: Option<u64>) -> Result<DocumentNews, StoreError> {
        let mut held = self.held();
        let revision = held.revision;
        held.recent.begin(revision);
        let mut news = DocumentNews { revision, ..DocumentNews::default() };
        let Some(keys) = since.and_then(|since| held.recent.after(since, revision)) else {
            news.whole = true;
            news.changed = held.documents.values().cloned().collect();
            return Ok(news);
        };
        for key in keys {
            match held.documents.get(&key) {
                Some(document) => news.changed.push(document.clone()),
                None => news.removed.push(key),
            }
        }
        Ok(news)
    }

    fn write(&self, writes: &[Write]) -> Result<u64, StoreError> {
        let mut held = self.held();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let moment = Moment { revision: held.revision + 1, now_secs: now.as_secs().cast_signed() };
        let decided = decide(writes, moment, |key| {
            let found = held.documents.get(key);
            let standing = |document: &Document| Standing {
                revision: document.revision,
                created_secs: document.created_secs,
            };
            Ok::<_, Infallible>(found.map(standing))
        });
        let outcome = match decided {
            Ok(decided) => decided?,
            Err(never) => match never {},
        };
        held.revision = moment.revision;
        held.recent.note(moment.revision, outcome.keys().cloned());
        for (key, document) in outcome {
            match document {
                Some(document) => drop(held.documents.insert(key, document)),
                None => drop(held.documents.remove(&key)),
            }
        }
        self.news.send_modify(|count| *count += 1);
        Ok(moment.revision)
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}
