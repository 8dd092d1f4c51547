//! What every store of documents promises, tried on one of them. Called by tests of stores and replicas.

use std::collections::BTreeMap;

use kuma_dns::cp::store::StoreError;
use kuma_dns::cp::store::documents::{DocumentNews, Documents, Expected, Write};
use kuma_dns::model::kind::{ResourceKey, ResourceKind};

/// The key of a MeshService of mesh `default`.
pub fn key(name: &str) -> ResourceKey {
    ResourceKey::new(ResourceKind::MeshService, "default", name)
}

/// Puts a document with this body.
pub fn put(name: &str, body: &str, expected: Expected) -> Write {
    Write::Put { key: key(name), body: body.into(), expected }
}

/// Deletes a document.
pub fn delete(name: &str, expected: Expected) -> Write {
    Write::Delete { key: key(name), expected }
}

/// Names and bodies of what was read, and names of what went, in order.
pub fn summary(news: &DocumentNews) -> (BTreeMap<String, String>, Vec<String>) {
    let changed = news.changed.iter();
    let mut removed: Vec<String> = news.removed.iter().map(|key| key.name.to_string()).collect();
    removed.sort();
    (changed.map(|document| (document.key.name.to_string(), document.body.to_string())).collect(), removed)
}

fn wanted(changed: &[(&str, &str)], removed: &[&str]) -> (BTreeMap<String, String>, Vec<String>) {
    let text = |text: &&str| (*text).to_owned();
    (
        changed.iter().map(|(name, body)| (text(name), text(body))).collect(),
        removed.iter().map(text).collect(),
    )
}

/// Tries an empty store. `other` reads what `documents` writes: another replica, or the same store.
///
/// # Panics
/// When a promise is broken.
pub fn keeps_its_promises(documents: &dyn Documents, other: &dyn Documents) {
    use Expected::{Absent, Any, Revision};
    let read = |since| other.read(since).expect("it can be read");
    let write = |writes: &[Write]| documents.write(writes).expect("it can be written");
    let empty = read(None);
    assert!(empty.whole && empty.changed.is_empty(), "{empty:?}");
    let heard = documents.news();
    let first = write(&[put("a", "1", Absent), put("b", "1", Absent), put("c", "1", Any)]);
    assert!(heard.has_changed().expect("the store is there"), "a write is news to its own process as well");
    let second = write(&[put("a", "2", Revision(first)), delete("b", Revision(first)), put("d", "2", Any)]);
    assert!(first > empty.revision && second > first, "revisions rise");

    let news = read(Some(first));
    assert_eq!(summary(&news), wanted(&[("a", "2"), ("d", "2")], &["b"]), "only what is new");
    assert!(!news.whole && news.revision == second);
    assert!(news.changed.iter().all(|document| document.revision == second));
    assert_eq!(summary(&read(Some(empty.revision))), wanted(&[("a", "2"), ("c", "1"), ("d", "2")], &["b"]));
    let whole = read(None);
    assert_eq!(summary(&whole), wanted(&[("a", "2"), ("c", "1"), ("d", "2")], &[]));
    assert!(whole.whole && whole.revision == second);
    let times: Vec<_> = whole.changed.iter().map(|one| one.created_secs <= one.modified_secs).collect();
    assert!(times.iter().all(|right| *right) && whole.changed[0].created_secs > 1_700_000_000);
    assert_eq!(read(Some(second)).revision, second);
    assert_eq!(summary(&read(Some(second))), wanted(&[], &[]), "nothing new");

    for refused in [
        put("a", "3", Revision(first)),
        put("a", "3", Absent),
        put("new", "3", Revision(second)),
        delete("b", Revision(first)),
        delete("a", Absent),
    ] {
        let batch = [put("c", "3", Any), refused.clone()];
        let error = documents.write(&batch).expect_err("it is stale");
        assert!(
            matches!(&error, StoreError::Stale { key, .. } if key == refused.key()),
            "{refused:?}: {error}"
        );
        assert_eq!(
            summary(&read(Some(second))),
            wanted(&[], &[]),
            "nothing of the refused batch: {refused:?}"
        );
    }

    let third = write(&[put("b", "4", Absent), delete("nobody", Any)]);
    assert_eq!(summary(&read(Some(first))), wanted(&[("a", "2"), ("b", "4"), ("d", "2")], &[]), "b is back");
    assert_eq!(summary(&read(Some(second))), wanted(&[("b", "4")], &[]));
    assert!(read(Some(third + 1)).whole, "a reader who is ahead of the store reads everything");
    assert!(read(Some(third)).quarantined.is_empty());
}
