//! Every mistake that a resource of Kuma's newer and older kinds can hold: the sentence that is printed for each.

use super::tests::{mistakes, read_one};

fn assert_each(cases: &[(&str, &str)]) {
    for (text, want) in cases {
        let found = mistakes(text);
        assert!(found.iter().any(|mistake| mistake.contains(want)), "{text}\nwant {want}\nfound {found:#?}");
    }
}

#[test]
fn each_mistake_of_an_external_service_has_its_sentence() {
    let with = |networking: &str, tags: &str| {
        format!("{{type: ExternalService, mesh: default, name: e, networking: {networking}, tags: {tags}}}")
    };
    let tags = "{kuma.io/service: bin}";
    assert_each(&[
        ("{type: ExternalService, mesh: default, name: e}", "networking: should have networking"),
        (&with("{}", tags), "networking.address: address can't be empty"),
        (&with("{address: httpbin.org}", tags), "unable to parse address \"httpbin.org\""),
        (&with("{address: 'httpbin.org:0'}", tags), "port must be in the range [1, 65535]"),
        (&with("{address: 'a b:80'}", tags), "address has to be a valid IP address or a domain name"),
        (&with("{address: '240.0.0.1:80'}", tags), "lies in the VIP pool 240.0.0.0/4"),
        (
            &with("{address: 'a:80', tls: {enabled: true}}", tags),
            "networking.tls.enabled: TLS from the proxy",
        ),
        (&with("{address: 'a:80', disableHostDNSEntry: 1}", tags), "1 is not allowed: use true or false"),
        (
            &with("{address: 'a:80', disableHostDnsEntry: true}", tags),
            "did you mean \"disableHostDNSEntry\"?",
        ),
        (&with("{address: 'a:80'}", "{}"), "tags: mandatory tag \"kuma.io/service\" is missing"),
        (&with("{address: 'a:80'}", "{kuma.io/service: a}"), "cannot be the same as networking.address"),
        (&with("{address: 'a:80'}", "{kuma.io/service: 'a b'}"), "has the character ' '"),
        (
            &with("{address: 'a:80'}", "{kuma.io/service: b, kuma.io/protocol: ftp}"),
            "tags[\"kuma.io/protocol\"]: \"ftp\" is no protocol that Kuma knows",
        ),
    ]);
}

#[test]
fn each_mistake_of_a_virtual_outbound_has_its_sentence() {
    let with = |selectors: &str, conf: &str| {
        format!("{{type: VirtualOutbound, mesh: default, name: v, selectors: {selectors}, conf: {conf}}}")
    };
    let (any, named) = ("[{match: {a: '*'}}]", "parameters: [{name: service, tagKey: kuma.io/service}]");
    let conf = |rest: &str| with(any, &format!("{{{rest}}}"));
    assert_each(&[
        ("{type: VirtualOutbound, mesh: default, name: v}", "selectors: must have at least one element"),
        ("{type: VirtualOutbound, mesh: default, name: v}", "conf: has to be defined"),
        (&with("[{match: {}}]", "{}"), "selectors[0].match: must have at least one tag"),
        (&with("[{match: {a: ''}}]", "{}"), "selectors[0].match.a: must not be empty"),
        (&conf("port: '80'"), "conf.host: has to be defined"),
        (&conf("host: a"), "conf.port: has to be defined"),
        (&conf("host: a, port: '80'"), "conf.parameters: must contain a parameter with kuma.io/service"),
        (&conf("parameters: [{name: a-b}]"), "conf.parameters[0].name: \"a-b\" must consist of alphanumeric"),
        (&conf("parameters: [{name: a}, {name: a}]"), "parameter \"a\" is given twice"),
        (&conf("parameters: [{name: a, tagKey: 'a b'}]"), "tagKey: \"a b\" must be a valid tag name"),
        (&conf(&format!("host: '{{{{.x', port: '80', {named}")), "conf.host: template pre evaluation failed"),
        (&conf(&format!("host: '{{{{.x}}}}', port: '80', {named}")), "template pre evaluation failed"),
        (&conf(&format!("host: a, port: '{{{{.service}}}}0000000', {named}")), "is no port"),
    ]);
}

#[test]
fn each_mistake_of_the_mesh_service_kinds_has_its_sentence() {
    let of = |kind: &str, spec: &str| format!("{{type: {kind}, mesh: default, name: m, spec: {spec}}}");
    let service = |spec: &str| of("MeshService", spec);
    let external = |spec: &str| of("MeshExternalService", spec);
    let multi = |spec: &str| of("MeshMultiZoneService", spec);
    let matched = "match: {type: HostnameGenerator, port: 80, protocol: tcp}";
    assert_each(&[
        ("{type: MeshService, mesh: default, name: m}", "spec: the field is missing"),
        (
            &service("{selector: {dataplaneTags: {a: b}, dataplaneRef: {name: a}}}"),
            "must specify only one of",
        ),
        (&service("{ports: [{port: 0}]}"), "spec.ports[0].port: 0 is not allowed"),
        (&service("{ports: [{port: 80}, {port: 80}]}"), "spec.ports[1].port: port 80 is given twice"),
        (
            &service("{ports: [{port: 80, appProtocol: ftp}]}"),
            "spec.ports[0].appProtocol: \"ftp\" is no protocol",
        ),
        (&service("{port: []}"), "spec.port: unknown field \"port\": did you mean \"ports\"?"),
        (&external("{}"), "spec.match: the field is missing"),
        (
            &external("{match: {type: Other, port: 80}}"),
            "unrecognized type 'Other' - only 'HostnameGenerator' is supported",
        ),
        (
            &external("{match: {type: HostnameGenerator, port: 80, protocol: kafka}}"),
            "\"kafka\" is no protocol here",
        ),
        (
            &external(&format!("{{{matched}, endpoints: [{{address: a}}]}}")),
            "endpoints[0].port: the field is missing",
        ),
        (&external(&format!("{{{matched}, endpoints: [{{address: 'unix:///a'}}]}}")), "is a socket file"),
        (
            &external(&format!("{{{matched}, tls: {{enabled: true}}}}")),
            "spec.tls.enabled: TLS from the proxy",
        ),
        (&multi("{ports: [{port: 80}]}"), "spec.selector.meshService.matchLabels: cannot be empty"),
        (&multi("{selector: {meshService: {matchLabels: {a: b}}}}"), "spec.ports: cannot be empty"),
        ("{type: MeshServise, name: m}", "did you mean \"MeshService\"?"),
    ]);
}

#[test]
fn each_mistake_of_the_global_kinds_has_its_sentence() {
    let generator = |spec: &str| format!("{{type: HostnameGenerator, name: g, spec: {spec}}}");
    let ingress = |rest: &str| format!("{{type: ZoneIngress, name: z, zone: east, {rest}}}");
    assert_each(&[
        (&generator("{template: a}"), "spec.selector: exact one selector"),
        (
            &generator("{selector: {meshService: {}, meshExternalService: {}}, template: a}"),
            "exact one selector",
        ),
        (&generator("{selector: {meshService: {}}}"), "spec.template: must not be empty"),
        (
            &generator("{selector: {meshService: {}}, template: '{{ .Name'}"),
            "spec.template: couldn't parse template",
        ),
        ("{type: Mesh, name: My Mesh}", "\"My Mesh\" is no mesh name"),
        ("{type: Mesh, name: a, meshServices: {mode: Exclusiv}}", "did you mean \"Exclusive\"?"),
        ("{type: Mesh, name: a, mtsl: {}}", "mtsl: unknown field \"mtsl\": did you mean \"mtls\"?"),
        (
            "{type: Mesh, name: a}\n---\n{type: Mesh, name: a}",
            "Mesh \"a\" is given already at mesh.yaml:1: name",
        ),
        ("{type: Mesh, name: a, creationTime: yesterday}", "creationTime: \"yesterday\" is no time"),
        (&ingress("networking: {address: a}"), "networking.port: port has to be defined"),
        (
            &ingress("networking: {port: 1, advertisedPort: 1}"),
            "advertisedAddress: has to be defined with advertisedPort",
        ),
        (
            &ingress("networking: {port: 1}, availableServices: [{tags: {}}]"),
            "availableServices[0].tags[\"kuma.io/service\"]: cannot be empty",
        ),
    ]);
}

#[test]
fn each_mistake_of_the_pools_has_its_sentence() {
    assert_each(&[
        (
            "ipam: {meshService: {cidr: 242.0.0.0/8}}",
            "ipam.meshService and ipam.meshExternalService have the same pool 242.0.0.0/8",
        ),
        ("dnsServer: {CIDR: 241.0.0.0/8}", "dnsServer and ipam.meshService have the same pool 241.0.0.0/8"),
        (
            "dnsServer: {CIDR: 242.0.0.0/7}",
            "nothing is left of 242.0.0.0/7 of dnsServer: the pools inside it are carved out of it",
        ),
        ("ipam: {meshService: {cidr: a}}", "ipam.meshService.cidr: \"a\" is no CIDR"),
        ("ipam: {meshServices: {}}", "did you mean \"meshService\"?"),
        ("ipam: {}\n---\nipam: {}", "ipam is given already at mesh.yaml:1: ipam"),
        ("multizone: {zone: {name: 1}}", "multizone.zone.name: expected a text"),
        (
            "dnsServer: {serviceVipEnabled: 1}",
            "dnsServer.serviceVipEnabled: 1 is not allowed: use true or false",
        ),
    ]);
}

const EXAMPLE: &str = include_str!("../../../../deploy/examples/kuma-resources.yaml");

#[test]
fn a_pool_follows_the_families_that_there_are() {
    let pools = |text: &str| read_one(text).unwrap().settings.ipam.mesh_service.ranges();
    let text = |ranges: Vec<ipnetwork::IpNetwork>| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (settings, want) in [
        ("dnsServer: {}", &["241.0.0.0/8", "fd00:fd01::/64"][..]),
        ("dnsServer: {CIDR6: ''}", &["241.0.0.0/8"]),
        ("dnsServer: {CIDR: 'fd00::/64'}", &["fd00:fd01::/64"]),
        ("dnsServer: {CIDR6: ''}\nipam: {meshService: {cidr: 10.0.0.0/8}}", &["10.0.0.0/8"]),
        ("ipam: {meshService: {cidr: 'fd09::/64'}}", &["fd09::/64"]),
        ("dnsServer: {CIDR6: ''}\nipam: {meshService: {cidr6: 'fd09::/64'}}", &["241.0.0.0/8", "fd09::/64"]),
    ] {
        assert_eq!(text(pools(settings)), want, "{settings}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

    #[test]
    fn every_cut_and_every_slip_of_a_good_file_is_read_or_refused_in_words(
        from in 0..EXAMPLE.len(), to in 0..EXAMPLE.len(), with in "[a-z{}\\[\\]:'\"#\n -]{0,3}",
    ) {
        let text = format!("{}{with}{}", &EXAMPLE[..from.min(to)], &EXAMPLE[from.max(to)..]);
        let slip = format!("{}{with}{}", &EXAMPLE[..from], &EXAMPLE[from + 1..]);
        for text in [text, slip] {
            if let Err(found) = read_one(&text) {
                proptest::prop_assert!(found.iter().all(|mistake| mistake.starts_with("mesh.yaml")), "{:?}", found);
            }
        }
    }
}
