//! `/metrics`, `/ready` and `/healthy` of `kuma-dns control-plane`, from its start until after its last stream has ended. Each test
//! in a network namespace of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use harness::plane::Place;
use harness::wait::wait_until;

/// How long a change or an end may take on a busy machine.
const SECS: u64 = 20;
const PORT: u16 = 5680;
const MESH: &str = "services:
- {service: web, endpoints: [\"127.0.0.1:1\"]}
- {mesh: b, service: db, endpoints: [\"127.0.0.1:2\"]}
";

/// The answer of the diagnostics server, head and body; nothing when nobody answers.
fn get(place: &Place, path: &str) -> Option<String> {
    place.netns().run(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(SECS))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    })
}

fn metric(place: &Place, name: &str) -> Option<f64> {
    let page = get(place, "/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[test]
fn metrics_follow_what_happens() {
    let place = Place::new(MESH).unwrap();
    let _process = place.start(&[], &[]).unwrap();
    for (name, value) in [
        ("kuma_dns_ready", 1.0),
        ("kuma_dns_services{state=\"wanted\"}", 2.0),
        ("kuma_dns_services{state=\"published\"}", 2.0),
        ("kuma_dns_pool_held_addresses{pool=\"dnsServer\",range=\"240.0.0.0/4\"}", 2.0),
        ("kuma_dns_store_commit_duration_seconds_count", 1.0),
        ("kuma_dns_store_up", 1.0),
        ("kuma_dns_leader", 1.0),
    ] {
        assert_eq!(metric(&place, name), Some(value), "{name} in {}", get(&place, "/metrics").unwrap());
    }
    let build = format!("kuma_dns_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metric(&place, &build), Some(1.0));
    assert!(metric(&place, "process_resident_memory_bytes").unwrap() > 1e6);

    let mut dig = Command::new("dig");
    dig.args(["@127.0.0.1", "-p", "5653", "+tries=1", "+timeout=5", "web.mesh", "AAAA"]);
    assert!(place.netns().run(|| dig.output()).unwrap().status.success());
    assert_eq!(metric(&place, "kuma_dns_dns_queries_total{type=\"AAAA\"}"), Some(1.0));
    assert_eq!(metric(&place, "kuma_dns_dns_answers_total{rcode=\"NOERROR\"}"), Some(1.0));

    place.write("mesh.yaml", "services:\n- {service: web, endpoints: [\"127.0.0.1:1\"]}\n").unwrap();
    let resting = "kuma_dns_pool_resting_addresses{pool=\"dnsServer\",range=\"240.0.0.0/4\"}";
    wait_until(SECS, "the removed one rests", || metric(&place, resting) == Some(1.0));
    place.write("mesh.yaml", "services: 7\n").unwrap();
    wait_until(SECS, "a mistake", || metric(&place, "kuma_dns_mistakes") == Some(1.0));
    let published = metric(&place, "kuma_dns_services{state=\"published\"}");
    assert_eq!(published, Some(1.0), "what was good is served");
}

#[test]
fn it_is_ready_until_its_end_is_asked_for_and_says_so_while_it_ends() {
    let place = Place::new(MESH).unwrap();
    let mut process = place.start(&[], &[]).unwrap();
    let ready = get(&place, "/ready").unwrap();
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(get(&place, "/healthy").unwrap().starts_with("HTTP/1.1 200"));
    assert!(get(&place, "/nothing").unwrap().starts_with("HTTP/1.1 404"));

    // A client that keeps its connection and says nothing: the end waits for it.
    let silent = place.netns().run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 5678)).unwrap());
    process.signal(nix::sys::signal::Signal::SIGTERM);
    let ending = || get(&place, "/ready").filter(|said| said.starts_with("HTTP/1.1 503"));
    wait_until(SECS, "not ready any more", || ending().is_some());
    let said = ending().unwrap();
    assert!(said.contains("the control plane is ending") && said.contains("sinceSecs"), "{said}");
    drop(silent);
    assert_eq!(process.wait(SECS).unwrap().code(), Some(0), "{}", process.said());
    assert!(get(&place, "/ready").is_none());
}
