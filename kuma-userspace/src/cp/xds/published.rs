//! The resources of one view as they are published now. Keeps: the version of each is found once, when its action comes in.
//! Called by cp::xds (writing) and its streams (reading).

use ipnetwork::IpNetwork;

use super::content::{Content, Resource};
use super::name::Name;
use super::order::{Action, Step};
use super::per_type::PerType;
use super::resources::Resources;
use crate::model::view::Changes;
use crate::wire::resource::ResourceType;

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
        let before = ResourceType::ALL.map(|kind| (kind, self.sets[kind].resources.len()));
        for action in &step.actions {
            self.act(action);
        }
        for (kind, before) in before {
            self.sets[kind].resources.pack(before);
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::SetCluster { name, service, hosts } => {
                let (service, hosts) = (service.clone(), hosts.clone().map(Box::new));
                self.set(ResourceType::Cluster, name.clone(), Content::Cluster { service, hosts });
            }
            Action::DropCluster { name } => self.drop(ResourceType::Cluster, name),
            Action::SetEndpoints { service, endpoints } => {
                let content = Content::Endpoints(endpoints.clone());
                self.set(ResourceType::Endpoints, service.into(), content);
            }
            Action::DropEndpoints { service } => {
                self.drop(ResourceType::Endpoints, &service.into());
            }
            Action::SetListener { route, service, codec } => {
                let content = Content::Listener { service: service.clone(), codec: *codec };
                self.set(ResourceType::Listener, Name::Vip(*route), content);
            }
            Action::DropListener { route } => self.drop(ResourceType::Listener, &Name::Vip(*route)),
            Action::SetEntrance { ranges } => self.ranges.clone_from(ranges),
            Action::PublishView(changes) => self.set_view(changes),
            Action::ReleaseStrangers => self.strangers_may_go = true,
            Action::Overdue { .. } | Action::Refuse { .. } => {}
        }
    }

    fn set_view(&mut self, Changes { header, parts }: &Changes) {
        self.sets[ResourceType::MeshView].decided = true;
        if let Some(header) = header {
            self.set(ResourceType::MeshView, Name::of(""), Content::Header(header.clone()));
        }
        for (key, part) in parts {
            let name = key.into();
            match part {
                Some(part) => self.set(ResourceType::MeshView, name, Content::Part(part.clone())),
                None => self.drop(ResourceType::MeshView, &name),
            }
        }
    }

    fn set(&mut self, kind: ResourceType, name: Name, content: Content) {
        let resource = Resource::new(&name, content);
        self.sets[kind].resources.insert(name, resource);
    }

    fn drop(&mut self, kind: ResourceType, name: &Name) {
        self.sets[kind].resources.remove(name);
    }
}
