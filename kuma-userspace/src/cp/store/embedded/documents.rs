//! Documents in the store's file.
//! Keeps: their revision is in the file and never goes back; a damaged document moves to a table of its own, bytes and all, and
//! counts as removed. Called by store::embedded.

use std::convert::identity;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::watch;

use super::File;
use super::tables::{META, QUARANTINE_SECS, Tables, guarded, now_secs};
use crate::cp::store::documents::batch::{Moment, Outcome, decide};
use crate::cp::store::documents::recent::Recent;
use crate::cp::store::documents::{DocumentNews, Documents, Write, codec};
use crate::cp::store::{Quarantined, StoreError};
use crate::model::kind::ResourceKey;

/// `kind/mesh/name` -> checksum and document.
pub(super) const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
/// What was damaged: key -> (when it was found, why, the bytes).
pub(super) const ASIDE: TableDefinition<'_, &str, (u64, &str, &[u8])> =
    TableDefinition::new("documents_quarantine");
/// The revision of the last batch, in the table of facts.
const REVISION_KEY: &str = "documents_revision";

/// Documents in a file.
#[derive(Debug)]
pub struct EmbeddedDocuments {
    file: Arc<File>,
    recent: Mutex<Recent>,
    news: watch::Sender<u64>,
}

impl EmbeddedDocuments {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, recent: Mutex::default(), news: watch::channel(0).0 }
    }

    /// Held over a whole call, so that what is noted is in the order of the file.
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Documents for EmbeddedDocuments {
    fn read(&self, since: Option<u64>) -> Result<DocumentNews, StoreError> {
        let mut recent = self.recent();
        self.file.with("read", |tables| {
            guarded(|| {
                if let Some(since) = since
                    && let Some(keys) = recent.after(since, tables.revision()?)
                    && let Some(news) = tables.some(keys.into_iter().collect())?
                {
                    return Ok(news);
                }
                let before = tables.revision()?;
                let news = tables.all()?;
                if news.revision != before {
                    // What was set aside is noted nowhere.
                    recent.forget();
                }
                recent.begin(news.revision);
                Ok(news)
            })
        })
    }

    fn write(&self, writes: &[Write]) -> Result<u64, StoreError> {
        let mut recent = self.recent();
        let written = self.file.with("write", |tables| guarded(|| tables.decide_and_write(writes)));
        match written.and_then(identity) {
            Ok((revision, outcome)) => {
                recent.note(revision, outcome.into_keys());
                self.news.send_modify(|count| *count += 1);
                Ok(revision)
            }
            Err(error @ StoreError::Stale { .. }) => Err(error),
            Err(error) => {
                recent.forget();
                self.news.send_modify(|count| *count += 1);
                Err(error)
            }
        }
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

/// A batch that was stored.
type Stored = (u64, Outcome);

impl Tables {
    fn revision(&self) -> Result<u64, redb::Error> {
        let transaction = self.database.begin_read()?;
        Ok(transaction.open_table(META)?.get(REVISION_KEY)?.map_or(0, |value| value.value()))
    }

    /// These documents as they are now; nothing when one of them is damaged.
    fn some(&self, keys: Vec<ResourceKey>) -> Result<Option<DocumentNews>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(DOCUMENTS)?;
        let mut news = DocumentNews { revision: self.revision()?, ..DocumentNews::default() };
        for key in keys {
            let text = codec::text(&key);
            match table.get(text.as_str())?.map(|bytes| codec::decode(&text, bytes.value())) {
                Some(Ok(document)) => news.changed.push(document),
                Some(Err(_)) => return Ok(None),
                None => news.removed.push(key),
            }
        }
        news.quarantined = self.aside()?;
        Ok(Some(news))
    }

    /// Every document; what is damaged is set aside first.
    fn all(&self) -> Result<DocumentNews, redb::Error> {
        let mut news = DocumentNews { whole: true, ..DocumentNews::default() };
        let mut damaged = Vec::new();
        {
            let transaction = self.database.begin_read()?;
            for row in transaction.open_table(DOCUMENTS)?.iter()? {
                let (key, value) = row?;
                match codec::decode(key.value(), value.value()) {
                    Ok(document) => news.changed.push(document),
                    Err(damage) => damaged.push((key.value().to_owned(), damage.to_string())),
                }
            }
        }
        if !damaged.is_empty() {
            self.set_aside(&damaged)?;
        }
        news.revision = self.revision()?;
        news.quarantined = self.aside()?;
        Ok(news)
    }

    /// Moves damaged documents to their quarantine. Like a batch it has a revision of its own.
    fn set_aside(&self, damaged: &[(String, String)]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            let mut aside = transaction.open_table(ASIDE)?;
            let since_secs = now_secs();
            aside.retain(|_, (at_secs, _, _)| at_secs.saturating_add(QUARANTINE_SECS) >= since_secs)?;
            for (key, reason) in damaged {
                if let Some(bytes) = documents.remove(key.as_str())? {
                    aside.insert(key.as_str(), (since_secs, reason.as_str(), bytes.value()))?;
                }
            }
        }
        raise(&transaction)?;
        Ok(transaction.commit()?)
    }

    fn aside(&self) -> Result<Vec<Quarantined>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let kept_since_secs = now_secs().saturating_sub(QUARANTINE_SECS);
        let mut found = Vec::new();
        for row in transaction.open_table(ASIDE)?.iter()? {
            let (key, value) = row?;
            let (since_secs, reason, _) = value.value();
            if since_secs >= kept_since_secs {
                found.push(Quarantined { key: key.value().into(), since_secs, reason: reason.into() });
            }
        }
        Ok(found)
    }

    /// The inner result is the batch's, the outer one the file's.
    fn decide_and_write(&self, writes: &[Write]) -> Result<Result<Stored, StoreError>, redb::Error> {
        let transaction = self.database.begin_write()?;
        let revision = raise(&transaction)?;
        let moment = Moment { revision, now_secs: now_secs().cast_signed() };
        let decided = {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            let decided = decide(writes, moment, |key| {
                let text = codec::text(key);
                let found = documents.get(text.as_str())?;
                Ok::<_, redb::Error>(found.and_then(|bytes| codec::standing(&text, bytes.value())))
            })?;
            if let Ok(outcome) = &decided {
                for (key, document) in outcome {
                    let text = codec::text(key);
                    match document {
                        Some(document) => {
                            documents.insert(text.as_str(), codec::encode(document).as_slice())?
                        }
                        None => documents.remove(text.as_str())?,
                    };
                }
            }
            decided
        };
        match decided {
            Ok(outcome) => {
                transaction.commit()?;
                Ok(Ok((revision, outcome)))
            }
            Err(refused) => {
                transaction.abort()?;
                Ok(Err(refused))
            }
        }
    }
}

/// The next revision.
fn raise(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let revision = meta.get(REVISION_KEY)?.map_or(0, |value| value.value()) + 1;
    meta.insert(REVISION_KEY, revision)?;
    Ok(revision)
}
