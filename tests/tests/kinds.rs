//! Each of Kuma's resource kinds, from a YAML file to an answer through a real Envoy.
//! Through the binary alone, in namespaces of their own.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::net::IpAddr;

use harness::backend::Speaks;
use harness::wait::wait_until;
use harness::world::World;

/// Two backends on 127.0.0.1:7001 and :7002, and these documents.
fn world(documents: &str) -> World {
    let world = World::builder().service("backend", Speaks::Http, 2);
    world.mesh(|mesh| mesh.more = documents.into()).up().unwrap()
}

/// What the service behind a URL says.
fn says(world: &World, url: &str) -> String {
    let mut said = String::new();
    wait_until(10, url, || {
        let output = world.exec(["curl", "--silent", "--max-time", "5", url]).unwrap();
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success() && said.starts_with("backend at")
    });
    said
}

/// The addresses of a name by `dig`, which asks the resolver and nobody else.
fn vip(world: &World, name: &str) -> IpAddr {
    let mut found = None;
    wait_until(10, name, || {
        let said = world.says(["dig", "+short", name, "A"]).unwrap();
        found = said.trim().parse().ok();
        found.is_some()
    });
    found.unwrap()
}

fn nobody_answers(world: &World, name: &str) {
    assert!(world.resolves(name).unwrap().is_empty(), "{name}");
}

const WEB: &str = "
type: Dataplane
mesh: default
name: web-1
networking:
  address: 127.0.0.1
  inbound: [{port: 7001, tags: {kuma.io/service: web, kuma.io/protocol: http, version: v1}}]
---
type: Dataplane
mesh: default
name: web-2
networking:
  address: 127.0.0.1
  inbound: [{port: 7002, tags: {kuma.io/service: web, kuma.io/protocol: http, version: v2}}]
---
";

#[test]
fn dataplanes_and_a_mesh_that_turns_their_tags_into_mesh_services() {
    let world = world(&format!("{WEB}\ntype: Mesh\nname: default\nmeshServices: {{mode: Exclusive}}\n"));
    let said = says(&world, "http://web.svc.mesh.local:7002/");
    assert_eq!(said.trim(), "backend at 127.0.0.1:7002 asked as web.svc.mesh.local:7002");
    nobody_answers(&world, "web.mesh");
}

#[test]
fn an_external_service_is_reached_by_its_tag_its_port_and_its_host() {
    let world = world(
        "
type: ExternalService
mesh: default
name: by-host
networking: {address: 'api.localhost:7001'}
tags: {kuma.io/service: by-host, kuma.io/protocol: http}
---
type: ExternalService
mesh: default
name: by-address
networking: {address: '127.0.0.1:7002'}
tags: {kuma.io/service: by-address, kuma.io/protocol: http}
",
    );
    for url in ["http://by-host.mesh/", "http://by-host.mesh:7001/"] {
        let said = says(&world, url);
        assert_eq!(said.trim(), "backend at 127.0.0.1:7001 asked as api.localhost", "{url}");
    }
    for url in ["http://by-address.mesh/", "http://by-address.mesh:7002/"] {
        assert!(says(&world, url).starts_with("backend at 127.0.0.1:7002 asked as by-address.mesh"), "{url}");
    }
    let host = vip(&world, "api.localhost");
    assert_ne!(host, vip(&world, "by-host.mesh"), "the host has a VIP of its own");
    for port in [80, 7001] {
        assert!(says(&world, &format!("http://{host}:{port}/")).contains("127.0.0.1:7001"));
    }
}

#[test]
fn a_virtual_outbound_tells_versions_apart_and_status_says_who_won() {
    let outbound = |name: &str, created: &str, host: &str| {
        format!(
            "type: VirtualOutbound\nmesh: default\nname: {name}\ncreationTime: '{created}'\n\
             selectors: [{{match: {{version: '*'}}}}]\n\
             conf: {{host: '{host}', port: '8080', parameters: [{{name: service, tagKey: kuma.io/service}}, \
             {{name: version, tagKey: version}}]}}\n---\n"
        )
    };
    let world = world(&format!(
        "{WEB}{}{}",
        outbound("versions", "2026-01-01T00:00:00Z", "{{.version}}.{{.service}}.mesh"),
        outbound("coarse", "2025-01-01T00:00:00Z", "v1.{{.service}}.mesh"),
    ));
    for (version, port) in [("v1", 7001), ("v2", 7002)] {
        for _ in 0..4 {
            let said = says(&world, &format!("http://{version}.web.mesh:8080/"));
            assert!(said.starts_with(&format!("backend at 127.0.0.1:{port}")), "{version}: {said}");
        }
    }
    assert!(says(&world, "http://web.mesh/").contains("asked as web.mesh"));
    let status = world.status().unwrap().to_string();
    let want = "v1.web.mesh:8080 of mesh default belongs to VirtualOutbound versions, VirtualOutbound coarse does not";
    assert!(status.contains(want), "{status}");
}

const MESH_SERVICE: &str = "
type: MeshService
mesh: default
name: shop
labels: {team: blue}
spec:
  selector: {dataplaneTags: {kuma.io/service: web}}
  ports:
  - {port: 80, targetPort: 7001, appProtocol: http}
  - {port: 81, targetPort: 7002, appProtocol: http}
---
";

#[test]
fn each_port_of_a_mesh_service_leads_to_its_own_instances() {
    let world = world(&format!("{WEB}{MESH_SERVICE}"));
    assert!(says(&world, "http://shop.svc.mesh.local/").contains("127.0.0.1:7001"));
    assert!(says(&world, "http://shop.svc.mesh.local:81/").contains("127.0.0.1:7002"));
    assert!(says(&world, "http://web.mesh/").starts_with("backend at"));
    assert_eq!(vip(&world, "shop.svc.mesh.local").to_string(), "241.0.0.0", "from its own pool");
    let v6 =
        world.says(["curl", "--silent", "--max-time", "5", "-6", "http://shop.svc.mesh.local/"]).unwrap();
    assert!(v6.contains("127.0.0.1:7001"), "{v6}");
}

#[test]
fn a_mesh_external_service_is_reached_by_host_and_by_address() {
    let one = |name: &str, address: &str, port: u16| {
        format!(
            "type: MeshExternalService\nmesh: default\nname: {name}\n\
             spec: {{match: {{type: HostnameGenerator, port: 8000, protocol: http}}, \
             endpoints: [{{address: {address}, port: {port}}}]}}\n---\n"
        )
    };
    let world = world(&(one("named", "api.localhost", 7001) + &one("plain", "127.0.0.1", 7002)));
    assert!(says(&world, "http://named.extsvc.mesh.local:8000/").contains("127.0.0.1:7001"));
    assert!(says(&world, "http://plain.extsvc.mesh.local:8000/").contains("127.0.0.1:7002"));
    assert!(vip(&world, "named.extsvc.mesh.local").to_string().starts_with("242.0.0."));
}

#[test]
fn a_mesh_multi_zone_service_gathers_mesh_services_by_their_labels() {
    let world = world(&format!(
        "{WEB}{MESH_SERVICE}
type: MeshMultiZoneService
mesh: default
name: all
spec:
  selector: {{meshService: {{matchLabels: {{team: blue}}}}}}
  ports: [{{port: 81, appProtocol: http}}]
"
    ));
    assert!(says(&world, "http://all.mzsvc.mesh.local:81/").contains("127.0.0.1:7002"));
    assert_eq!(vip(&world, "all.mzsvc.mesh.local").to_string(), "243.0.0.0");
}

#[test]
fn a_hostname_generator_gives_a_further_name() {
    let world = world(&format!(
        "{WEB}{MESH_SERVICE}
type: HostnameGenerator
name: teams
spec:
  selector: {{meshService: {{matchLabels: {{team: blue}}}}}}
  template: '{{{{ .DisplayName }}}}.{{{{ label \"team\" }}}}.example'
"
    ));
    assert!(says(&world, "http://shop.blue.example/").contains("asked as shop.blue.example"));
    assert_eq!(vip(&world, "shop.blue.example"), vip(&world, "shop.svc.mesh.local"), "one VIP");
}

#[test]
fn a_service_of_another_zone_has_its_name_and_one_of_ours_comes_from_its_dataplanes() {
    let ingress = |zone: &str, service: &str| {
        format!(
            "type: ZoneIngress\nname: {zone}\nzone: {zone}\nnetworking: {{address: 192.0.2.9, port: 10001}}\n\
             availableServices: [{{mesh: default, instances: 1, tags: {{kuma.io/service: {service}}}}}]\n---\n"
        )
    };
    let world =
        world(&(ingress("away", "far") + &ingress("default", "near") + &ingress("east", "web") + WEB));
    assert!(vip(&world, "far.mesh").to_string().starts_with("240."));
    assert!(
        !world.exec(["curl", "--silent", "--max-time", "5", "http://far.mesh/"]).unwrap().status.success()
    );
    assert!(says(&world, "http://web.mesh/").starts_with("backend at"), "our own instances serve it");
    nobody_answers(&world, "near.mesh");
}

#[test]
fn a_host_name_that_does_not_resolve_holds_nothing_else_back() {
    let mut world = world(
        "
type: ExternalService
mesh: default
name: nowhere
networking: {address: 'no-such-host.invalid:80'}
tags: {kuma.io/service: nowhere, kuma.io/protocol: http}
",
    );
    assert!(says(&world, "http://backend.mesh/").starts_with("backend at"));
    world.add("news", Speaks::Http, 1).unwrap();
    wait_until(5, "news.mesh answers", || {
        let output = world.exec(["curl", "--silent", "--max-time", "1", "http://news.mesh/"]).unwrap();
        output.stdout.starts_with(b"news at")
    });
    vip(&world, "nowhere.mesh");
}
