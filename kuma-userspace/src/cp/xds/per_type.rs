//! One value for each resource type, indexed by the type. Called by the other files of cp::xds.

use std::ops::{Index, IndexMut};

use crate::wire::resource::ResourceType;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PerType<T>([T; ResourceType::ALL.len()]);

impl<T> Index<ResourceType> for PerType<T> {
    type Output = T;

    fn index(&self, kind: ResourceType) -> &T {
        &self.0[kind as usize]
    }
}

impl<T> IndexMut<ResourceType> for PerType<T> {
    fn index_mut(&mut self, kind: ResourceType) -> &mut T {
        &mut self.0[kind as usize]
    }
}
