//! What a resource is called: its kind in Kuma's words, its mesh and its name.
//! Keeps: a [`ResourceKey`] is cheap to clone and totally ordered: kind, mesh, name. Called by cp (resources, registry,
//! store, rest).

use std::fmt;
use std::sync::Arc;

/// Kinds of resources. The order is the one of Kuma's dependencies: a Mesh stands before what is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceKind {
    Mesh,
    Dataplane,
    ZoneIngress,
    ExternalService,
    VirtualOutbound,
    MeshService,
    MeshExternalService,
    MeshMultiZoneService,
    HostnameGenerator,
    /// Key material of a mesh, or of all (Kuma's GlobalSecret): kept, never shown.
    Secret,
    /// The short form of a resource file, which Kuma does not know.
    Service,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Mesh,
        Self::Dataplane,
        Self::ZoneIngress,
        Self::ExternalService,
        Self::VirtualOutbound,
        Self::MeshService,
        Self::MeshExternalService,
        Self::MeshMultiZoneService,
        Self::HostnameGenerator,
        Self::Secret,
        Self::Service,
    ];

    /// Kuma's word for it, as in `type`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Dataplane => "Dataplane",
            Self::ZoneIngress => "ZoneIngress",
            Self::ExternalService => "ExternalService",
            Self::VirtualOutbound => "VirtualOutbound",
            Self::MeshService => "MeshService",
            Self::MeshExternalService => "MeshExternalService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
            Self::HostnameGenerator => "HostnameGenerator",
            Self::Secret => "Secret",
            Self::Service => "Service",
        }
    }

    /// Kuma's segment of a URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Mesh => "meshes",
            Self::Dataplane => "dataplanes",
            Self::ZoneIngress => "zoneingresses",
            Self::ExternalService => "external-services",
            Self::VirtualOutbound => "virtual-outbounds",
            Self::MeshService => "meshservices",
            Self::MeshExternalService => "meshexternalservices",
            Self::MeshMultiZoneService => "meshmultizoneservices",
            Self::HostnameGenerator => "hostnamegenerators",
            Self::Secret => "secrets",
            Self::Service => "services",
        }
    }

    /// Is its name unique in all meshes, so that it has none?
    pub fn is_global(self) -> bool {
        matches!(self, Self::Mesh | Self::ZoneIngress | Self::HostnameGenerator)
    }

    /// The kind of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The kind of this segment of a URL.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    pub kind: ResourceKind,
    /// Empty for kinds without a mesh.
    pub mesh: Arc<str>,
    pub name: Arc<str>,
}

impl ResourceKey {
    /// The resource of this kind and name; the mesh of a global kind means nothing.
    pub fn new(kind: ResourceKind, mesh: &str, name: &str) -> Self {
        let mesh = if kind.is_global() { "" } else { mesh };
        Self { kind, mesh: mesh.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind, self.name)?;
        if self.mesh.is_empty() { Ok(()) } else { write!(f, " of mesh {:?}", self.mesh) }
    }
}

impl fmt::Debug for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_its_word_and_by_its_path() {
        for kind in ResourceKind::ALL {
            assert_eq!(ResourceKind::parse(kind.word()), Some(kind));
            assert_eq!(ResourceKind::of_path(kind.path()), Some(kind));
        }
        assert_eq!(ResourceKind::parse("Meshes"), None);
        assert_eq!(ResourceKind::of_path("Mesh"), None);
    }

    #[test]
    fn a_global_resource_has_no_mesh() {
        let key = ResourceKey::new(ResourceKind::HostnameGenerator, "default", "local");
        assert_eq!((&*key.mesh, key.to_string().as_str()), ("", "HostnameGenerator \"local\""));
        let key = ResourceKey::new(ResourceKind::Dataplane, "default", "web-01");
        assert_eq!(key.to_string(), "Dataplane \"web-01\" of mesh \"default\"");
    }
}
