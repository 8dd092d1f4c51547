//! The resources of one view as they are published now. Keeps: each is encoded once, when its action comes in, and
//! shared by all streams. Called by cp::xds (writing) and its streams (reading).

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use ipnetwork::IpNetwork;

use super::order::{Action, Step};
use super::per_type::PerType;
use super::resources::Resources;
use crate::model::view::{Header, MeshView};
use crate::wire;
use crate::wire::envoy;
use crate::wire::resource::{Resource, ResourceType};

/// The resources of one type.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    /// Grows with each change.
    pub(super) generation: u64,
    /// Until something was decided nothing may be answered, least of all "there is none".
    pub(super) decided: bool,
    pub(super) resources: Resources,
}

/// The resources of all types.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) sets: PerType<Set>,
    /// Where the entrances of proxies lead to clusters.
    pub(super) ranges: Vec<IpNetwork>,
    /// What the mesh views among `sets` were made from.
    view: Option<Arc<MeshView>>,
    /// May a client be told to drop what an earlier control plane gave it?
    pub(super) strangers_may_go: bool,
}

impl Published {
    /// Has the mesh been seen at all?
    pub(super) fn is_decided(&self) -> bool {
        self.sets[ResourceType::Cluster].decided
    }

    /// Does what `step` says; actions that change no resource are left to the caller.
    pub(super) fn apply(&mut self, step: &Step) {
        for kind in ResourceType::ALL {
            self.sets[kind].generation = step.generations[kind];
            self.sets[kind].decided |= kind != ResourceType::MeshView;
        }
        for action in &step.actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::SetCluster { name, service, hosts } => {
                self.set(ResourceType::Cluster, envoy::cluster(name, service, hosts));
            }
            Action::DropCluster { name } => self.drop(ResourceType::Cluster, name),
            Action::SetEndpoints { service, endpoints } => {
                self.set(ResourceType::Endpoints, envoy::endpoints(service, endpoints));
            }
            Action::DropEndpoints { service } => self.drop(ResourceType::Endpoints, service),
            Action::SetListener { route, service, codec } => {
                self.set(ResourceType::Listener, envoy::outbound(*route, service, *codec));
            }
            Action::DropListener { route } => {
                self.drop(ResourceType::Listener, &envoy::outbound_name(*route))
            }
            Action::SetEntrance { ranges } => self.ranges.clone_from(ranges),
            Action::PublishView(mesh_view) => self.set_view(mesh_view),
            Action::ReleaseStrangers => self.strangers_may_go = true,
            Action::Overdue { .. } | Action::Refuse { .. } => {}
        }
    }

    fn set_view(&mut self, view: &Arc<MeshView>) {
        self.sets[ResourceType::MeshView].decided = true;
        let name = view.name();
        let nothing = Arc::new(MeshView::new(name, Header::clone(view.header())));
        let before = self.view.replace(view.clone());
        if before.as_ref().is_none_or(|before| before.header() != view.header()) {
            self.set(ResourceType::MeshView, wire::view::encode_header(name, view.header()));
        }
        for item in before.unwrap_or(nothing).parts().diff(view.parts()) {
            match item {
                DiffItem::Add(key, part) | DiffItem::Update { new: (key, part), .. } => {
                    self.set(ResourceType::MeshView, wire::view::encode_part(name, key, part));
                }
                DiffItem::Remove(key, _) => {
                    self.drop(ResourceType::MeshView, &wire::view::part_name(name, key));
                }
            }
        }
    }

    fn set(&mut self, kind: ResourceType, resource: Resource) {
        self.sets[kind].resources.insert(resource);
    }

    fn drop(&mut self, kind: ResourceType, name: &str) {
        self.sets[kind].resources.remove(name);
    }
}
