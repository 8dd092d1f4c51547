//! What resource files say, and every mistake they can hold: the sentence that is printed for each.

use std::net::SocketAddr;

use super::*;
use crate::model::resource::Protocol;

/// Reads files that stand in one directory, given as (name, text), in this order.
fn read_files(texts: &[(&str, &str)]) -> Result<Resources, Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, text) in texts {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        paths.push(path);
    }
    let prefix = format!("{}/", directory.path().display());
    read(&paths).map_err(|invalid| {
        invalid.violations().iter().map(|violation| violation.to_string().replace(&prefix, "")).collect()
    })
}

pub(super) fn read_one(text: &str) -> Result<Resources, Vec<String>> {
    read_files(&[("mesh.yaml", text)])
}

pub(super) fn mistakes(text: &str) -> Vec<String> {
    read_one(text).unwrap_err()
}

fn service(resources: &Resources, mesh: &str, name: &str) -> Service {
    resources.services().remove(&ServiceKey::new(mesh, name)).unwrap()
}

fn endpoints(texts: &[&str]) -> std::collections::BTreeSet<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn the_short_form_is_read() {
    let resources = read_one(
        r#"
dnsServer: {domain: mesh, CIDR: 240.0.0.0/4, CIDR6: "fd00:fd00::/64", ttl: 60}
services:
  - {mesh: default, service: echo-server_echo-example_svc_1010, protocol: http, endpoints: ["127.0.0.1:7001", "127.0.0.1:7002"]}
  - service: redis
    endpoints: ["[::1]:6379"]
"#,
    )
    .unwrap();
    assert_eq!(resources.settings, Settings::default());
    let echo = service(&resources, "default", "echo-server_echo-example_svc_1010");
    assert_eq!(echo.protocol, Protocol::Http);
    assert_eq!(echo.endpoints, endpoints(&["127.0.0.1:7001", "127.0.0.1:7002"]));
    let redis = service(&resources, "default", "redis");
    assert_eq!((redis.protocol, redis.endpoints), (Protocol::Tcp, endpoints(&["[::1]:6379"])));
}

#[test]
fn every_setting_is_read() {
    let text = "dnsServer: {domain: Mesh.Local., CIDR: 10.1.2.3/16, CIDR6: '', ttl: 30s, rest: 1h30m, serviceVipPort: 8080}";
    let settings = read_one(text).unwrap().settings;
    assert_eq!(settings.domain.as_str(), "mesh.local");
    assert_eq!(settings.pools.ranges(), ["10.1.0.0/16".parse::<ipnetwork::IpNetwork>().unwrap()]);
    assert_eq!((settings.ttl_secs, settings.rest_secs), (30, 5_400));
    assert_eq!(settings.service_vip_port.get(), 8_080);
    let only_v6 = read_one("dnsServer: {CIDR: \"fd00:1::/64\"}").unwrap().settings.pools;
    assert_eq!((only_v6.v4, only_v6.v6.map(|pool| pool.prefix())), (None, Some(64)));
    assert_eq!(read_one("dnsServer: {ttl: 7}").unwrap().settings.rest_secs, 14);
}

const WEB: &str = "
type: Dataplane
mesh: default
name: web-01
labels: {kuma.io/origin: zone}
networking:
  address: 192.168.0.1
  inbound:
    - port: 8080
      servicePort: 80
      tags: {kuma.io/service: web, kuma.io/protocol: http, version: 'v1'}
    - port: 9090
      address: 192.168.0.9
      tags: {kuma.io/service: metrics}
  outbound:
    - {port: 10001, tags: {kuma.io/service: redis}}
";

#[test]
fn dataplanes_add_up_to_services() {
    let second = "
type: Dataplane
mesh: default
name: web-02
networking:
  address: 192.168.0.2
  advertisedAddress: 10.0.0.2
  inbound:
  - {port: 8080, tags: {kuma.io/service: web, kuma.io/protocol: http}}
  - {port: 8081, state: NotReady, tags: {kuma.io/service: web, kuma.io/protocol: http}}
  - {port: 8082, health: {ready: false}, tags: {kuma.io/service: late}}
  - {port: 8083, state: Ignored, tags: {kuma.io/service: ignored}}
  - {port: 49151, tags: {kuma.io/service: no-service}}
  - {port: 8084, tags: {version: v1}}
---
type: Dataplane
mesh: default
name: gateway
networking: {address: 192.168.0.3, gateway: {type: DELEGATED, tags: {kuma.io/service: edge}}}
";
    let resources = read_files(&[("a.yaml", WEB), ("b.yaml", second)]).unwrap();
    let services = resources.services();
    let names: Vec<&str> = services.keys().map(|key| &*key.service).collect();
    assert_eq!(names, ["late", "metrics", "web"]);
    let web = service(&resources, "default", "web");
    assert_eq!(
        (web.protocol, web.endpoints),
        (Protocol::Http, endpoints(&["192.168.0.1:8080", "10.0.0.2:8080"]))
    );
    assert_eq!(service(&resources, "default", "metrics").endpoints, endpoints(&["192.168.0.9:9090"]));
    assert!(service(&resources, "default", "late").endpoints.is_empty());
    let swapped = read_files(&[("b.yaml", second), ("a.yaml", WEB)]).unwrap();
    assert_eq!(resources, swapped, "the order of files has no effect");
}

#[test]
fn a_directory_stands_for_its_resource_files() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("web.yaml", WEB);
    write("short.yml", "services: [{service: redis, endpoints: []}]");
    write("more.json", r#"{"services": [{"service": "more", "endpoints": []}]}"#);
    write(".hidden.yaml", "][");
    write("notes.txt", "][");
    let twice = [directory.path().to_owned(), directory.path().join("web.yaml")];
    let names: Vec<String> = read(&twice).unwrap().services().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["default/metrics", "default/more", "default/redis", "default/web"]);
}

#[test]
fn every_mistake_of_a_file_is_reported_at_once_with_its_place() {
    let text = r#"dnsServer: {domain: .mesh, cidr: 240.0.0.0/4, ttl: 0}
services:
  - {service: redis, protocol: htpp, endpoints: ["redis:6379"]}
  - {service: redis, endpoints: [], endpoint: []}
  - service: web
    endpoints: []
  - service: web
    endpoints: ["127.0.0.1:80"]
servises: []
"#;
    assert_eq!(
        mistakes(text),
        [
            "mesh.yaml:1: dnsServer.cidr: unknown field \"cidr\": did you mean \"CIDR\"?",
            "mesh.yaml:1: dnsServer.domain: domain \".mesh\" must not start with a dot: write \"mesh\"",
            "mesh.yaml:1: dnsServer.ttl: 0 is not allowed: use whole seconds from 1 to 86400, like 60, 60s or 1m",
            "mesh.yaml:3: services[0].protocol: \"htpp\" is no protocol that Kuma knows: did you mean \"http\"?",
            "mesh.yaml:3: services[0].endpoints[0]: endpoint \"redis:6379\" is no address and port: write it like 127.0.0.1:6379 or [::1]:6379",
            "mesh.yaml:4: services[1].endpoint: unknown field \"endpoint\": did you mean \"endpoints\"?",
            "mesh.yaml:7: services[3].service: service \"web\" of mesh \"default\" is described already at mesh.yaml:5: services[2].service: keep one of the two",
            "mesh.yaml:9: servises: unknown field \"servises\": did you mean \"services\"?",
        ]
    );
}

#[test]
fn each_mistake_has_its_sentence() {
    let long_label = "a".repeat(64);
    let long_name = vec!["a".repeat(60); 5].join(".");
    let service = |rest: &str| format!("services: [{{{rest}}}]");
    let dns = |rest: &str| format!("dnsServer: {{{rest}}}");
    let dataplane =
        |networking: &str| format!("{{type: Dataplane, mesh: default, name: d, networking: {networking}}}");
    for (text, want) in [
        (String::new(), "mesh.yaml: the file is empty: write `services:`"),
        ("---\n---\n".into(), "mesh.yaml: the file is empty"),
        ("- a".into(), "mesh.yaml:1: expected fields (dnsServer, ipam, multizone, services), found a list"),
        ("services: {}".into(), "services: expected a list, found a map"),
        ("a: [".into(), "not readable as YAML: "),
        (service(""), "services[0].service: the field is missing: write it like `service: redis`"),
        (service("service: redis"), "services[0].endpoints: the field is missing"),
        (service("service: 7, endpoints: []"), "expected a text, found the number 7: put it in quotes"),
        (service("service: true, endpoints: []"), "expected a text, found true: put it in quotes"),
        (service("service: '', endpoints: []"), "services[0].service: must not be empty"),
        (service("service: a, service: b, endpoints: []"), "services[0].service: the field is given twice"),
        (service("service: 'a b', endpoints: []"), "name \"a b.mesh\" has the character ' '"),
        (service("service: 'a:b', endpoints: []"), "has the character ':': use letters, digits, '-', '_' and '.'"),
        (service("service: 'a/b', endpoints: []"), "has the character '/'"),
        (service("service: a..b, endpoints: []"), "has an empty label: remove the extra dot"),
        (service(&format!("service: {long_label}, endpoints: []")), "has 64 bytes, at most 63 fit"),
        (service(&format!("service: {long_name}, endpoints: []")), "has 309 bytes, at most 253 fit"),
        (service("mesh: My Mesh, service: a, endpoints: []"), "\"My Mesh\" is no mesh name: use at most 63 of a-z"),
        (service("service: a, endpoints: ['127.0.0.1']"), "endpoint \"127.0.0.1\" is no address and port"),
        (service("service: a, endpoints: ['127.0.0.1:0']"), "has port 0: write the port where it listens"),
        (service("service: a, endpoints: ['0.0.0.0:80']"), "is no address of a machine"),
        (service("service: a, endpoints: ['240.0.0.7:80']"), "lies in the VIP pool 240.0.0.0/4"),
        (service("service: a, endpoints: [7001]"), "services[0].endpoints[0]: expected a text, found the number 7001"),
        (dns("CIDR: 240.0.0.0/33"), "dnsServer.CIDR: \"240.0.0.0/33\" is no CIDR, CIDR must be valid: write it like 240.0.0.0/4"),
        (dns("CIDR: 240.0.0.0"), "\"240.0.0.0\" is no CIDR"),
        (dns("CIDR: 127.1.0.0/16"), "127.1.0.0/16 overlaps 127.0.0.0/8, the loopback network"),
        (dns("CIDR: 0.0.0.0/0"), "0.0.0.0/0 overlaps 0.0.0.0/8, which means this host"),
        (dns("CIDR6: 'ff02::/16'"), "overlaps ff00::/8, the multicast network"),
        (dns("CIDR6: 241.0.0.0/8"), "dnsServer.CIDR6: 241.0.0.0/8 overlaps dnsServer.CIDR 240.0.0.0/4"),
        (dns("CIDR: 'fd00::/16', CIDR6: 'fd00:fd00::/64'"), "fd00:fd00::/64 overlaps dnsServer.CIDR fd00::/16"),
        (dns("CIDR: 'fd00::/64', CIDR6: 'fd01::/64'"), "fd01::/64 stands beside dnsServer.CIDR fd00::/64"),
        (dns("CIDR6: 10.0.0.0/8"), "10.0.0.0/8 is an IPv4 network: write an IPv6 one"),
        (dns("ttl: 86401"), "86401 is not allowed: use whole seconds from 1 to 86400"),
        (dns("ttl: 60, rest: 119"), "dnsServer.rest: 119 s is less than two TTLs: use at least 120 s, or a shorter ttl"),
        (dns("rest: soon"), "\"soon\" is not allowed: use whole seconds"),
        (dns("outbounds: many"), "dnsServer.outbounds: \"many\" is no shape of outbounds: use auto, listeners or compact"),
        (dns("serviceVipPort: 0"), "dnsServer.serviceVipPort: port can't be 0: use a whole number from 1 to 65535"),
        (dns("serviceVipPort: 65536"), "65536 is not allowed: use a whole number from 1 to 65535"),
        (dns("domain: a..b"), "dnsServer.domain: name \"a..b\" has an empty label"),
        ("dnsServer: {}\n---\ndnsServer: {}".into(), "dnsServer is given already at mesh.yaml:1: dnsServer"),
        ("type: Dataplan".into(), "type: \"Dataplan\" is no kind that is read here: did you mean \"Dataplane\"?"),
        ("type: Secret".into(), "\"Secret\" is no kind that is read here: use one of Dataplane"),
        ("apiVersion: kuma.io/v1alpha1".into(), "this is Kuma's Kubernetes form: write the Universal form"),
        ("type: Dataplane".into(), "networking: the field is missing"),
        (dataplane("{address: 10.0.0.1}"), "networking: has to contain at least one inbound interface or gateway"),
        (dataplane("{address: web.local, inbound: [{port: 1}]}"), "networking.address: \"web.local\" is no IP address"),
        (dataplane("{address: 10.0.0.1, inbound: [{tags: {}}]}"), "networking.inbound[0].port: the field is missing"),
        (dataplane("{address: 10.0.0.1, inbound: [{port: 70000}]}"), "70000 is not allowed: use a whole number from 1"),
        (dataplane("{address: 10.0.0.1, inbound: [{port: 1, state: ready}]}"), "did you mean \"Ready\"?"),
        (
            dataplane("{address: 10.0.0.1, inbound: [{port: 1, tags: {kuma.io/service: a, kuma.io/protocol: ftp}}]}"),
            "networking.inbound[0].tags[\"kuma.io/protocol\"]: \"ftp\" is no protocol",
        ),
        (
            dataplane("{address: 10.0.0.1, inbound: [{port: 1, health: {ready: 'no'}}]}"),
            "networking.inbound[0].health.ready: \"no\" is not allowed: use true or false",
        ),
        (
            dataplane("{address: 10.0.0.1, inbound: [{port: 1, tags: {version: 1.0}}]}"),
            "networking.inbound[0].tags.version: expected a text, found the number 1: put it in quotes",
        ),
        (
            dataplane("{address: 10.0.0.1, gateway: {}, inbound: [{port: 1}]}"),
            "networking: inbound cannot be defined both with gateway",
        ),
        (
            "dnsServer: {CIDR: 240.0.0.0/31}\nservices:\n- {service: a, endpoints: []}\n- {service: b, endpoints: []}\n\
             - {service: c, endpoints: []}"
                .into(),
            "mesh.yaml:1: dnsServer.CIDR: no room: the smallest VIP pool holds 2 addresses and there are 3 services",
        ),
    ] {
        let found = mistakes(&text);
        assert!(found.iter().any(|mistake| mistake.contains(want)), "{text}\nwant {want}\nfound {found:#?}");
    }
}

#[test]
fn a_service_and_a_dataplane_are_described_once() {
    let short = "services: [{service: web, endpoints: []}]";
    let twice = read_files(&[("a.yaml", WEB), ("b.yaml", short), ("c.yaml", WEB)]).unwrap_err();
    assert_eq!(
        twice,
        [
            "b.yaml:1: services[0].service: service \"web\" of mesh \"default\" is described already at \
             a.yaml:9: networking.inbound[0]: keep one of the two",
            "c.yaml:4: name: Dataplane \"web-01\" of mesh \"default\" is given already at a.yaml:4: name: keep one of the two",
        ]
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let mistake = |path: &Path| read(&[path.to_owned()]).unwrap_err().to_string();
    let missing = directory.path().join("missing.yaml");
    assert_eq!(
        mistake(&missing),
        format!("{}: cannot be read: No such file or directory (os error 2)", missing.display())
    );
    assert!(mistake(directory.path()).contains("no resource file in the directory"));
    let latin = directory.path().join("latin.yaml");
    std::fs::write(&latin, b"services: []\n# caf\xe9\n").unwrap();
    assert!(mistake(&latin).ends_with("latin.yaml:2: the text is no UTF-8: save it in that encoding"));
}

#[test]
fn the_examples_are_read() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let mesh = read(&[examples.join("mesh.yaml")]).unwrap();
    let echo = service(&mesh, "default", "echo-server_echo-example_svc_1010");
    assert_eq!(
        (echo.protocol, echo.endpoints),
        (Protocol::Http, endpoints(&["127.0.0.1:7001", "127.0.0.1:7002"]))
    );
    assert_eq!(service(&mesh, "default", "redis").protocol, Protocol::Tcp);
    let kinds = read(&[examples.join("kuma-resources.yaml")]).unwrap();
    let mut planner = crate::cp::plan::Planner::default();
    planner.follow(&kinds);
    let keys = std::collections::BTreeSet::from_iter(planner.keys());
    let names = keys.into_iter().filter_map(|key| planner.entry(key)).flat_map(|entry| &entry.hostnames);
    let names: Vec<String> = names.map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "far-away.mesh",
            "httpbin.mesh",
            "web.mesh",
            "httpbin.org",
            "v1.web.mesh",
            "v2.web.mesh",
            "web.svc.mesh.local",
            "postgres.external.example",
            "postgres.extsvc.mesh.local",
            "web-everywhere.mzsvc.mesh.local",
        ]
    );
    assert!(planner.conflicts().is_empty() && planner.conditions().is_empty());
    let dataplanes = read(&[examples.join("dataplanes.yaml")]).unwrap();
    let echo = service(&dataplanes, "default", "echo-server_echo-example_svc_1010");
    assert_eq!((echo.protocol, echo.endpoints.len()), (Protocol::Http, 2));
}

#[test]
fn more_mistakes_than_anybody_reads_are_counted() {
    let text = format!("services: [{}]", vec!["7"; 250].join(", "));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    std::fs::write(&path, text).unwrap();
    let invalid = read(&[path]).unwrap_err();
    assert_eq!(invalid.violations().len(), 250);
    let text = invalid.to_string();
    assert!(text.starts_with("250 mistakes:\n") && text.ends_with("\n  and 150 more"), "{text}");
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let error = read(&[PathBuf::from("/dev/null")]).unwrap_err().to_string();
    assert_eq!(error, "/dev/null: cannot be read: it is neither a file nor a directory");
}

#[test]
fn a_file_with_many_services_is_read() {
    let mut text = String::from("services:\n");
    for i in 0..30_000 {
        text += &format!(
            "- {{mesh: default, service: service-{i}, protocol: http, endpoints: [\"127.0.0.1:7001\"]}}\n"
        );
    }
    assert_eq!(read_one(&text).unwrap().services().len(), 30_000);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "[\\-{}\\[\\]:, \"'&*#\n a-z0-9./]{0,80}") {
        let _ = read_one(&text);
    }

    #[test]
    fn every_cut_of_a_good_file_is_read_or_refused_in_words(cut in 0..WEB.len()) {
        if let Err(found) = read_one(&WEB[..cut]) {
            proptest::prop_assert!(found.iter().all(|mistake| mistake.starts_with("mesh.yaml")));
        }
    }
}
