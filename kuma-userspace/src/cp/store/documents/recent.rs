//! The last changes of a store that one process has alone: which documents changed in which revision.
//! Keeps: whoever asks since a revision that is still known gets every later change; for any other he reads everything; it is
//! bounded. Called by store::memory and store::embedded.

use std::collections::{BTreeSet, VecDeque};

use crate::model::kind::ResourceKey;

/// Changes that are remembered; readers keep up, so few are enough.
const CHANGES_MAX: usize = 10_000;

/// The last changes.
#[derive(Debug, Default)]
pub(in crate::cp::store) struct Recent {
    /// Everything later than this revision is in `changes`; nothing when that is not known.
    since: Option<u64>,
    changes: VecDeque<(u64, ResourceKey)>,
}

impl Recent {
    /// All that comes after `revision` will be noted.
    pub(in crate::cp::store) fn begin(&mut self, revision: u64) {
        if self.since.is_none() {
            self.since = Some(revision);
        }
    }

    /// These changed in `revision`.
    pub(in crate::cp::store) fn note(&mut self, revision: u64, keys: impl Iterator<Item = ResourceKey>) {
        self.begin(revision - 1);
        self.changes.extend(keys.map(|key| (revision, key)));
        while self.changes.len() > CHANGES_MAX {
            // The rest of that revision is of no use alone, but harmless.
            self.since = self.changes.pop_front().map(|(revision, _)| revision);
        }
    }

    /// What was noted is not all there is.
    pub(in crate::cp::store) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What changed after `since`, of a store that is at `now`; nothing when that is not known.
    pub(in crate::cp::store) fn after(&self, since: u64, now: u64) -> Option<BTreeSet<ResourceKey>> {
        let known = self.since.is_some_and(|from| from <= since) && since <= now;
        let later = self.changes.iter().rev().take_while(|(revision, _)| *revision > since);
        known.then(|| later.map(|(_, key)| key.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kind::ResourceKind;

    fn key(number: usize) -> ResourceKey {
        ResourceKey::new(ResourceKind::Mesh, "", &number.to_string())
    }

    #[test]
    fn later_changes_are_known_until_they_are_too_many_or_forgotten() {
        let mut recent = Recent::default();
        assert_eq!(recent.after(0, 0), None, "nobody has begun");
        recent.begin(5);
        assert_eq!(recent.after(5, 5), Some(BTreeSet::new()));
        assert_eq!(recent.after(4, 5), None, "before the beginning");
        recent.note(6, [key(1), key(2)].into_iter());
        recent.note(7, [key(2)].into_iter());
        assert_eq!(recent.after(5, 7), Some(BTreeSet::from([key(1), key(2)])));
        assert_eq!(recent.after(6, 7), Some(BTreeSet::from([key(2)])));
        assert_eq!(recent.after(8, 7), None, "a store that was put back");
        recent.note(8, (0..CHANGES_MAX).map(key));
        assert_eq!(recent.after(6, 8), None, "pushed out");
        assert_eq!(recent.after(7, 8).map(|keys| keys.len()), Some(CHANGES_MAX));
        recent.note(9, (0..=CHANGES_MAX).map(key));
        assert_eq!(recent.after(8, 9), None, "one batch that is too big");
        assert_eq!(recent.after(9, 9), Some(BTreeSet::new()));
        recent.forget();
        assert_eq!(recent.after(9, 9), None);
    }
}
