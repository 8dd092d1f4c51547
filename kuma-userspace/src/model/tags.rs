//! Tags and labels: a few texts by name, small and shared, since there are 100,000 of them.
//! Keeps: sorted by name, each name once. Called by cp (resources, plan, template).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Tags or labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tags(Box<[(Arc<str>, Arc<str>)]>);

impl Tags {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.shared(name).map(|value| &**value)
    }

    /// The value of a tag, to be kept.
    pub fn shared(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The same, to be kept.
    pub fn pairs(&self) -> &[(Arc<str>, Arc<str>)] {
        &self.0
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Are all of `wanted` here, with these values?
    pub fn has(&self, wanted: &Self) -> bool {
        wanted.iter().all(|(name, value)| self.get(name) == Some(value))
    }
}

/// Of two tags of one name the later one stays.
impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Tags {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(tags: I) -> Self {
        let mut tags: Vec<(Arc<str>, Arc<str>)> =
            tags.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        tags.reverse();
        // Stable: of equal names the one that came last is first now.
        tags.sort_by(|(a, _), (b, _)| a.cmp(b));
        tags.dedup_by(|later, first| later.0 == first.0);
        Self(tags.into())
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>, const N: usize> From<[(K, V); N]> for Tags {
    fn from(tags: [(K, V); N]) -> Self {
        tags.into_iter().collect()
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// How many texts an [`Interner`] holds before it looks for those that nobody uses any more.
const SWEEP_AT: usize = 4_096;

/// Gives one copy of equal texts to everybody who needs one.
#[derive(Debug)]
pub struct Interner {
    texts: HashSet<Arc<str>, foldhash::fast::RandomState>,
    sweep_at: usize,
}

impl Default for Interner {
    fn default() -> Self {
        Self { texts: HashSet::default(), sweep_at: SWEEP_AT }
    }
}

impl Interner {
    /// The one copy of this text.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= self.sweep_at {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = SWEEP_AT.max(2 * self.texts.len());
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_sorted_and_the_last_of_one_name_stays() {
        let tags = Tags::from([("b", "1"), ("a", "2"), ("b", "3")]);
        assert_eq!(tags.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!((tags.get("b"), tags.get("c")), (Some("3"), None));
        assert!(tags.has(&Tags::from([("a", "2")])) && tags.has(&Tags::new()));
        assert!(!tags.has(&Tags::from([("a", "3")])) && !Tags::new().has(&tags));
    }

    #[test]
    fn equal_texts_are_one_and_unused_ones_go() {
        let mut interner = Interner::default();
        let kept = interner.share("kept");
        assert!(Arc::ptr_eq(&kept, &interner.share("kept")));
        for i in 0..3 * SWEEP_AT {
            drop(interner.share(&i.to_string()));
        }
        assert!(interner.texts.len() <= SWEEP_AT, "{}", interner.texts.len());
        assert!(Arc::ptr_eq(&kept, &interner.share("kept")));
    }
}
