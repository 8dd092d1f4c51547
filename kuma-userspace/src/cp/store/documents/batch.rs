//! What a batch of writes makes of the documents that are there. Pure: every store decides by it.
//! Keeps: writes count in their order, also several of one document; one that is not as expected refuses the batch. Called by
//! the stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Document, Write};
use crate::cp::store::StoreError;
use crate::model::kind::ResourceKey;

/// What is known of a document that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cp::store) struct Standing {
    pub(in crate::cp::store) revision: u64,
    pub(in crate::cp::store) created_secs: i64,
}

/// When a batch is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cp::store) struct Moment {
    pub(in crate::cp::store) revision: u64,
    pub(in crate::cp::store) now_secs: i64,
}

/// What to store, by key; nothing stands for a document that goes. Keys where nothing was and nothing will be are not in it.
pub(in crate::cp::store) type Outcome = BTreeMap<ResourceKey, Option<Document>>;

/// Decides a batch. The inner error refuses it, the outer one is from looking up what is there.
pub(in crate::cp::store) fn decide<E>(
    writes: &[Write],
    moment: Moment,
    mut stored: impl FnMut(&ResourceKey) -> Result<Option<Standing>, E>,
) -> Result<Result<Outcome, StoreError>, E> {
    let Moment { revision, now_secs } = moment;
    let mut outcome = Outcome::new();
    let mut before: BTreeMap<&ResourceKey, Option<Standing>> = BTreeMap::new();
    for write in writes {
        let key = write.key();
        let was = match before.get(key) {
            Some(was) => *was,
            None => *before.entry(key).or_insert(stored(key)?),
        };
        let here = match outcome.get(key) {
            Some(decided) => decided.as_ref().map(|_| revision),
            None => was.map(|standing| standing.revision),
        };
        if !write.expected().allows(here) {
            let (key, expected) = (key.clone(), write.expected());
            return Ok(Err(StoreError::Stale { key, expected, found: here }));
        }
        match write {
            Write::Put { body, .. } => {
                let created_secs = was.map_or(now_secs, |standing| standing.created_secs);
                let (key, body) = (key.clone(), Arc::clone(body));
                let document =
                    Document { key: key.clone(), revision, created_secs, modified_secs: now_secs, body };
                outcome.insert(key, Some(document));
            }
            Write::Delete { .. } if was.is_some() => drop(outcome.insert(key.clone(), None)),
            Write::Delete { .. } => drop(outcome.remove(key)),
        }
    }
    Ok(Ok(outcome))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cp::store::documents::Expected;
    use crate::model::kind::ResourceKind;

    fn key(name: &str) -> ResourceKey {
        ResourceKey::new(ResourceKind::MeshService, "default", name)
    }

    fn put(name: &str, expected: Expected) -> Write {
        Write::Put { key: key(name), body: name.into(), expected }
    }

    fn delete(name: &str, expected: Expected) -> Write {
        Write::Delete { key: key(name), expected }
    }

    /// `old` is there, in revision 3, made at 30; this is revision 9, at 90.
    fn decided(writes: &[Write]) -> Result<Outcome, StoreError> {
        let stored = |asked: &ResourceKey| {
            let standing = Standing { revision: 3, created_secs: 30 };
            Ok::<_, Infallible>((*asked == key("old")).then_some(standing))
        };
        match decide(writes, Moment { revision: 9, now_secs: 90 }, stored) {
            Ok(decided) => decided,
            Err(never) => match never {},
        }
    }

    #[test]
    fn writes_count_in_their_order_and_one_that_is_stale_refuses_the_batch() {
        use Expected::{Absent, Any, Revision};
        // (writes, what is stored: name, made at; none: it goes)
        type Wanted<'a> = Result<&'a [(&'a str, Option<i64>)], &'a str>;
        let table: &[(&[Write], Wanted<'_>)] = &[
            (&[put("new", Absent)], Ok(&[("new", Some(90))])),
            (&[put("old", Revision(3))], Ok(&[("old", Some(30))])),
            (&[put("old", Any), put("new", Any)], Ok(&[("new", Some(90)), ("old", Some(30))])),
            (&[delete("old", Revision(3))], Ok(&[("old", None)])),
            (&[delete("new", Any)], Ok(&[])),
            (&[put("new", Absent), put("new", Revision(9))], Ok(&[("new", Some(90))])),
            (&[put("new", Absent), delete("new", Revision(9))], Ok(&[])),
            (&[delete("old", Any), put("old", Absent)], Ok(&[("old", Some(30))])),
            (
                &[put("new", Any), put("old", Absent)],
                Err(
                    "MeshService \"old\" of mesh \"default\" is at revision 3, expected nothing: somebody else changed it, read it again",
                ),
            ),
            (
                &[put("new", Revision(3))],
                Err(
                    "MeshService \"new\" of mesh \"default\" is not there, expected revision 3: somebody else changed it, read it again",
                ),
            ),
            (
                &[delete("old", Any), delete("old", Revision(3))],
                Err(
                    "MeshService \"old\" of mesh \"default\" is not there, expected revision 3: somebody else changed it, read it again",
                ),
            ),
        ];
        for (writes, wanted) in table {
            let found = decided(writes).map(|outcome| {
                let made = |document: Option<Document>| document.map(|document| document.created_secs);
                outcome.into_iter().map(|(key, document)| (key.name.to_string(), made(document))).collect()
            });
            let found = found.map_err(|error| error.to_string());
            let wanted =
                wanted.map(|rows| rows.iter().map(|(name, made)| ((*name).to_owned(), *made)).collect());
            assert_eq!(found, wanted.map_err(str::to_owned) as Result<Vec<_>, String>, "{writes:?}");
        }
    }
}
