//! What a client has refused, and when it is tried again: a port may be free by now, a map may have room. Pure. Keeps: the
//! same is tried again after a pause that grows to a limit; what has changed is not held back. Called by subscription.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::clients::Refusal;
use super::name::Name;
use crate::wire::resource::Version;

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Refused {
    by_name: BTreeMap<Name, Case>,
    /// A message as a whole, by its generation.
    whole: Option<(u64, Case)>,
}

#[derive(Debug)]
struct Case {
    refusal: Refusal,
    pause: Duration,
    /// When it is tried again; `None`: it is being tried.
    again_at: Option<Instant>,
}

impl Refused {
    /// Every resource that is refused.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Refusal)> {
        self.by_name.iter().map(|(name, case)| (name, &case.refusal))
    }

    /// What is said of a message as a whole.
    pub(super) fn whole(&self) -> Option<&Refusal> {
        self.whole.as_ref().map(|(_, case)| &case.refusal)
    }

    /// Takes a refusal in. Is it news?
    pub(super) fn refuse(&mut self, name: Name, refusal: Refusal, now: Instant) -> bool {
        let before = self.by_name.remove(&name);
        let is_news = before.as_ref().is_none_or(|before| before.refusal != refusal);
        self.by_name.insert(name, Case::after(before, refusal, now));
        is_news
    }

    /// The same for a message as a whole.
    pub(super) fn refuse_whole(&mut self, generation: u64, refusal: Refusal, now: Instant) -> bool {
        let before = self.whole.take().map(|(_, case)| case);
        let is_news = before.as_ref().is_none_or(|before| before.refusal != refusal);
        self.whole = Some((generation, Case::after(before, refusal, now)));
        is_news
    }

    /// It was taken after all, or is no more.
    pub(super) fn forgive(&mut self, name: &Name) {
        self.by_name.remove(name);
    }

    /// Forgets what is no more.
    pub(super) fn retain(&mut self, exists: impl Fn(&Name) -> bool) {
        self.by_name.retain(|name, _| exists(name));
    }

    /// Nothing is known any more against a message as a whole.
    pub(super) fn clear_whole(&mut self) {
        self.whole = None;
    }

    /// Was it this version?
    pub(super) fn is_refused(&self, name: &Name, version: Version) -> bool {
        self.by_name.get(name).is_some_and(|case| case.refusal.version == version)
    }

    /// Was the message with everything up to `generation` refused, and is it not tried again now?
    pub(super) fn is_stalled(&self, generation: u64) -> bool {
        self.whole.as_ref().is_some_and(|(refused, case)| *refused == generation && case.again_at.is_some())
    }

    /// Is it time to try the message with everything up to `generation` again? True once.
    pub(super) fn whole_is_due(&mut self, generation: u64, now: Instant) -> bool {
        let case = self.whole.as_mut().filter(|(refused, _)| *refused == generation).map(|(_, case)| case);
        case.is_some_and(|case| case.again_at.take_if(|at| *at <= now).is_some())
    }

    /// What is to be tried again now; each once.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Name> {
        let due = self.by_name.iter_mut().filter_map(|(name, case)| {
            case.again_at.take_if(|at| *at <= now)?;
            Some(name.clone())
        });
        due.collect()
    }

    /// When the next is to be tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let whole = self.whole.iter().map(|(_, case)| case);
        whole.chain(self.by_name.values()).filter_map(|case| case.again_at).min()
    }
}

impl Case {
    fn after(before: Option<Self>, refusal: Refusal, now: Instant) -> Self {
        let again = before.filter(|before| before.refusal.version == refusal.version);
        let pause = again.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(MAX_PAUSE));
        Self { refusal, pause, again_at: Some(now + pause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_tried_again_after_pauses_that_grow_to_a_limit() {
        let (mut refused, name, mut now) = (Refused::default(), Name::of("a"), Instant::now());
        let refusal = |version: &[u8]| Refusal { version: Version::of(version), reason: "no".into() };
        let mut pauses = Vec::new();
        for nth in 0..9 {
            assert_eq!(refused.refuse(name.clone(), refusal(b"1"), now), nth == 0, "news once");
            assert!(refused.due(now).is_empty());
            let due = refused.next_due().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
            assert_eq!(refused.due(now), std::slice::from_ref(&name));
            assert!(refused.due(now).is_empty(), "it is being tried");
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert!(refused.refuse(name.clone(), refusal(b"2"), now), "another version is news");
        assert_eq!(refused.next_due(), Some(now + FIRST_PAUSE));
        assert!(
            refused.is_refused(&name, Version::of(b"2")) && !refused.is_refused(&name, Version::of(b"1"))
        );
        refused.forgive(&name);
        assert_eq!(refused.next_due(), None);
    }
}
