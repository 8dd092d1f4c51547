//! Following gives what drawing everything gives, whatever is there and whatever changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;

use crate::cp::plan::drawing::Drawing;
use crate::cp::plan::follow::publishable;
use crate::cp::plan::rules::Rules;
use crate::cp::plan::{Condition, Conflict, Planner};
use crate::cp::resources::Resources;
use crate::cp::snapshot;
use crate::model::kind::{
    Available, Dataplane, ExternalService, HostnameGenerator, Inbound, Mesh, MeshExternalService,
    MeshMultiZoneService, MeshService, MeshServices, Meta, Resource, ResourceKey, Selector, Service,
    ServicePort, Tags, TargetPort, VirtualOutbound, ZoneIngress,
};
use crate::model::name::Hostname;
use crate::model::resource::{Endpoint, Protocol, ServiceKey};
use crate::model::view::Port;

/// One edit: a resource is put, or one of this key goes.
#[derive(Clone, Debug)]
enum Edit {
    Put(Resource),
    Remove(Resource),
    /// Everything is another copy.
    Again,
    /// The domain, or the zone, is another.
    Settings(bool, bool),
}

fn meta(global: bool) -> impl Strategy<Value = Meta> {
    let mesh = select(if global { vec![""] } else { vec!["default", "default", "second"] });
    let labels = (select(vec!["", "blue", "red"]), select(vec!["", "a", "b"]));
    (mesh, 0..4_u8, labels, 0..2_i64).prop_map(|(mesh, n, (team, app), created_secs)| Meta {
        mesh: mesh.into(),
        name: format!("n{n}").into(),
        labels: tags(&[("team", team), ("app", app)]),
        created_secs,
    })
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().copied().filter(|(_, value)| !value.is_empty()).collect()
}

fn service() -> impl Strategy<Value = &'static str> {
    select(vec!["web", "Web", "web_api", "web.api", "api", "n0"])
}

fn instance_tags() -> impl Strategy<Value = Tags> {
    (service(), select(vec!["", "v1", "v2", "8080"]))
        .prop_map(|(service, version)| tags(&[("kuma.io/service", service), ("version", version)]))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Http])
}

fn port() -> impl Strategy<Value = Port> {
    select(vec![80, 8080]).prop_map(Port::new)
}

fn inbound() -> impl Strategy<Value = Inbound> {
    let endpoint = proptest::option::of(1..4_u8);
    (instance_tags(), port(), protocol(), endpoint).prop_map(|(tags, port, protocol, endpoint)| Inbound {
        service: tags.shared("kuma.io/service").unwrap().clone(),
        tags,
        name: "main".into(),
        port,
        protocol,
        endpoint: endpoint.map(|last| ([10, 0, 0, last], port.get()).into()),
    })
}

fn external() -> impl Strategy<Value = Resource> {
    let hosts = select(vec!["h.example", "web.mesh", "v1.mesh", ""]);
    (meta(false), instance_tags(), protocol(), hosts, port(), any::<bool>()).prop_map(
        |(meta, tags, protocol, host, port, host_entry)| {
            let endpoint = match Hostname::parse(host) {
                Ok(host) => Endpoint::Host(host, port),
                Err(_) => Endpoint::Address(([192, 0, 2, 1], port.get()).into()),
            };
            let service = tags.shared("kuma.io/service").unwrap().clone();
            Resource::ExternalService(ExternalService {
                meta,
                service,
                tags,
                protocol,
                endpoint,
                port,
                host_entry,
            })
        },
    )
}

fn outbound() -> impl Strategy<Value = Resource> {
    let selector = select(vec![
        ("kuma.io/service", "*"),
        ("kuma.io/service", "web"),
        ("version", "*"),
        ("version", "v1"),
    ]);
    let host =
        select(vec!["{{.version}}.mesh", "{{.service}}.mesh", "one.mesh", "h.example", "{{.version}} bad"]);
    let (port, told) = (select(vec!["80", "{{.version}}"]), any::<bool>());
    (meta(false), proptest::collection::vec(selector, 1..3), host, port, told).prop_map(
        |(meta, selectors, host, port, told)| {
            let service = if told { "kuma.io/service" } else { "" };
            Resource::VirtualOutbound(VirtualOutbound {
                meta,
                selectors: selectors.iter().map(|pair| tags(&[*pair])).collect(),
                host: host.into(),
                port: port.into(),
                parameters: tags(&[("service", service), ("version", "version")]),
            })
        },
    )
}

fn ports() -> impl Strategy<Value = Box<[ServicePort]>> {
    let target = prop_oneof![port().prop_map(TargetPort::Number), Just(TargetPort::Name("main".into())),];
    let one = (port(), target, proptest::option::of(protocol()))
        .prop_map(|(port, target, protocol)| ServicePort { port, target, protocol });
    proptest::collection::btree_map(port(), one, 1..3)
        .prop_map(|ports| ports.into_iter().map(|(port, of)| ServicePort { port, ..of }).collect())
}

fn mesh_service() -> impl Strategy<Value = Resource> {
    let selector = prop_oneof![
        4 => service().prop_map(|service| Selector::Tags(tags(&[("kuma.io/service", service)]))),
        1 => instance_tags().prop_map(Selector::Tags),
        1 => Just(Selector::Tags(tags(&[("version", "v1")]))),
        1 => Just(Selector::Tags(Tags::new())),
        1 => select(vec!["a", "b", ""]).prop_map(|app| Selector::Labels(tags(&[("app", app)]))),
        1 => Just(Selector::Name("n1".into())),
        1 => Just(Selector::Nobody),
    ];
    (meta(false), selector, ports())
        .prop_map(|(meta, selector, ports)| Resource::MeshService(MeshService { meta, selector, ports }))
}

fn generator() -> impl Strategy<Value = Resource> {
    let templates =
        select(vec!["{{ .Name }}.mesh", "one.{{ .Mesh }}", "{{ label \"team\" }}.mesh", "web.mesh"]);
    let wanted = || proptest::option::of(select(vec!["", "blue"]).prop_map(|team| tags(&[("team", team)])));
    (meta(true), templates, wanted(), wanted(), wanted()).prop_map(
        |(meta, template, service, external, multi)| {
            Resource::HostnameGenerator(HostnameGenerator {
                meta,
                mesh_service: service,
                mesh_external_service: external,
                mesh_multi_zone_service: multi,
                template: template.into(),
            })
        },
    )
}

fn multi_zone() -> impl Strategy<Value = Resource> {
    let selector = select(vec![
        tags(&[("team", "blue")]),
        tags(&[("kuma.io/display-name", "n1")]),
        tags(&[("kuma.io/zone", "west")]),
        Tags::new(),
    ]);
    (meta(false), selector, ports()).prop_map(|(meta, selector, ports)| {
        Resource::MeshMultiZoneService(MeshMultiZoneService { meta, selector, ports })
    })
}

fn ingress() -> impl Strategy<Value = Resource> {
    let offer = (select(vec!["default", "second"]), instance_tags()).prop_map(|(mesh, tags)| Available {
        mesh: mesh.into(),
        service: tags.shared("kuma.io/service").unwrap().clone(),
        tags,
    });
    let offers = proptest::collection::vec(offer, 0..3);
    (meta(true), select(vec!["", "west", "east"]), offers).prop_map(|(meta, zone, offers)| {
        Resource::ZoneIngress(ZoneIngress { meta, zone: zone.into(), available: offers.into() })
    })
}

fn resource() -> impl Strategy<Value = Resource> {
    let endpoints = proptest::collection::btree_set((1..4_u8, select(vec![80, 8080])), 0..3);
    let short = (service(), protocol(), endpoints).prop_map(|(name, protocol, endpoints)| {
        let meta = Meta { mesh: "default".into(), name: name.into(), ..Meta::default() };
        let endpoints = endpoints.into_iter().map(|(last, port)| ([10, 0, 1, last], port).into()).collect();
        Resource::Service(Service { meta, protocol, endpoints })
    });
    let dataplane = (meta(false), proptest::collection::vec(inbound(), 1..3))
        .prop_map(|(meta, inbounds)| Resource::Dataplane(Dataplane { meta, inbounds: inbounds.into() }));
    let modes = select(vec![MeshServices::Disabled, MeshServices::Beside, MeshServices::Exclusive]);
    let mesh = (select(vec!["default", "second", "third"]), modes).prop_map(|(name, mode)| {
        Resource::Mesh(Mesh { meta: Meta { name: name.into(), ..Meta::default() }, mode })
    });
    let mesh_external = (meta(false), port(), protocol()).prop_map(|(meta, port, protocol)| {
        let endpoints = [Endpoint::Address(([192, 0, 2, 9], 443).into())].into();
        Resource::MeshExternalService(MeshExternalService { meta, port, protocol, endpoints })
    });
    prop_oneof![
        5 => dataplane,
        3 => short,
        3 => external(),
        1 => outbound(),
        4 => mesh_service(),
        2 => mesh_external,
        2 => multi_zone(),
        1 => generator(),
        2 => ingress(),
        1 => mesh,
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        24 => resource().prop_map(Edit::Put),
        12 => resource().prop_map(Edit::Remove),
        1 => Just(Edit::Again),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(domain, zone)| Edit::Settings(domain, zone)),
    ]
}

fn apply(resources: &mut Resources, edit: Edit) {
    match edit {
        Edit::Put(resource) => {
            resources.all.insert(resource.key(), Arc::new(resource));
        }
        Edit::Remove(resource) => {
            resources.all.remove(&resource.key());
        }
        Edit::Again => {
            let all = std::mem::take(&mut resources.all);
            resources.all =
                all.into_iter().map(|(key, resource)| (key, Arc::new((*resource).clone()))).collect();
        }
        Edit::Settings(domain, zone) => {
            resources.settings.domain = Hostname::parse(if domain { "mesh" } else { "example" }).unwrap();
            resources.settings.zone = if zone { "west" } else { "default" }.into();
        }
    }
}

/// Everything drawn from scratch.
type Scratch = (BTreeMap<ServiceKey, snapshot::Entry>, Vec<Conflict>, Vec<Condition>);

fn scratch(resources: &Resources) -> Scratch {
    let all: BTreeMap<&ResourceKey, &Arc<Resource>> = resources.all.iter().collect();
    let drawing = Drawing::of(&Rules::of(resources), all.values().map(|resource| &***resource));
    let publish = |(key, entry)| {
        let entry = publishable(&key, entry);
        (key, entry)
    };
    let mut conflicts: Vec<Conflict> = drawing.conflicts.into_iter().map(|(_, conflict)| conflict).collect();
    let mut conditions: Vec<Condition> = drawing.conditions.into_iter().map(|(_, one)| one).collect();
    conflicts.sort();
    conditions.sort();
    (drawing.entries.into_iter().map(publish).collect(), conflicts, conditions)
}

fn followed(planner: &Planner) -> Scratch {
    let entry = |key: &ServiceKey| (key.clone(), (**planner.entry(key).unwrap()).clone());
    let conflicts = planner.conflicts().iter().cloned().collect();
    (planner.keys().map(entry).collect(), conflicts, planner.conditions().iter().cloned().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn following_gives_what_drawing_everything_gives(
        start in proptest::collection::vec(resource(), 0..24),
        steps in proptest::collection::vec(proptest::collection::vec(edit(), 1..4), 1..24),
    ) {
        let mut resources = Resources::default();
        start.into_iter().for_each(|resource| apply(&mut resources, Edit::Put(resource)));
        let mut planner = Planner::default();
        planner.follow(&resources);
        for step in steps {
            let before: BTreeMap<ServiceKey, Arc<snapshot::Entry>> =
                planner.keys().map(|key| (key.clone(), planner.entry(key).unwrap().clone())).collect();
            step.into_iter().for_each(|edit| apply(&mut resources, edit));
            let changed = planner.follow(&resources);
            prop_assert_eq!(followed(&planner), scratch(&resources));
            let keys = before.keys().chain(planner.keys());
            for key in keys.filter(|key| !changed.contains(key)) {
                let kept = before.get(key).zip(planner.entry(key)).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
                prop_assert!(kept, "{:?} has changed", key);
            }
            for key in &changed {
                prop_assert_ne!(before.get(key), planner.entry(key), "{:?} has not changed", key);
            }
        }
    }
}
