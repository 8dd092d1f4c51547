//! An order with its clients and its clock. Part of order's tests.

use std::net::{IpAddr, SocketAddr};

use super::super::lines::SETTLE;
use super::super::*;
use super::{PROXY, TTL};
use crate::cp::snapshot::{Entry, Listener, MeshHeader, Outbounds, Protocol, Published};
use crate::cp::xds::clients::{Progress, Refusal};
use crate::model::name::Hostname;
use crate::model::view::{Addresses, MeshView, Port};
use crate::wire::node::Role;
use crate::wire::resource::Version;

/// An order with its clients and its clock.
pub(super) struct Table {
    pub(super) order: Order,
    pub(super) now: Instant,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) outbounds: Outbounds,
    /// What agents were told, all in all.
    pub(super) view: MeshView,
}

impl Table {
    pub(super) fn new() -> Self {
        let (now, outbounds) = (Instant::now(), Outbounds::default());
        let view = MeshView::empty("default", name("mesh"));
        Self { order: Order::new("default"), now, clients: BTreeMap::new(), outbounds, view }
    }

    /// The mesh has these services now: name, last byte of the VIP, last byte of the endpoint's port.
    pub(super) fn want(&mut self, services: &[(&str, u8, u8)]) -> Vec<String> {
        let vips =
            services.iter().map(|&(name, vip, port)| (Arc::from(name), service(name, vip, port))).collect();
        self.want_mesh(vips, self.outbounds)
    }

    pub(super) fn want_mesh(
        &mut self,
        vips: OrdMap<Arc<str>, Published>,
        outbounds: Outbounds,
    ) -> Vec<String> {
        let ranges = vec!["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
        let ttl_secs = u32::try_from(TTL.as_secs()).unwrap();
        let header = Arc::new(MeshHeader { domain: name("mesh"), ttl_secs, ranges, outbounds });
        self.step(Event::Wanted(Some(MeshSnapshot { header, vips })))
    }

    /// One service of the mesh is another now.
    pub(super) fn change(
        &mut self,
        vip: &str,
        change: impl FnOnce(&mut Published, &mut Listener),
    ) -> Vec<String> {
        let mut vips = self.order.wanted.clone().unwrap().vips;
        let mut published = vips[vip].clone();
        let mut entry = (*published.entry).clone();
        let mut listener = entry.listeners[0].clone();
        change(&mut published, &mut listener);
        entry.listeners = [listener].into();
        published.entry = Arc::new(entry);
        vips.insert(vip.into(), published);
        self.want_mesh(vips, self.outbounds)
    }

    pub(super) fn connect(&mut self, id: u64, role: Role) -> Vec<String> {
        let (node, connected, progress) = (format!("node-{id}").into(), self.now, Progress::default());
        self.clients.insert(id, Client { id: ClientId(id), node, role, software: None, connected, progress });
        self.tell()
    }

    pub(super) fn leave(&mut self, id: u64) -> Vec<String> {
        self.clients.remove(&id);
        self.tell()
    }

    /// The client acknowledges everything of these types that is out.
    pub(super) fn ack(&mut self, id: u64, kinds: &[ResourceType]) -> Vec<String> {
        let client = self.clients.get_mut(&id).unwrap();
        for &kind in kinds {
            client.progress.acked[kind] = self.order.generations[kind];
        }
        self.tell()
    }

    pub(super) fn refuse(&mut self, id: u64, listener: &str) -> Vec<String> {
        refuse(self.clients.get_mut(&id).unwrap(), ResourceType::Listener, listener);
        self.ack(id, &[ResourceType::Listener])
    }

    pub(super) fn tell(&mut self) -> Vec<String> {
        self.step(Event::Clients(self.clients.values().cloned().collect()))
    }

    pub(super) fn after(&mut self, wait: Duration) -> Vec<String> {
        self.now += wait;
        self.step(Event::Time)
    }

    /// One step, and the steps that it asks for at once.
    pub(super) fn step(&mut self, event: Event) -> Vec<String> {
        let mut step = self.order.step(event, self.now);
        let mut said = self.words(&step);
        while step.wake.is_some_and(|wake| wake <= self.now) {
            step = self.order.step(Event::Time, self.now);
            said.extend(self.words(&step));
        }
        said
    }

    /// A proxy and an agent that have everything of a mesh with these services.
    pub(super) fn settled(services: &[(&str, u8, u8)]) -> Self {
        Self::settled_as(Outbounds::default(), services)
    }

    pub(super) fn settled_as(outbounds: Outbounds, services: &[(&str, u8, u8)]) -> Self {
        let mut table = Self { outbounds, ..Self::new() };
        table.want(services);
        table.connect(1, Role::Proxy);
        table.connect(2, Role::Agent);
        table.ack(1, &PROXY);
        table.after(SETTLE);
        table.ack(2, &[ResourceType::MeshView]);
        table
    }
}

pub(super) fn name(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

/// On port 80; one endpoint.
pub(super) fn service(text: &str, vip: u8, port: u8) -> Published {
    let listener = Listener {
        cluster: text.into(),
        ports: [Port::new(80)].into(),
        protocol: Protocol::Tcp,
        endpoints: [address(port)].into(),
    };
    let hostnames = [name(&format!("{text}.mesh"))].into();
    let addresses = Addresses { v4: Some([240, 0, 0, vip].into()), v6: None };
    Published::new(addresses, Arc::new(Entry { hostnames, listeners: [listener].into() }))
}

pub(super) fn address(port: u8) -> Endpoint {
    SocketAddr::from(([127, 0, 0, 1], port.into())).into()
}

pub(super) fn host(text: &str) -> Endpoint {
    Endpoint::Host(name(text), Port::new(80))
}

pub(super) fn refuse(client: &mut Client, kind: ResourceType, name: &str) {
    let refusal = Refusal { version: Version::of(b"1"), reason: "no".into() };
    Arc::make_mut(&mut client.progress.refused).insert((kind, name.into()), refusal);
}

impl Table {
    pub(super) fn words(&mut self, step: &Step) -> Vec<String> {
        step.actions.iter().map(|action| self.word(action)).collect()
    }

    pub(super) fn word(&mut self, action: &Action) -> String {
        match action {
            Action::SetCluster { name, service, hosts: Some(hosts) } => {
                let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
                format!("cluster {name} {service} looks up {}", hosts.join(","))
            }
            Action::SetCluster { name, service, .. } if name.to_string() == **service => {
                format!("cluster {name}")
            }
            Action::SetCluster { name, service, .. } => format!("cluster {name} {service}"),
            Action::DropCluster { name } => format!("no cluster {name}"),
            Action::SetEndpoints { service, endpoints } => {
                let ports: Vec<String> = endpoints
                    .iter()
                    .map(|endpoint| endpoint.to_string().rsplit(':').next().unwrap().to_owned())
                    .collect();
                format!("endpoints {service} {}", ports.join(","))
            }
            Action::DropEndpoints { service } => format!("no endpoints {service}"),
            Action::SetListener { route, service, .. } => {
                format!("listener {} {service}", last_byte(route.vip))
            }
            Action::DropListener { route } => format!("no listener {}", last_byte(route.vip)),
            Action::SetEntrance { ranges } => format!("entrance {}", ranges[0]),
            Action::PublishView(changes) => {
                self.view = self.view.with(changes.clone()).unwrap();
                let view = &self.view;
                let names: Vec<&str> = view.names().keys().map(Hostname::as_str).collect();
                let vips: Vec<String> = view.routes().map(|route| last_byte(route.vip)).collect();
                format!("view {} [{}]", names.join(","), vips.join(","))
            }
            Action::ReleaseStrangers => "strangers".into(),
            Action::Overdue { client, kind } => format!("overdue {} {}", client.0, kind.word()),
            Action::Refuse { reason } => reason.clone(),
        }
    }
}

pub(super) fn last_byte(vip: IpAddr) -> String {
    vip.to_string().rsplit('.').next().unwrap().to_owned()
}
