//! Kuma's resources as they are after reading: checked, and only what names, addresses and listeners depend on.
//! Keeps: plain data, no rule; each stands for itself and shares its texts, so that 100,000 of them are small.
//! Called by cp (resources, registry, plan).

use std::net::SocketAddr;
use std::sync::Arc;

pub use crate::model::key::{ResourceKey, ResourceKind};
use crate::model::resource::{Endpoint, Protocol};
pub use crate::model::tags::Tags;
use crate::model::view::Port;

/// The tag that names a service.
pub const SERVICE_TAG: &str = "kuma.io/service";
/// The tag that says what it speaks.
pub const PROTOCOL_TAG: &str = "kuma.io/protocol";

/// A resource of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resource {
    Mesh(Mesh),
    Dataplane(Dataplane),
    ZoneIngress(ZoneIngress),
    ExternalService(ExternalService),
    VirtualOutbound(VirtualOutbound),
    MeshService(MeshService),
    MeshExternalService(MeshExternalService),
    MeshMultiZoneService(MeshMultiZoneService),
    HostnameGenerator(HostnameGenerator),
    Service(Service),
}

impl Resource {
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Mesh(_) => ResourceKind::Mesh,
            Self::Dataplane(_) => ResourceKind::Dataplane,
            Self::ZoneIngress(_) => ResourceKind::ZoneIngress,
            Self::ExternalService(_) => ResourceKind::ExternalService,
            Self::VirtualOutbound(_) => ResourceKind::VirtualOutbound,
            Self::MeshService(_) => ResourceKind::MeshService,
            Self::MeshExternalService(_) => ResourceKind::MeshExternalService,
            Self::MeshMultiZoneService(_) => ResourceKind::MeshMultiZoneService,
            Self::HostnameGenerator(_) => ResourceKind::HostnameGenerator,
            Self::Service(_) => ResourceKind::Service,
        }
    }

    /// What it has in common with all others.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Mesh(Mesh { meta, .. })
            | Self::Dataplane(Dataplane { meta, .. })
            | Self::ZoneIngress(ZoneIngress { meta, .. })
            | Self::ExternalService(ExternalService { meta, .. })
            | Self::VirtualOutbound(VirtualOutbound { meta, .. })
            | Self::MeshService(MeshService { meta, .. })
            | Self::MeshExternalService(MeshExternalService { meta, .. })
            | Self::MeshMultiZoneService(MeshMultiZoneService { meta, .. })
            | Self::HostnameGenerator(HostnameGenerator { meta, .. })
            | Self::Service(Service { meta, .. }) => meta,
        }
    }

    pub fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Self::Mesh(Mesh { meta, .. })
            | Self::Dataplane(Dataplane { meta, .. })
            | Self::ZoneIngress(ZoneIngress { meta, .. })
            | Self::ExternalService(ExternalService { meta, .. })
            | Self::VirtualOutbound(VirtualOutbound { meta, .. })
            | Self::MeshService(MeshService { meta, .. })
            | Self::MeshExternalService(MeshExternalService { meta, .. })
            | Self::MeshMultiZoneService(MeshMultiZoneService { meta, .. })
            | Self::HostnameGenerator(HostnameGenerator { meta, .. })
            | Self::Service(Service { meta, .. }) => meta,
        }
    }

    pub fn key(&self) -> ResourceKey {
        let Meta { mesh, name, .. } = self.meta();
        ResourceKey { kind: self.kind(), mesh: mesh.clone(), name: name.clone() }
    }
}

/// What every resource has: mesh (empty for those without one), name, labels, and when it was made, in seconds of the
/// Unix epoch (0: not said).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Meta {
    pub mesh: Arc<str>,
    pub name: Arc<str>,
    pub labels: Tags,
    pub created_secs: i64,
}

/// A mesh, declared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mesh {
    pub meta: Meta,
    pub mode: MeshServices,
}

/// `Mesh.meshServices.mode`: what a service tag becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MeshServices {
    /// A VIP by its tag.
    #[default]
    Disabled,
    /// A MeshService beside it (Kuma's Everywhere and ReachableBackends).
    Beside,
    /// A MeshService instead.
    Exclusive,
}

/// A workload with its proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dataplane {
    pub meta: Meta,
    pub inbounds: Box<[Inbound]>,
}

/// One inbound of a Dataplane that Kuma does not skip: an instance of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inbound {
    pub service: Arc<str>,
    pub tags: Tags,
    /// Empty: not said.
    pub name: Arc<str>,
    pub port: Port,
    pub protocol: Protocol,
    /// Absent while it is not ready.
    pub endpoint: Option<SocketAddr>,
}

/// The way into a zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneIngress {
    pub meta: Meta,
    /// Empty: ours, as in Kuma.
    pub zone: Arc<str>,
    pub available: Box<[Available]>,
}

/// A service of a zone, as its ingress offers it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Available {
    pub mesh: Arc<str>,
    pub service: Arc<str>,
    pub tags: Tags,
}

impl ZoneIngress {
    /// The services that this ingress adds to those of `zone`, which is ours: another zone's.
    pub fn offers_to<'r>(&'r self, zone: &str) -> impl Iterator<Item = &'r Available> + use<'r> {
        let foreign = !self.zone.is_empty() && &*self.zone != zone;
        self.available.iter().filter(move |_| foreign)
    }
}

/// A service outside the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExternalService {
    pub meta: Meta,
    pub service: Arc<str>,
    pub tags: Tags,
    pub protocol: Protocol,
    pub endpoint: Endpoint,
    pub port: Port,
    /// Does its host get a VIP as well?
    pub host_entry: bool,
}

/// Names made up from tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualOutbound {
    pub meta: Meta,
    /// `*` matches every value of a tag that is there.
    pub selectors: Box<[Tags]>,
    /// Templates.
    pub host: Arc<str>,
    pub port: Arc<str>,
    /// The tag of each parameter.
    pub parameters: Tags,
}

/// Which Dataplanes a MeshService stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    Nobody,
    Tags(Tags),
    Name(Arc<str>),
    Labels(Tags),
}

/// Where a port of a MeshService leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TargetPort {
    Number(Port),
    Name(Arc<str>),
}

/// A port of a MeshService or MeshMultiZoneService.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServicePort {
    pub port: Port,
    pub target: TargetPort,
    /// Absent: what the instances speak.
    pub protocol: Option<Protocol>,
}

/// Instances with a VIP of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshService {
    pub meta: Meta,
    pub selector: Selector,
    /// In order.
    pub ports: Box<[ServicePort]>,
}

/// A service outside the mesh, with a VIP of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshExternalService {
    pub meta: Meta,
    pub port: Port,
    pub protocol: Protocol,
    /// In order, each once.
    pub endpoints: Box<[Endpoint]>,
}

/// MeshServices of several zones as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshMultiZoneService {
    pub meta: Meta,
    /// Labels of its MeshServices.
    pub selector: Tags,
    /// In order.
    pub ports: Box<[ServicePort]>,
}

/// Names for the kinds above.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostnameGenerator {
    pub meta: Meta,
    /// Labels that a resource must have; absent: none of this kind.
    pub mesh_service: Option<Tags>,
    pub mesh_external_service: Option<Tags>,
    pub mesh_multi_zone_service: Option<Tags>,
    pub template: Arc<str>,
}

/// A service of the short form: its instances, in one place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    pub meta: Meta,
    pub protocol: Protocol,
    /// In order, each once.
    pub endpoints: Box<[SocketAddr]>,
}
