//! What resources become: names, VIPs, ports and winners, in whatever order they come.

mod follow;
mod mesh_services;

use std::sync::Arc;

use proptest::prelude::*;

use super::drawing::Drawing;
use super::rules::Rules;
use super::*;
use crate::cp::resources::{self, Resources};
use crate::model::resource::{Kind, ServiceKey};

/// Everything that is to be, drawn at once.
#[derive(PartialEq, Debug)]
struct Plan {
    entries: BTreeMap<ServiceKey, Entry>,
    conflicts: BTreeSet<Conflict>,
    conditions: BTreeSet<Condition>,
}

fn read(documents: &[&str]) -> Resources {
    let directory = tempfile::tempdir().unwrap();
    for (at, text) in documents.iter().enumerate() {
        std::fs::write(directory.path().join(format!("{at:03}.yaml")), text).unwrap();
    }
    resources::read(&[directory.path().to_owned()]).unwrap_or_else(|invalid| panic!("{invalid}"))
}

fn plan(documents: &[&str]) -> Plan {
    let resources = read(documents);
    let Drawing { entries, conflicts, conditions } =
        Drawing::of(&Rules::of(&resources), resources.all.values().map(Arc::as_ref));
    Plan {
        entries,
        conflicts: conflicts.into_iter().map(|(_, conflict)| conflict).collect(),
        conditions: conditions.into_iter().map(|(_, condition)| condition).collect(),
    }
}

/// An entry in one line: its names, and `port->cluster(endpoints)` of each port.
fn line(plan: &Plan, kind: Kind, name: &str) -> String {
    let Some(entry) = plan.entries.get(&ServiceKey::of("default", kind, name)) else { return "-".into() };
    let names: Vec<&str> = entry.names.iter().map(Hostname::as_str).collect();
    let mut ports = Vec::new();
    for (cluster, listener) in &entry.listeners {
        let endpoints: Vec<String> = listener.backend.endpoints.iter().map(ToString::to_string).collect();
        for port in &listener.ports {
            ports.push(format!("{}->{cluster}({})", port.get(), endpoints.join(" ")));
        }
    }
    format!("{}: {}", names.join(" "), ports.join(", "))
}

fn conflicts(plan: &Plan) -> Vec<String> {
    let one = |c: &Conflict| format!("{}: {} before {}", c.name, c.winner, c.loser);
    plan.conflicts.iter().map(one).collect()
}

fn dataplane(name: &str, ip: u8, tags: &str) -> String {
    format!(
        "type: Dataplane\nmesh: default\nname: {name}\nlabels: {{app: {name}}}\n\
         networking: {{address: 10.0.0.{ip}, inbound: [{{port: 8080, name: main, tags: {{{tags}}}}}, \
         {{port: 9090, tags: {{kuma.io/service: admin}}}}]}}\n"
    )
}

fn external(name: &str, service: &str, address: &str) -> String {
    format!(
        "type: ExternalService\nmesh: default\nname: {name}\nnetworking: {{address: '{address}'}}\n\
         tags: {{kuma.io/service: {service}}}\n"
    )
}

fn outbound(name: &str, select: &str, host: &str, port: &str, created: &str) -> String {
    format!(
        "type: VirtualOutbound\nmesh: default\nname: {name}\ncreationTime: '{created}'\n\
         selectors: [{{match: {{{select}}}}}]\n\
         conf: {{host: '{host}', port: '{port}', parameters: [{{name: service, tagKey: kuma.io/service}}, \
         {{name: version, tagKey: version}}]}}\n"
    )
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-02-01T00:00:00Z";

#[test]
fn an_external_service_has_its_tag_and_its_host_as_names_one_vip_each_and_a_listener_per_port() {
    let plan = plan(&[
        &external("a", "bin", "httpbin.org:443"),
        &external("b", "bin-plain", "httpbin.org:8080"),
        &external("c", "by-address", "192.0.2.7:5432"),
    ]);
    assert_eq!(
        line(&plan, Kind::Service, "bin"),
        "bin.mesh: 80->bin(httpbin.org:443), 443->bin(httpbin.org:443)"
    );
    assert_eq!(
        line(&plan, Kind::Host, "httpbin.org"),
        "httpbin.org: 80->host:httpbin.org:443(httpbin.org:443), 443->host:httpbin.org:443(httpbin.org:443), \
         8080->host:httpbin.org:8080(httpbin.org:8080)"
    );
    assert_eq!(
        line(&plan, Kind::Service, "by-address"),
        "by-address.mesh: 80->by-address(192.0.2.7:5432), 5432->by-address(192.0.2.7:5432)"
    );
    assert_eq!(plan.entries.len(), 4, "a host that is an IP address takes nothing from the pool");
}

#[test]
fn a_host_that_two_services_want_belongs_to_the_first_by_name() {
    let plan = plan(&[&external("b", "second", "db.example:80"), &external("a", "first", "db.example:80")]);
    assert_eq!(line(&plan, Kind::Host, "db.example"), "db.example: 80->host:db.example:80(db.example:80)");
    assert_eq!(conflicts(&plan), ["db.example:80: ExternalService a before ExternalService b"]);
    let hidden = external("a", "first", "db.example:80")
        .replace("'db.example:80'", "'db.example:80', disableHostDNSEntry: true");
    assert_eq!(line(&self::plan(&[&hidden]), Kind::Host, "db.example"), "-");
}

#[test]
fn services_have_no_vip_of_their_own_when_that_is_switched_off() {
    let web = dataplane("web-1", 1, "kuma.io/service: web");
    let all = outbound("all", "kuma.io/service: '*'", "{{.service}}.mesh", "8080", OLD);
    let plan = plan(&["dnsServer: {serviceVipEnabled: false}", &web, &all]);
    assert_eq!(line(&plan, Kind::Service, "web"), "-");
    assert_eq!(line(&plan, Kind::Fqdn, "web.mesh"), "web.mesh: 8080->fqdn:web.mesh:8080(10.0.0.1:8080)");
    let other = self::plan(&["dnsServer: {serviceVipPort: 7}", &web]);
    assert_eq!(line(&other, Kind::Service, "web"), "web.mesh: 7->web(10.0.0.1:8080)");
}

#[test]
fn a_virtual_outbound_makes_names_of_tags_and_finds_the_instances_that_have_them() {
    let plan = plan(&[
        &dataplane("web-1", 1, "kuma.io/service: web, version: v1"),
        &dataplane("web-2", 2, "kuma.io/service: web, version: v2"),
        &dataplane("web-3", 3, "kuma.io/service: web"),
        &outbound(
            "v",
            "kuma.io/service: web",
            "{{if .version}}{{.version}}{{else}}any{{end}}.{{.service}}.mesh",
            "80",
            OLD,
        ),
    ]);
    assert_eq!(line(&plan, Kind::Fqdn, "v1.web.mesh"), "v1.web.mesh: 80->fqdn:v1.web.mesh:80(10.0.0.1:8080)");
    assert_eq!(
        line(&plan, Kind::Fqdn, "any.web.mesh"),
        "any.web.mesh: 80->fqdn:any.web.mesh:80(10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080)"
    );
    assert_eq!(
        line(&plan, Kind::Service, "web"),
        "web.mesh: 80->web(10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080)"
    );
}

#[test]
fn a_host_that_a_service_has_gets_a_further_port_of_its_vip() {
    let plan = plan(&[
        &dataplane("web-1", 1, "kuma.io/service: web"),
        &outbound("own", "kuma.io/service: web", "{{.service}}.mesh", "8080", OLD),
        &outbound("same", "kuma.io/service: web", "{{.service}}.mesh", "80", OLD),
    ]);
    assert_eq!(
        line(&plan, Kind::Service, "web"),
        "web.mesh: 8080->fqdn:web.mesh:8080(10.0.0.1:8080), 80->web(10.0.0.1:8080)"
    );
    assert_eq!(line(&plan, Kind::Fqdn, "web.mesh"), "-");
    assert!(plan.conflicts.is_empty(), "to lead to the same is no conflict: {:?}", plan.conflicts);
}

#[test]
fn the_higher_rank_has_a_port_then_the_newest_then_the_first_by_name() {
    let instances = [
        dataplane("a-1", 1, "kuma.io/service: a, version: v1"),
        dataplane("b-1", 2, "kuma.io/service: b, version: v1"),
    ];
    let winner = |first: &str, second: &str| {
        let plan = plan(&[&instances[0], &instances[1], first, second]);
        assert_eq!(plan.conflicts.len(), 1, "{:?}", plan.conflicts);
        conflicts(&plan).remove(0)
    };
    let any = |name, select, created| outbound(name, select, "one.mesh", "80", created);
    let (a, b) = ("kuma.io/service: a", "kuma.io/service: b");
    assert_eq!(
        winner(&any("x", a, NEW), &any("y", "kuma.io/service: b, version: v1", OLD)),
        "one.mesh:80: VirtualOutbound y before VirtualOutbound x",
        "more tags"
    );
    assert_eq!(
        winner(
            &any("x", "kuma.io/service: a, version: '*'", NEW),
            &any("y", "kuma.io/service: b, version: v1", OLD)
        ),
        "one.mesh:80: VirtualOutbound y before VirtualOutbound x",
        "more exact ones"
    );
    assert_eq!(
        winner(&any("x", a, OLD), &any("y", b, NEW)),
        "one.mesh:80: VirtualOutbound y before VirtualOutbound x",
        "newer"
    );
    assert_eq!(
        winner(&any("y", b, OLD), &any("x", a, OLD)),
        "one.mesh:80: VirtualOutbound x before VirtualOutbound y",
        "first by name"
    );
}

#[test]
fn what_a_virtual_outbound_cannot_name_is_a_condition() {
    let plan = plan(&[
        &dataplane("web-1", 1, "kuma.io/service: web"),
        &outbound("v", "kuma.io/service: web", "{{.version}}.mesh", "80", OLD),
    ]);
    let condition = plan.conditions.iter().next().unwrap();
    assert_eq!((condition.reason, condition.generator.as_str()), ("TemplateError", "VirtualOutbound v"));
    assert!(condition.message.contains("<no value>.mesh"), "{condition:?}");
    assert_eq!(plan.entries.len(), 2, "web and admin");
}

#[test]
fn services_of_other_zones_have_names_and_those_of_ours_come_from_its_dataplanes() {
    let ingress = |name: &str, zone: &str, service: &str| {
        format!(
            "type: ZoneIngress\nname: {name}\nzone: {zone}\nnetworking: {{address: 10.9.0.1, port: 10001}}\n\
             availableServices: [{{mesh: default, instances: 2, tags: {{kuma.io/service: {service}, version: v9}}}}]\n"
        )
    };
    let version = outbound("v", "version: '*', kuma.io/service: '*'", "{{.version}}.{{.service}}", "80", OLD);
    let (east, west) = (ingress("east", "east", "far"), ingress("west", "west", "near"));
    let plan = plan(&["multizone: {zone: {name: west}}", &east, &west, &version]);
    assert_eq!(line(&plan, Kind::Service, "far"), "far.mesh: 80->far()");
    assert_eq!(line(&plan, Kind::Fqdn, "v9.far"), "v9.far: 80->fqdn:v9.far:80()");
    assert_eq!(line(&plan, Kind::Service, "near"), "-");
}

const MESH_SERVICE: &str = "
type: MeshService
mesh: default
name: web
labels: {team: blue}
spec:
  selector: {dataplaneTags: {kuma.io/service: web}}
  ports:
  - {port: 80, targetPort: 8080, appProtocol: http}
  - {port: 81, targetPort: main}
  - {port: 9090}
";
const MESH_EXTERNAL: &str = "
type: MeshExternalService
mesh: default
name: bin
spec:
  match: {type: HostnameGenerator, port: 443, protocol: tcp}
  endpoints: [{address: httpbin.org, port: 443}, {address: 192.0.2.1, port: 8443}]
";
const MULTI_ZONE: &str = "
type: MeshMultiZoneService
mesh: default
name: web-all
spec:
  selector: {meshService: {matchLabels: {team: blue}}}
  ports: [{port: 80, appProtocol: http}]
";

/// Resources that get into each other's way in every manner.
fn crowded() -> Vec<String> {
    let mut documents = Vec::new();
    for n in 1..5_u8 {
        let (service, version) = (["web", "api", "web_api", "a.b"][usize::from(n - 1)], n % 2);
        let tags = format!("kuma.io/service: {service}, version: v{version}");
        documents.push(dataplane(&format!("d{n}"), n, &tags));
        documents.push(external(
            &format!("e{n}"),
            &format!("out{}", n % 3),
            &format!("h{}.example:{}", n % 2, 80 + n % 2),
        ));
        let created = [OLD, NEW][usize::from(n % 2)];
        documents.push(outbound(
            &format!("o{n}"),
            "kuma.io/service: '*'",
            "{{.version}}.mesh",
            "80",
            created,
        ));
        documents.push(outbound(
            &format!("p{n}"),
            "version: '*'",
            "{{.service}}.mesh",
            "8{{len .service}}",
            created,
        ));
        documents.push(MESH_SERVICE.replace("name: web", &format!("name: web{n}")));
        documents.push(MESH_EXTERNAL.replace("name: bin", &format!("name: web{n}")));
    }
    documents.push(MULTI_ZONE.into());
    for kind in ["meshService", "meshExternalService", "meshMultiZoneService"] {
        documents.push(format!(
            "type: HostnameGenerator\nname: g-{kind}\nspec: {{selector: {{{kind}: {{}}}}, template: '{{{{ .Name }}}}.mesh'}}"
        ));
    }
    documents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_of_the_same_resources_gives_the_same_names_vips_and_winners(
        shuffled in Just(crowded()).prop_shuffle(),
    ) {
        let of = |documents: &[String]| plan(&documents.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(of(&shuffled), of(&crowded()));
    }

    #[test]
    fn no_name_has_two_vips_and_no_port_leads_to_two_places(
        some in proptest::sample::subsequence(crowded(), 0..=crowded().len()),
    ) {
        let plan = plan(&std::iter::once("services: []").chain(some.iter().map(String::as_str)).collect::<Vec<_>>());
        let names: Vec<_> = plan.entries.values().flat_map(|entry| &entry.names).collect();
        prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for entry in plan.entries.values() {
            let ports: Vec<_> = entry.listeners.values().flat_map(|listener| &listener.ports).collect();
            prop_assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        }
        let clusters: Vec<_> = plan.entries.values().flat_map(|entry| entry.listeners.keys()).collect();
        prop_assert_eq!(clusters.iter().collect::<BTreeSet<_>>().len(), clusters.len(), "clusters are of one mesh");
    }
}
