//! `kuma-dns control-plane` alone: file, environment and flags in their order, names and VIPs that survive it, words for what
//! it refuses. Through the binary, each test in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use harness::plane::Place;

const MESH: &str = "services:\n- {service: web, endpoints: [\"127.0.0.1:1\"]}\n- {mesh: b, service: db, endpoints: [\"127.0.0.1:2\"]}\n";

fn place() -> Place {
    Place::new(MESH).unwrap()
}

fn dig(place: &Place, port: u16, name: &str) -> String {
    let mut dig = Command::new("dig");
    dig.args(["@127.0.0.1", "-p", &port.to_string(), "+short", "+tries=1", "+timeout=5", name, "A"]);
    String::from_utf8(place.netns().run(|| dig.output()).unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn it_serves_names_and_xds_alone_and_a_restart_changes_no_vip() {
    let place = place();
    let mut first = place.start(&[], &[]).unwrap();
    let vips = (dig(&place, 5653, "web.mesh"), dig(&place, 5653, "db.mesh"));
    assert!(vips.0.starts_with("240.0.0.") && vips.1.starts_with("240.0.0."), "{vips:?}\n{}", first.said());
    let xds = place.netns().run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 5678)).is_ok());
    assert!(xds, "xDS is there:\n{}", first.said());

    let second = place
        .output(
            &["--dns-server-port", "0", "--dp-server-port", "5679"],
            &[("KUMA_DIAGNOSTICS_SERVER_PORT", "0"), ("KUMA_API_SERVER_HTTP_PORT", "0")],
        )
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another process"), "{second:?}");

    assert_eq!(first.terminate().unwrap().code(), Some(0), "{}", first.said());
    // The order in the file changes; the VIPs do not.
    place.write("mesh.yaml", "services:\n- {mesh: b, service: db, endpoints: [\"127.0.0.1:2\"]}\n- {service: a, endpoints: [\"127.0.0.1:3\"]}\n- {service: web, endpoints: [\"127.0.0.1:1\"]}\n").unwrap();
    let _again = place.start(&[], &[]).unwrap();
    assert_eq!((dig(&place, 5653, "web.mesh"), dig(&place, 5653, "db.mesh")), vips);
}

#[test]
fn the_file_the_environment_and_the_flags_each_have_their_say() {
    let place = place();
    let config =
        place.write("cp.yaml", "dnsServer: {domain: file, port: 1053}\nstore: {type: memory}\n").unwrap();
    let environment = [("KUMA_DNS_SERVER_DOMAIN", "env"), ("KUMA_DP_SERVER_PORT", "6678")];
    let process = place.start(&["-c", &config, "--dns-server-port", "2053"], &environment).unwrap();
    assert!(dig(&place, 2053, "web.env").starts_with("240.0.0."), "{}", process.said());
    assert!(place.netns().run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 6678)).is_ok()));
    assert!(!Path::new(&place.path("data")).exists(), "a memory store leaves nothing behind");

    let printed =
        place.output(&["-c", &config, "--print-config", "--dns-server-port", "2053"], &environment).unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success());
    for line in ["  domain: \"env\"\n", "  port: 2053\n", "  type: memory\n", "dpServer:\n  port: 6678\n"] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
}

#[test]
fn what_it_refuses_it_refuses_in_words() {
    let place = place();
    let typo = place.write("typo.yaml", "dnsServer: {domian: mesh}\n").unwrap();
    let own = place.write("own.yaml", "dnsServer: {ttl: 30}\nservices: []\n").unwrap();
    let _taken = place.netns().run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 5653)).unwrap());
    let _taken_too = place.netns().run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 5681)).unwrap());
    for (args, environment, code, parts) in [
        (&["-c", &typo][..], &[][..], 2, &["typo.yaml:1: dnsServer.domian", "\"domain\""][..]),
        (&["-c", "/nowhere/cp.yaml"], &[], 2, &["/nowhere/cp.yaml: cannot be read"]),
        (
            &[],
            &[("KUMA_DNS_SERVER_DOMIAN", "x")],
            2,
            &["KUMA_DNS_SERVER_DOMIAN", "\"KUMA_DNS_SERVER_DOMAIN\""],
        ),
        (&[], &[("KUMA_DNS_SERVER_CIDR", "x")], 2, &["KUMA_DNS_SERVER_CIDR: \"x\" is no CIDR"]),
        (
            &["--store-type", "redis"],
            &[],
            2,
            &["--store-type: \"redis\" is no store", "memory, embedded, postgres"],
        ),
        (&["-f", &own], &[], 2, &["own.yaml:1: dnsServer", "the control plane's configuration"]),
        (&[], &[], 1, &["127.0.0.1:5653 is in use", "dnsServer.port"]),
        (&["--dns-server-port", "0"], &[], 1, &["cannot listen on 0.0.0.0:5681", "apiServer.http"]),
    ] {
        let output = place.output(args, environment).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?} {environment:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in:\n{said}");
        }
    }
}
