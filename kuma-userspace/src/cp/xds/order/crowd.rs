//! Who is connected to a view, and what all of them together have acknowledged. Part of order. Keeps: what nearly always
//! holds for everybody is asked once for all lines, not once for each line and client.

use super::ClientId;
use crate::cp::xds::clients::Client;
use crate::cp::xds::per_type::PerType;
use crate::wire::node::Role;
use crate::wire::resource::ResourceType;

#[derive(Debug, Default)]
pub(super) struct Crowd {
    clients: Vec<Client>,
    proxies: Group,
    agents: Group,
}

/// The clients of one role.
#[derive(Debug, Default)]
struct Group {
    size: usize,
    /// Everybody has acknowledged this; meaningless when nobody is there.
    acked: PerType<u64>,
    refuses: bool,
}

/// Whose state is another than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct News {
    pub(super) of_proxies: bool,
    pub(super) of_agents: bool,
}

impl Crowd {
    /// Takes in who is there now.
    pub(super) fn follow(&mut self, clients: Vec<Client>) -> News {
        let before = std::mem::replace(&mut self.clients, clients);
        let differs = |role| {
            let of_role = |client: &&Client| client.role == role;
            before.iter().filter(of_role).ne(self.clients.iter().filter(of_role))
        };
        let news = News { of_proxies: differs(Role::Proxy), of_agents: differs(Role::Agent) };
        self.proxies = Group::of(&self.clients, Role::Proxy);
        self.agents = Group::of(&self.clients, Role::Agent);
        news
    }

    pub(super) fn all(&self) -> &[Client] {
        &self.clients
    }

    pub(super) fn proxies(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.role == Role::Proxy)
    }

    /// Has everybody of `role` acknowledged that generation? True when nobody is there.
    pub(super) fn has(&self, role: Role, kind: ResourceType, generation: u64) -> bool {
        let group = self.group(role);
        // An agent that refused a part still routes by the one before it.
        let takes_all = role == Role::Proxy || !group.refuses;
        group.size == 0 || (group.acked[kind] >= generation && takes_all)
    }

    /// Do proxies have all of these, at least one of them, and does none refuse anything?
    pub(super) fn proxies_have(&self, generations: [(ResourceType, u64); 2]) -> bool {
        let has = |(kind, generation): (ResourceType, u64)| self.proxies.acked[kind] >= generation;
        self.proxies.size > 0 && !self.proxies.refuses && generations.into_iter().all(has)
    }

    /// Who of `role` has not acknowledged that generation.
    pub(super) fn late(&self, role: Role, kind: ResourceType, generation: u64) -> Vec<ClientId> {
        let has_not = |client: &&Client| {
            client.role == role
                && (client.acked(kind) < generation || (role == Role::Agent && client.refuses_any(kind)))
        };
        self.clients.iter().filter(has_not).map(|client| client.id).collect()
    }

    fn group(&self, role: Role) -> &Group {
        match role {
            Role::Proxy => &self.proxies,
            Role::Agent => &self.agents,
        }
    }
}

impl Group {
    fn of(clients: &[Client], role: Role) -> Self {
        let mut group = Self::default();
        for client in clients.iter().filter(|client| client.role == role) {
            for kind in ResourceType::ALL {
                let acked = client.acked(kind);
                group.acked[kind] = if group.size == 0 { acked } else { group.acked[kind].min(acked) };
            }
            group.refuses |= !client.progress.refused.is_empty();
            group.size += 1;
        }
        group
    }
}
