//! The resources of one type by name, as a value: cheap to copy, and cheap to compare with an earlier copy of itself.
//! Called by published (writing) and subscription (reading).

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::content::Resource;
use super::name::Name;
use crate::model::packed::packed;

#[derive(Clone, Debug, Default)]
pub(super) struct Resources {
    by_name: OrdMap<Name, Resource>,
    /// Of all versions, whatever the way to them: by exclusive or.
    digest: u64,
}

impl Resources {
    pub(super) fn get(&self, name: &Name) -> Option<&Resource> {
        self.by_name.get(name)
    }

    /// The name as it is shared by everybody who has it.
    pub(super) fn entry(&self, name: &Name) -> Option<(&Name, &Resource)> {
        self.by_name.get_key_value(name)
    }

    pub(super) fn insert(&mut self, name: Name, resource: Resource) {
        self.digest ^= resource.version.get();
        if let Some(before) = self.by_name.insert(name, resource) {
            self.digest ^= before.version.get();
        }
    }

    pub(super) fn remove(&mut self, name: &Name) {
        if let Some(before) = self.by_name.remove(name) {
            self.digest ^= before.version.get();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Takes less memory, if most of it has come since there were `before`.
    pub(super) fn pack(&mut self, before: usize) {
        let grown = self.len().saturating_sub(before);
        self.by_name = packed(std::mem::take(&mut self.by_name), grown);
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Resource)> {
        self.by_name.iter()
    }

    /// The version of all of them together: the same for the same resources, on every replica.
    pub(super) fn version(&self) -> String {
        format!("{:016x}", self.digest)
    }

    /// The names that are in one of the two and not, or as another resource, in the other. Costs what differs.
    pub(super) fn differing<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = &'a Name> {
        earlier.by_name.diff(&self.by_name).map(|item| match item {
            DiffItem::Add(name, _) | DiffItem::Update { new: (name, _), .. } | DiffItem::Remove(name, _) => {
                name
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::xds::content::Content;

    fn resource(name: &str, version: &str) -> (Name, Resource) {
        let name = Name::of(name);
        let content = Content::Bytes(format!("{name} {version}").into_bytes().into());
        (name.clone(), Resource::new(&name, content))
    }

    #[test]
    fn two_copies_differ_in_what_was_done_to_one_of_them() {
        let insert = |set: &mut Resources, name: &str, version: &str| {
            let (name, resource) = resource(name, version);
            set.insert(name, resource);
        };
        let mut first = Resources::default();
        for n in 0..2_000 {
            insert(&mut first, &n.to_string(), "1");
        }
        let mut second = first.clone();
        assert_eq!(second.differing(&first).count(), 0);
        insert(&mut second, "7", "2");
        insert(&mut second, "new", "1");
        second.remove(&Name::of("1999"));
        for (now, before) in [(&second, &first), (&first, &second)] {
            let differing: Vec<String> = now.differing(before).map(ToString::to_string).collect();
            assert_eq!(differing, ["1999", "7", "new"]);
        }
        assert_ne!(second.version(), first.version());
        insert(&mut second, "7", "1");
        insert(&mut second, "1999", "1");
        second.remove(&Name::of("new"));
        assert_eq!(second.version(), first.version(), "whatever the way");
        assert_eq!((first.iter().count(), second.iter().count()), (2_000, 2_000));
    }
}
