//! Documents on a real disk: restarts, one file for both, and damage from outside.

use super::super::documents::{ASIDE, DOCUMENTS};
use super::{behind, put as put_records, record};
use crate::cp::store::documents::{Documents, Expected, Write};
use crate::cp::store::{Embedded, Store};
use crate::model::kind::{ResourceKey, ResourceKind};

fn put(name: &str) -> Write {
    let key = ResourceKey::new(ResourceKind::MeshService, "default", name);
    Write::Put { key, body: format!("body of {name}").into(), expected: Expected::Any }
}

fn names(documents: &impl Documents, since: Option<u64>) -> Vec<String> {
    let changed = documents.read(since).unwrap().changed;
    changed.into_iter().map(|document| document.key.name.to_string()).collect()
}

#[test]
fn documents_survive_a_restart_beside_records_and_revisions_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(directory.path()).unwrap();
    let documents = store.documents();
    let first = documents.write(&[put("a"), put("b")]).unwrap();
    store.commit(&put_records(vec![record("a", 0)])).unwrap();
    drop((store, documents));
    let mut store = Embedded::open(directory.path()).unwrap();
    let documents = store.documents();
    assert_eq!(store.load().unwrap().records, [record("a", 1)]);
    let news = documents.read(Some(first)).unwrap();
    assert!(news.whole && news.revision == first, "a new process does not know what was new before");
    assert_eq!(names(&documents, None), ["a", "b"]);
    assert!(documents.write(&[put("c")]).unwrap() > first);
    assert_eq!(names(&documents, Some(first)), ["c"]);
}

#[test]
fn a_file_of_a_version_without_documents_gets_the_tables() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(directory.path()).unwrap();
    store.commit(&put_records(vec![record("a", 0)])).unwrap();
    behind(&store, |transaction| {
        assert!(transaction.delete_table(DOCUMENTS).unwrap() && transaction.delete_table(ASIDE).unwrap());
    });
    drop(store);
    let mut store = Embedded::open(directory.path()).unwrap();
    let documents = store.documents();
    documents.write(&[put("a")]).unwrap();
    assert_eq!((names(&documents, None).len(), store.load().unwrap().records.len()), (1, 1));
}

#[test]
fn a_damaged_document_is_set_aside_with_its_bytes_and_harms_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let documents = store.documents();
    let before = documents.write(&[put("a"), put("b")]).unwrap();
    documents.read(None).unwrap();
    let overwrite = |key: &str| {
        behind(&store, |transaction| {
            drop(transaction.open_table(DOCUMENTS).unwrap().insert(key, &b"no document"[..]).unwrap());
        });
    };
    overwrite("MeshService/default/a");
    overwrite("no key");
    let news = documents.read(None).unwrap();
    assert!(news.whole && news.revision > before);
    assert_eq!(names(&documents, None), ["b"]);
    let keys: Vec<&str> = news.quarantined.iter().map(|aside| aside.key.as_str()).collect();
    assert_eq!(keys, ["MeshService/default/a", "no key"]);
    assert!(documents.read(Some(before)).unwrap().whole, "nobody was told that a went");
    overwrite("MeshService/default/b");
    let first = documents.write(&[put("a")]).unwrap();
    assert_eq!(names(&documents, Some(before)), ["a"], "what cannot be read is gone");
    assert!(documents.read(Some(first)).unwrap().whole, "nor that b went");
    documents.write(&[put("b")]).unwrap();
    let last = documents.read(None).unwrap();
    assert_eq!((last.changed.len(), last.quarantined.len()), (2, 3), "and can be written anew");
}
