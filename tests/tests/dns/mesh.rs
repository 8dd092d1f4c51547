//! Mesh names, as every stub sees them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use harness::resolver::{PORT, TTL, receive};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinDecodable;
use kuma_dns::model::view::Addresses;

use crate::{FOUR, REDIS, answered_by, names, query, resolver};

#[test]
fn dig_gets_both_families_over_udp_and_tcp_at_both_addresses() {
    let resolver = resolver(&[]);
    for transport in ["+notcp", "+tcp"] {
        for at in ["@127.0.0.1", "@::1"] {
            let port = PORT.to_string();
            let short = |qtype| resolver.dig(&[at, "-p", &port, transport, "+short", REDIS, qtype]).unwrap();
            assert_eq!(short("A").trim(), "240.0.0.1", "{transport} {at}");
            assert_eq!(short("AAAA").trim(), "fd00:fd00::1", "{transport} {at}");
        }
    }
}

#[test]
fn every_port_of_the_resolver_answers_from_itself() {
    let resolver = resolver(&[]);
    for port in PORT..=PORT + 4 {
        for ip in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
            let client = resolver.client_of(SocketAddr::new(ip, port)).unwrap();
            client.send(&query(1, REDIS, RecordType::A)).unwrap();
            assert!(!receive(&client).unwrap().is_empty(), "{ip} {port}");
        }
    }
}

#[test]
fn dig_reads_header_ttl_and_opt_as_they_should_be() {
    let resolver = resolver(&[]);
    let answer = resolver.dig(&["@127.0.0.1", REDIS]).unwrap();
    for part in [
        "status: NOERROR",
        "flags: qr aa rd ra;",
        "EDNS: version: 0, flags:; udp: 1232",
        &format!("{TTL}\tIN\tA"),
    ] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert!(!answer.contains("WARNING"), "{answer}");
    let plain = resolver.dig(&["@127.0.0.1", "+noedns", REDIS]).unwrap();
    assert!(!plain.contains("EDNS") && plain.contains("240.0.0.1"), "{plain}");
    let version = resolver.dig(&["@127.0.0.1", "+edns=1", "+noednsneg", REDIS]).unwrap();
    assert!(version.contains("status: BADVERS") && version.contains("EDNS: version: 0"), "{version}");
}

#[test]
fn a_missing_family_and_every_other_type_are_no_data_with_a_soa() {
    let resolver = resolver(&[]);
    for (name, qtype) in [
        (FOUR, "AAAA"),
        (REDIS, "HTTPS"),
        (REDIS, "TXT"),
        (REDIS, "SRV"),
        (REDIS, "MX"),
        (REDIS, "TYPE64999"),
    ] {
        let answer = resolver.dig(&["@127.0.0.1", name, qtype]).unwrap();
        assert!(answer.contains("status: NOERROR") && answer.contains("ANSWER: 0, AUTHORITY: 1"), "{answer}");
        assert!(answer.contains(&format!("hostmaster.{name}. 1 3600 900 1209600 {TTL}")), "{answer}");
    }
}

#[test]
fn the_spelling_of_the_question_comes_back() {
    let resolver = resolver(&[]);
    let asked = query(9, "ReDiS_cAcHe_SvC_6379.MESH", RecordType::A);
    let answer = resolver.exchange(&asked).unwrap();
    assert_eq!(answer[12..asked.len()], asked[12..]);
    assert_eq!(answered_by(&Message::from_bytes(&answer).unwrap()), "240.0.0.1");
}

#[test]
fn the_stubs_of_glibc_musl_and_busybox_resolve_mesh_names() {
    let resolver = resolver(&[]);
    let nslookup = resolver.command("busybox", &["nslookup", REDIS]).unwrap();
    let text = String::from_utf8_lossy(&nslookup.stdout).into_owned();
    assert!(
        nslookup.status.success() && text.contains("240.0.0.1") && text.contains("fd00:fd00::1"),
        "{text}"
    );
    let program = "import socket,sys; print(sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], 80)}))";
    let python = |name| {
        let output = resolver.command("python3", &["-c", program, name]).unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(python(REDIS), "['240.0.0.1', 'fd00:fd00::1']");
    assert_eq!(python(FOUR), "['240.0.0.2']", "NODATA of one family does not spoil the other");
    let getent = resolver.command("getent", &["hosts", FOUR]).unwrap();
    assert!(String::from_utf8_lossy(&getent.stdout).contains("240.0.0.2"));
}

#[test]
fn names_swap_under_load_without_a_lost_answer() {
    let resolver = resolver(&[]);
    let client = resolver.client().unwrap();
    let ends = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = Addresses { v4: Some("240.9.9.9".parse().unwrap()), v6: None };
            while Instant::now() < ends {
                resolver.publish(&[(REDIS, other)]).unwrap();
                resolver.publish(&names()).unwrap();
            }
        });
        let mut answers = 0;
        while Instant::now() < ends {
            client.send(&query(8, REDIS, RecordType::A)).unwrap();
            let answer = Message::from_bytes(&receive(&client).unwrap()).unwrap();
            assert!(["240.0.0.1", "240.9.9.9"].contains(&answered_by(&answer).as_str()));
            answers += 1;
        }
        assert!(answers > 1_000, "{answers} answers in a second");
    });
}
