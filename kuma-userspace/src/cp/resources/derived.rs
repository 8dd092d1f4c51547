//! MeshServices that nobody wrote down: those that stand for a service tag, in meshes whose mode asks for them, as Kuma
//! makes them. Keeps: a resource of the same name goes first; a tag that is no RFC 1035 label has none.
//! Called by cp::resources and cp::registry.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::mesh_service::MAX_NAME_BYTES;
use crate::model::kind::{
    Dataplane, Inbound, MeshService, MeshServices, Meta, Resource, ResourceKey, ResourceKind, SERVICE_TAG,
    Selector, ServicePort, Tags, TargetPort,
};
use crate::model::resource::Protocol;
use crate::model::view::Port;

/// What all inbounds of one service say about its ports: how many say what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::cp) struct Spoken(Vec<(Port, Protocol, u32)>);

impl Spoken {
    pub(in crate::cp) fn add(&mut self, inbound: &Inbound) {
        let says = (inbound.port, inbound.protocol);
        match self.0.binary_search_by_key(&says, |(port, protocol, _)| (*port, *protocol)) {
            Ok(at) => self.0[at].2 += 1,
            Err(at) => self.0.insert(at, (says.0, says.1, 1)),
        }
    }

    pub(in crate::cp) fn remove(&mut self, inbound: &Inbound) {
        let says = (inbound.port, inbound.protocol);
        if let Ok(at) = self.0.binary_search_by_key(&says, |(port, protocol, _)| (*port, *protocol)) {
            self.0[at].2 -= 1;
            if self.0[at].2 == 0 {
                self.0.remove(at);
            }
        }
    }

    pub(in crate::cp) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The MeshService of this service.
    pub(in crate::cp) fn service(&self, mesh: &Arc<str>, name: &Arc<str>) -> MeshService {
        let mut ports: BTreeMap<Port, Protocol> = BTreeMap::new();
        for &(port, protocol, _) in &self.0 {
            let spoken = ports.entry(port).or_insert(protocol);
            *spoken = spoken.common(protocol);
        }
        let port = |(port, protocol)| ServicePort {
            port,
            target: TargetPort::Number(port),
            protocol: Some(protocol),
        };
        MeshService {
            meta: Meta { mesh: mesh.clone(), name: name.clone(), ..Meta::default() },
            selector: Selector::Tags(Tags::from([(Arc::from(SERVICE_TAG), name.clone())])),
            ports: ports.into_iter().map(port).collect(),
        }
    }
}

/// Does this mesh's mode ask for them?
fn asked(all: &imbl::OrdMap<ResourceKey, Arc<Resource>>, mesh: &Arc<str>) -> bool {
    let key = ResourceKey { kind: ResourceKind::Mesh, mesh: "".into(), name: mesh.clone() };
    matches!(all.get(&key).map(|found| &**found), Some(Resource::Mesh(mesh)) if mesh.mode != MeshServices::Disabled)
}

/// Is this tag a name that a MeshService can have?
pub(in crate::cp) fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= MAX_NAME_BYTES
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(plain)
}

/// All of them, from scratch.
pub(super) fn all(all: &imbl::OrdMap<ResourceKey, Arc<Resource>>) -> Vec<MeshService> {
    let mut modes: BTreeMap<Arc<str>, bool> = BTreeMap::new();
    let mut spoken: BTreeMap<(Arc<str>, Arc<str>), Spoken> = BTreeMap::new();
    for resource in all.values() {
        let Resource::Dataplane(Dataplane { meta, inbounds }) = &**resource else { continue };
        if !*modes.entry(meta.mesh.clone()).or_insert_with(|| asked(all, &meta.mesh)) {
            continue;
        }
        for inbound in inbounds.iter().filter(|inbound| is_label(&inbound.service)) {
            spoken.entry((meta.mesh.clone(), inbound.service.clone())).or_default().add(inbound);
        }
    }
    spoken.into_iter().map(|((mesh, name), spoken)| spoken.service(&mesh, &name)).collect()
}
