//! Kuma's resource kinds as they are after reading: checked, and only what names, addresses and listeners depend on.
//! Keeps: plain data, no rule. Called by cp (resources, plan).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub use crate::model::key::{ResourceKey, ResourceKind};
use crate::model::resource::{Endpoint, Protocol};
use crate::model::view::Port;

/// The tag that names a service.
pub const SERVICE_TAG: &str = "kuma.io/service";
/// The tag that says what it speaks.
pub const PROTOCOL_TAG: &str = "kuma.io/protocol";

/// Tags or labels.
pub type Tags = BTreeMap<String, String>;

/// What every resource has: mesh (empty for those without one), name, labels, and when it was made, in seconds of the
/// Unix epoch (0: not said).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Meta {
    pub mesh: String,
    pub name: String,
    pub labels: Tags,
    pub created_secs: i64,
}

/// A mesh, declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mesh {
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

/// One inbound of a Dataplane that Kuma does not skip.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inbound {
    pub mesh: Arc<str>,
    pub dataplane: Arc<Meta>,
    pub service: Arc<str>,
    pub tags: Tags,
    pub name: String,
    pub port: Port,
    pub protocol: Protocol,
    /// Absent while it is not ready.
    pub endpoint: Option<SocketAddr>,
}

/// A service of another zone, as that zone's ingress offers it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Available {
    pub mesh: String,
    pub service: String,
    pub tags: Tags,
}

/// A service outside the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExternalService {
    pub meta: Meta,
    pub service: String,
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
    pub selectors: Vec<Tags>,
    /// Templates.
    pub host: String,
    pub port: String,
    /// The tag of each parameter.
    pub parameters: Tags,
}

/// Which Dataplanes a MeshService stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    Nobody,
    Tags(Tags),
    Name(String),
    Labels(Tags),
}

/// Where a port of a MeshService leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TargetPort {
    Number(Port),
    Name(String),
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
    pub ports: Vec<ServicePort>,
}

/// A service outside the mesh, with a VIP of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshExternalService {
    pub meta: Meta,
    pub port: Port,
    pub protocol: Protocol,
    pub endpoints: BTreeSet<Endpoint>,
}

/// MeshServices of several zones as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshMultiZoneService {
    pub meta: Meta,
    /// Labels of its MeshServices.
    pub selector: Tags,
    pub ports: Vec<ServicePort>,
}

/// Names for the kinds above.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostnameGenerator {
    pub meta: Meta,
    /// Labels that a resource must have; absent: none of this kind.
    pub mesh_service: Option<Tags>,
    pub mesh_external_service: Option<Tags>,
    pub mesh_multi_zone_service: Option<Tags>,
    pub template: String,
}

/// Everything of Kuma's kinds that was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kinds {
    pub meshes: BTreeMap<String, Mesh>,
    /// In order of mesh, Dataplane and position.
    pub inbounds: Vec<Inbound>,
    pub available: BTreeSet<Available>,
    /// Each kind in order of mesh and name.
    pub external_services: Vec<ExternalService>,
    pub virtual_outbounds: Vec<VirtualOutbound>,
    pub mesh_services: Vec<MeshService>,
    pub mesh_external_services: Vec<MeshExternalService>,
    pub mesh_multi_zone_services: Vec<MeshMultiZoneService>,
    pub generators: Vec<HostnameGenerator>,
}
