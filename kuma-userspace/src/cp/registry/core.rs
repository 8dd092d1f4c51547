//! What the registry's task does in one step: takes edits of files, reads what others stored, checks and stores writes.
//! Keeps: a write is stored before it is in the state; a write that is refused harms no other of its transaction; nothing is
//! refused, or called unchanged, by what another replica has overtaken. Its calls block. Called by registry::writer.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::layer::Layer;
use super::state::State;
use super::{Answer, Change, PutOutcome, Refusal, Request, checks};
use crate::cp::store::documents::{Documents, Expected, Write};
use crate::cp::store::{Quarantined, StoreError};
use crate::model::kind::{ResourceKey, ResourceKind};

/// The state and where it is stored.
pub(super) struct Core {
    pub(super) state: State,
    documents: Arc<dyn Documents>,
    /// The revision up to which documents were read.
    since: Option<u64>,
    /// Documents that the store has set aside.
    pub(super) quarantined: Vec<Quarantined>,
}

/// What became of a request, for whoever waits.
pub(super) type Done = (Answer, Result<Option<PutOutcome>, Refusal>);

/// A request that may be made, and who waits for it.
struct Accepted {
    write: Write,
    created: bool,
    answer: Answer,
}

impl Accepted {
    fn outcome(&self, revision: u64) -> Option<PutOutcome> {
        match (&self.write, self.created) {
            (Write::Delete { .. }, _) => None,
            (Write::Put { .. }, true) => Some(PutOutcome::Created { revision }),
            (Write::Put { .. }, false) => Some(PutOutcome::Updated { revision }),
        }
    }
}

impl Core {
    /// Nothing is read yet.
    pub(super) fn new(documents: Arc<dyn Documents>) -> Self {
        Self { state: State::new(), documents, since: None, quarantined: Vec::new() }
    }

    pub(super) fn take_layer(&mut self, layer: &Layer) {
        self.state.take_files(layer);
    }

    /// Reads what was stored since the last time.
    pub(super) fn catch_up(&mut self) -> Result<(), StoreError> {
        let mut news = self.documents.read(self.since)?;
        self.since = Some(news.revision);
        self.quarantined = std::mem::take(&mut news.quarantined);
        self.state.take_news(news);
        Ok(())
    }

    /// Stores what was asked for, in as few transactions as its order allows.
    pub(super) fn write(&mut self, requests: Vec<Request>) -> Vec<Done> {
        let mut waiting = VecDeque::from(requests);
        let mut done = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let batch = self.batch(&mut waiting, &mut done);
            self.store(batch, &mut done);
        }
        done
    }

    /// The next requests that do not stand on one another.
    fn batch(&mut self, waiting: &mut VecDeque<Request>, done: &mut Vec<Done>) -> Vec<Accepted> {
        let mut batch: Vec<Accepted> = Vec::new();
        let mut touched: BTreeSet<ResourceKey> = BTreeSet::new();
        let mut fresh: Option<Result<(), Arc<StoreError>>> = None;
        while let Some(request) = waiting.front() {
            let is_mesh = |key: &ResourceKey| key.kind == ResourceKind::Mesh;
            let stands_on = touched.contains(&request.key)
                || !touched.is_empty() && (is_mesh(&request.key) || touched.iter().any(is_mesh));
            if stands_on {
                break;
            }
            let Some(mut request) = waiting.pop_front() else { break };
            let mut verdict = self.judge(&mut request);
            // With a mesh goes key material, whoever stored it.
            let certain = matches!(verdict, Ok(None)) && !is_mesh(&request.key);
            if !certain {
                // Once for all of them: each was asked for before.
                match fresh.get_or_insert_with(|| self.catch_up().map_err(Arc::new)) {
                    Ok(()) => verdict = self.judge(&mut request),
                    Err(error) => verdict = Err(Refusal::Store(Arc::clone(error))),
                }
            }
            match verdict {
                Ok(None) => {
                    touched.insert(request.key.clone());
                    batch.push(self.accept(request));
                }
                Ok(Some(unchanged)) => done.push((request.answer, Ok(Some(unchanged)))),
                Err(refusal) => done.push((request.answer, Err(refusal))),
            }
        }
        batch
    }

    /// May it be made, or is it so already?
    fn judge(&self, request: &mut Request) -> Result<Option<PutOutcome>, Refusal> {
        checks::check(&self.state, &request.key, &mut request.change)?;
        let Change::Put(parsed) = &request.change else { return Ok(None) };
        let stored = self.state.stored(&request.key);
        let same = stored.filter(|stored| stored.body == parsed.body && self.state.is_readable(&stored.key));
        let same = same.filter(|stored| request.expected.allows(Some(stored.revision)));
        Ok(same.map(|stored| PutOutcome::Unchanged { revision: stored.revision }))
    }

    fn accept(&self, request: Request) -> Accepted {
        let Request { key, change, expected, answer } = request;
        let created = self.state.stored(&key).is_none();
        let write = match change {
            Change::Put(parsed) => Write::Put { key, body: parsed.body, expected },
            Change::Delete => Write::Delete { key, expected },
        };
        Accepted { write, created, answer }
    }

    /// Stores a batch as a whole; one that finds its document in another state is taken out of it.
    fn store(&mut self, mut batch: Vec<Accepted>, done: &mut Vec<Done>) {
        while !batch.is_empty() {
            let mut writes: Vec<Write> = batch.iter().map(|accepted| accepted.write.clone()).collect();
            writes.extend(self.secrets_of_meshes(&writes));
            let outcome = self.documents.write(&writes).and_then(|revision| {
                // Whoever reads after the acknowledgement sees it.
                self.catch_up().map(|()| revision)
            });
            match outcome {
                Ok(revision) => {
                    done.extend(batch.into_iter().map(|accepted| {
                        let outcome = accepted.outcome(revision);
                        (accepted.answer, Ok(outcome))
                    }));
                    return;
                }
                Err(StoreError::Stale { key, expected, found }) => {
                    let at = batch.iter().position(|accepted| *accepted.write.key() == key);
                    // A secret that went with its mesh was deleted by somebody else: it is read again.
                    let Some(at) = at else {
                        if let Err(error) = self.catch_up() {
                            return refuse(batch, error, done);
                        }
                        continue;
                    };
                    let Accepted { write, answer, .. } = batch.remove(at);
                    let gone = found.is_none() && matches!(write, Write::Delete { .. });
                    let refusal = match (gone, expected) {
                        (true, Expected::Any) => Refusal::NotFound { key },
                        _ => Refusal::Stale { key, expected, found },
                    };
                    done.push((answer, Err(refusal)));
                }
                Err(error) => return refuse(batch, error, done),
            }
        }
    }

    /// Key material of a mesh goes with it.
    fn secrets_of_meshes(&self, writes: &[Write]) -> Vec<Write> {
        let meshes = writes.iter().filter_map(|write| match write {
            Write::Delete { key, .. } if key.kind == ResourceKind::Mesh => Some(&key.name),
            _ => None,
        });
        meshes
            .flat_map(|mesh| self.state.secrets_of(mesh))
            .map(|key| Write::Delete { key, expected: Expected::Any })
            .collect()
    }
}

fn refuse(batch: Vec<Accepted>, error: StoreError, done: &mut Vec<Done>) {
    let error = Arc::new(error);
    done.extend(batch.into_iter().map(|accepted| (accepted.answer, Err(Refusal::Store(error.clone())))));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::cp::registry::document;
    use crate::cp::store::MemoryDocuments;
    use crate::cp::store::documents::DocumentNews;

    /// A store that can be cut off.
    #[derive(Default)]
    struct Far {
        documents: MemoryDocuments,
        cut: AtomicBool,
    }

    impl Documents for Far {
        fn read(&self, since: Option<u64>) -> Result<DocumentNews, StoreError> {
            if self.cut.load(Ordering::Relaxed) {
                return Err(StoreError::Superseded);
            }
            self.documents.read(since)
        }

        fn write(&self, writes: &[Write]) -> Result<u64, StoreError> {
            self.documents.write(writes)
        }

        fn news(&self) -> watch::Receiver<u64> {
            self.documents.news()
        }
    }

    #[test]
    fn nothing_is_called_unchanged_or_not_found_while_the_store_cannot_be_read() {
        let key = ResourceKey::new(ResourceKind::ExternalService, "default", "httpbin");
        let body = br#"{"type":"ExternalService","mesh":"default","name":"httpbin",
            "networking":{"address":"httpbin.org:80"},"tags":{"kuma.io/service":"httpbin"}}"#;
        let far = Arc::new(Far::default());
        let mut core = Core::new(far.clone());
        core.catch_up().unwrap();
        let mut ask = |change: Option<()>| {
            let change = match change {
                Some(()) => Change::Put(Box::new(document::parse(&key, body).unwrap())),
                None => Change::Delete,
            };
            let (answer, _) = oneshot::channel();
            let request = Request { key: key.clone(), change, expected: Expected::Any, answer };
            core.write(vec![request]).pop().unwrap().1
        };
        let (put, delete) = (Some(()), None);
        assert!(matches!(ask(put), Ok(Some(PutOutcome::Created { .. }))));
        assert!(matches!(ask(put), Ok(Some(PutOutcome::Unchanged { .. }))));
        far.cut.store(true, Ordering::Relaxed);
        assert!(matches!(ask(put), Err(Refusal::Store(_))), "another may have deleted it");
        far.cut.store(false, Ordering::Relaxed);
        assert!(matches!(ask(delete), Ok(None)));
        assert!(matches!(ask(delete), Err(Refusal::NotFound { .. })));
        far.cut.store(true, Ordering::Relaxed);
        assert!(matches!(ask(delete), Err(Refusal::Store(_))), "another may have made it");
    }
}
