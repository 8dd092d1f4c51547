//! Keys and tokens that all replicas share: documents of kind Secret, each made by whoever needs it first.
//! Keeps: of several who make the same secret at one moment all end up with one; nothing of a secret is ever shown.
//! Called by cp::tls and cp::tokens.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::store::StoreError;
use super::store::documents::{DocumentNews, Documents, Expected, Write};
use crate::model::kind::{ResourceKey, ResourceKind};
use crate::rt::Drain;

/// Between two looks at the store: changes of resources, which come often, wake us as well.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("secret {name:?} of mesh {mesh:?} is not readable: delete it, and a new one is made")]
    Unreadable { name: Arc<str>, mesh: Arc<str>, source: Box<serde_json::Error> },
    #[error("secret {name:?} of mesh {mesh:?} was deleted while it was made: try again")]
    Gone { name: Arc<str>, mesh: Arc<str> },
}

/// All secrets of a store; cheap to clone. Calls that may ask the store block.
#[derive(Clone)]
pub struct Secrets {
    documents: Arc<dyn Documents>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    revision: Option<u64>,
    secrets: BTreeMap<ResourceKey, Arc<str>>,
}

/// Kuma's form.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    mesh: String,
    name: String,
    /// Base64.
    data: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Reads what is there.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(documents: Arc<dyn Documents>) -> Result<Self, SecretError> {
        let secrets = Self { documents, known: Arc::default() };
        secrets.refresh()?;
        Ok(secrets)
    }

    /// What is known of a secret now; `mesh` is empty for those of no mesh.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn get(&self, mesh: &str, name: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let key = ResourceKey::new(ResourceKind::Secret, mesh, name);
        let body = self.lock().secrets.get(&key).cloned();
        body.map(|body| data(&key, &body)).transpose()
    }

    /// Names in `mesh` that begin with `prefix`.
    pub fn names(&self, mesh: &str, prefix: &str) -> Vec<Arc<str>> {
        let from = ResourceKey::new(ResourceKind::Secret, mesh, prefix);
        let known = self.lock();
        let later = known.secrets.range(from..).map(|(key, _)| key);
        let ours = later.take_while(|key| *key.mesh == *mesh && key.name.starts_with(prefix));
        ours.map(|key| key.name.clone()).collect()
    }

    /// The secret that is there, or else the one that `make` makes. Blocks.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn obtain<E: From<SecretError>>(
        &self,
        mesh: &str,
        name: &str,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        self.refresh()?;
        if let Some(found) = self.get(mesh, name)? {
            return Ok(found);
        }
        let key = ResourceKey::new(ResourceKind::Secret, mesh, name);
        let made = make()?;
        let written = self.documents.write(&[Write::Put {
            key: key.clone(),
            body: body(&key, &made),
            expected: Expected::Absent,
        }]);
        match written {
            Ok(_) => {
                self.refresh()?;
                Ok(made)
            }
            Err(StoreError::Stale { .. }) => {
                self.refresh()?;
                let ResourceKey { mesh, name, .. } = &key;
                let gone = || SecretError::Gone { name: name.clone(), mesh: mesh.clone() };
                Ok(self.get(mesh, name)?.ok_or_else(gone)?)
            }
            Err(error) => Err(SecretError::from(error).into()),
        }
    }

    /// Asks the store for what is new. Blocks.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn refresh(&self) -> Result<(), SecretError> {
        let since = self.lock().revision;
        let news = self.documents.read(since)?;
        self.lock().take(since, news);
        Ok(())
    }

    /// Follows the store until the drain is asked for.
    ///
    /// # Errors
    /// None: a store that cannot be read is asked again.
    pub async fn run(self, drain: Drain) -> Result<(), Infallible> {
        let mut news = self.documents.news();
        loop {
            tokio::select! {
                changed = news.changed() => if changed.is_err() {
                    drain.requested().await;
                },
                () = drain.requested() => {}
            }
            if drain.is_requested() {
                return Ok(());
            }
            let secrets = self.clone();
            match tokio::task::spawn_blocking(move || secrets.refresh()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "secrets cannot be read, those that are known stay"
                    );
                    news.mark_changed();
                }
                Err(error) => warn!(error = &error as &dyn std::error::Error, "reading secrets panicked"),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = drain.requested() => return Ok(()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic while holding the lock leaves at worst a part of what was new, which the next look takes again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn take(&mut self, since: Option<u64>, news: DocumentNews) {
        if self.revision != since {
            // Somebody else looked meanwhile; what he has not seen comes with the next look.
            return;
        }
        if news.whole {
            self.secrets.clear();
        }
        for document in news.changed {
            if document.key.kind == ResourceKind::Secret {
                self.secrets.insert(document.key, document.body);
            }
        }
        for key in news.removed {
            self.secrets.remove(&key);
        }
        self.revision = Some(news.revision);
    }
}

fn body(key: &ResourceKey, data: &[u8]) -> Arc<str> {
    let body = Body {
        kind: ResourceKind::Secret.word().into(),
        mesh: key.mesh.to_string(),
        name: key.name.to_string(),
        data: BASE64.encode(data),
    };
    serde_json::to_string(&body).expect("texts make JSON").into()
}

fn data(key: &ResourceKey, body: &str) -> Result<Vec<u8>, SecretError> {
    let unreadable = |source| {
        let (name, mesh) = (key.name.clone(), key.mesh.clone());
        SecretError::Unreadable { name, mesh, source: Box::new(source) }
    };
    let Body { data, .. } = serde_json::from_str(body).map_err(unreadable)?;
    BASE64.decode(data).map_err(|error| unreadable(serde::de::Error::custom(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::store::MemoryDocuments;

    fn made(text: &'static str) -> impl FnOnce() -> Result<Vec<u8>, SecretError> {
        move || Ok(text.into())
    }

    #[test]
    fn replicas_that_make_a_secret_at_one_moment_have_the_same_one() {
        let documents: Arc<dyn Documents> = Arc::new(MemoryDocuments::default());
        let (one, two) = (Secrets::open(documents.clone()).unwrap(), Secrets::open(documents).unwrap());
        let both = one.obtain("", "key", || {
            // The other one is faster.
            assert_eq!(two.obtain("", "key", made("faster"))?, b"faster");
            Ok::<_, SecretError>(b"slower".into())
        });
        assert_eq!(both.unwrap(), b"faster");
        assert_eq!(one.get("", "key").unwrap().as_deref(), Some(&b"faster"[..]));
        assert_eq!(two.obtain("", "key", made("later")).unwrap(), b"faster");
    }

    #[test]
    fn names_are_those_of_one_mesh_and_a_deleted_secret_is_gone() {
        let documents = Arc::new(MemoryDocuments::default());
        let secrets = Secrets::open(documents.clone()).unwrap();
        for (mesh, name) in [("", "key-1"), ("a", "key-1"), ("a", "key-2"), ("a", "other"), ("b", "key-3")] {
            secrets.obtain(mesh, name, made("x")).unwrap();
        }
        secrets.refresh().unwrap();
        let names: Vec<String> = secrets.names("a", "key-").iter().map(ToString::to_string).collect();
        assert_eq!(names, ["key-1", "key-2"]);
        let key = ResourceKey::new(ResourceKind::Secret, "a", "key-1");
        documents.write(&[Write::Delete { key, expected: Expected::Any }]).unwrap();
        secrets.refresh().unwrap();
        assert_eq!(secrets.names("a", "key-").len(), 1);
        assert_eq!(secrets.get("a", "key-1").unwrap(), None);
    }

    #[test]
    fn what_is_no_secret_of_ours_is_an_error_that_shows_nothing_of_it() {
        let documents = Arc::new(MemoryDocuments::default());
        let key = ResourceKey::new(ResourceKind::Secret, "", "key");
        let body = r#"{"type":"Secret","name":"key","data":"hidden!"}"#.into();
        documents.write(&[Write::Put { key, body, expected: Expected::Any }]).unwrap();
        let secrets = Secrets::open(documents).unwrap();
        let error = secrets.get("", "key").unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("delete it") && !said.contains("hidden"), "{said}");
    }
}
