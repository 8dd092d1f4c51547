//! The resources of one type by name, as a value: cheap to copy, and cheap to compare with an earlier copy of itself.
//! Keeps: a change costs the copy of one part of [`PARTS`], and finding it again looks into that part alone. Called by
//! published (writing) and subscription (reading).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::wire::resource::Resource;

/// Of 100,000 resources, each has about 400.
const PARTS: usize = 256;

type Part = BTreeMap<String, Arc<Resource>>;

#[derive(Clone, Debug)]
pub(super) struct Resources(Arc<Vec<Arc<Part>>>);

impl Default for Resources {
    fn default() -> Self {
        Self(Arc::new(vec![Arc::default(); PARTS]))
    }
}

impl Resources {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.0[part_of(name)].get(name)
    }

    pub(super) fn insert(&mut self, resource: Resource) {
        self.part_mut(part_of(&resource.name)).insert(resource.name.clone(), Arc::new(resource));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.part_mut(part_of(name)).remove(name);
    }

    /// Every name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|part| part.keys()).map(String::as_str)
    }

    /// The names that are in one of the two and not, or as another resource, in the other.
    pub(super) fn differing<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = &'a str> {
        let parts = self.0.iter().zip(earlier.0.iter()).filter(|(now, before)| !Arc::ptr_eq(now, before));
        parts.flat_map(|(now, before)| {
            let is_same = |(name, resource): &(&String, &Arc<Resource>)| {
                before.get(*name).is_some_and(|earlier| Arc::ptr_eq(earlier, resource))
            };
            let new = now.iter().filter(move |entry| !is_same(entry)).map(|(name, _)| name.as_str());
            let gone = before.keys().filter(|name| !now.contains_key(*name)).map(String::as_str);
            new.chain(gone)
        })
    }

    fn part_mut(&mut self, part: usize) -> &mut Part {
        Arc::make_mut(&mut Arc::make_mut(&mut self.0)[part])
    }
}

fn part_of(name: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, version: &str) -> Resource {
        let (name, version, body) = (name.into(), version.into(), bytes::Bytes::new());
        Resource { name, version, body, endpoints: None }
    }

    #[test]
    fn two_copies_differ_in_what_was_done_to_one_of_them() {
        let mut first = Resources::default();
        for n in 0..2_000 {
            first.insert(resource(&n.to_string(), "1"));
        }
        let mut second = first.clone();
        assert_eq!(second.differing(&first).count(), 0);
        second.insert(resource("7", "2"));
        second.insert(resource("new", "1"));
        second.remove("1999");
        for (now, before) in [(&second, &first), (&first, &second)] {
            let mut differing: Vec<&str> = now.differing(before).collect();
            differing.sort_unstable();
            assert_eq!(differing, ["1999", "7", "new"]);
        }
        assert_eq!((first.names().count(), second.names().count()), (2_000, 2_000));
        assert_eq!(first.get("7").map(|one| &*one.version), Some("1"));
        assert_eq!(second.get("7").map(|one| &*one.version), Some("2"));
    }
}
