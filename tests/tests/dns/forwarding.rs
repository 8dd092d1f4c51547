//! Names that are not ours: whom the resolver asks, in which order, and what it believes.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use harness::resolver::receive;
use harness::upstream::{BIG_BYTES, Over, SLOW, Upstream};
use harness::wait::wait_until;
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinDecodable;
use kuma_dns::dns::upstream::QUERIES_IN_FLIGHT;

use crate::{REDIS, UPSTREAM, answered_by, ask, query, resolver, upstream};

/// Nobody listens there.
const CLOSED: &str = "127.0.0.54";

#[test]
fn everything_else_passes_unchanged_both_ways_but_for_the_id() {
    let resolver = resolver(&[UPSTREAM]);
    let upstream = upstream(&resolver, UPSTREAM);
    let mut message = Message::from_bytes(&query(0xbeef, "Host.eXample", RecordType::A)).unwrap();
    message.metadata.authentic_data = true;
    message.metadata.checking_disabled = true;
    let mut edns = Edns::new();
    edns.set_max_payload(4_096).set_dnssec_ok(true);
    message.set_edns(edns);
    for asked in [
        message.to_vec().unwrap(),
        query(0xbeef, "unknown.mesh", RecordType::A),
        query(0xbeef, "child.redis_cache_svc_6379.mesh", RecordType::A),
        query(0xbeef, "1.0.0.10.in-addr.arpa", RecordType::PTR),
        query(0xbeef, "nxdomain.example", RecordType::TXT),
    ] {
        let answer = resolver.exchange(&asked).unwrap();
        let exchange = upstream.exchanges().pop().unwrap();
        assert_eq!(exchange.heard[2..], asked[2..]);
        assert_eq!(answer[2..], exchange.said[0][2..]);
        assert_eq!(answer[..2], asked[..2], "the client's own id comes back");
    }
    let ids: HashSet<_> = upstream.exchanges().iter().map(|e| e.heard[..2].to_vec()).collect();
    assert!(ids.len() > 1, "ids are drawn, not passed on: {ids:?}");
    let ports: HashSet<_> = upstream.exchanges().iter().map(|e| e.from.port()).collect();
    assert!(ports.len() > 1, "source ports vary: {ports:?}");
}

#[test]
fn a_cut_answer_passes_and_the_long_one_comes_over_tcp() {
    let resolver = resolver(&[UPSTREAM]);
    let upstream = upstream(&resolver, UPSTREAM);
    let cut = ask(&resolver, "big.example", RecordType::TXT);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = resolver.dig(&["@127.0.0.1", "big.example", "TXT"]).unwrap();
    assert!(whole.contains("status: NOERROR") && whole.contains("(TCP)"), "dig comes again by TCP: {whole}");
    assert!(whole.matches('x').count() > BIG_BYTES - 100, "{}", whole.len());
    assert!(upstream.exchanges().iter().any(|exchange| exchange.over == Over::Tcp), "TCP is asked by TCP");
}

#[test]
fn a_closed_port_moves_on_at_once_and_a_silent_server_after_a_second() {
    let resolver = resolver(&[CLOSED, UPSTREAM]);
    let _upstream = upstream(&resolver, UPSTREAM);
    let began = Instant::now();
    assert_eq!(answered_by(&ask(&resolver, "a.example", RecordType::A)), UPSTREAM);
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());

    let silent = "127.0.0.55";
    let _deaf = resolver.netns.run(|| UdpSocket::bind((silent, 53))).unwrap();
    resolver.write_resolv_conf(&[silent, UPSTREAM]).unwrap();
    let known =
        || resolver.shared.nameservers().first().is_some_and(|first| first.ip().to_string() == silent);
    wait_until(5, "the new resolv.conf is read", known);
    for number in 0..3 {
        let began = Instant::now();
        assert_eq!(answered_by(&ask(&resolver, &format!("b{number}.example"), RecordType::A)), UPSTREAM);
        assert!(began.elapsed() < Duration::from_millis(2_900), "{:?}", began.elapsed());
    }
    let began = Instant::now();
    assert_eq!(answered_by(&ask(&resolver, "c.example", RecordType::A)), UPSTREAM);
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "it is asked last from now on: {:?}",
        began.elapsed()
    );
}

#[test]
fn a_slow_server_is_waited_for_even_if_it_is_the_only_one() {
    let resolver = resolver(&[UPSTREAM]);
    let upstream = upstream(&resolver, UPSTREAM);
    let began = Instant::now();
    assert_eq!(answered_by(&ask(&resolver, "slow.example", RecordType::A)), UPSTREAM);
    assert!(
        began.elapsed() >= SLOW && began.elapsed() < SLOW + Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(upstream.asked("slow.example"), 2, "a datagram may have been lost: it is sent again once");
}

#[test]
fn identical_queries_in_flight_are_asked_once_and_all_answered() {
    let resolver = resolver(&[UPSTREAM]);
    let upstream = upstream(&resolver, UPSTREAM);
    let clients: Vec<UdpSocket> = (0..50).map(|_| resolver.client().unwrap()).collect();
    for (id, client) in (0_u16..).zip(&clients) {
        client.send(&query(id, "slow.example", RecordType::A)).unwrap();
    }
    for (id, client) in (0_u16..).zip(&clients) {
        assert_eq!(receive(client).unwrap()[..2], id.to_be_bytes());
    }
    assert!(upstream.asked("slow.example") <= 2, "{}", upstream.asked("slow.example"));
}

#[test]
fn a_server_that_fails_is_no_better_than_the_next_and_its_word_counts_if_there_is_none() {
    let resolver = resolver(&[UPSTREAM, "127.0.0.56"]);
    let (first, second) = (upstream(&resolver, UPSTREAM), upstream(&resolver, "127.0.0.56"));
    for (name, code) in
        [("servfail.example", ResponseCode::ServFail), ("refused.example", ResponseCode::Refused)]
    {
        let began = Instant::now();
        assert_eq!(ask(&resolver, name, RecordType::A).metadata.response_code, code);
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        assert_eq!((first.asked(name), second.asked(name)), (1, 1), "both were asked");
    }
    let missing = ask(&resolver, "nxdomain.example", RecordType::A);
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(second.asked("nxdomain.example"), 0, "NXDOMAIN is an answer");
}

#[test]
fn forged_answers_are_not_believed_and_folded_ones_get_their_spelling_back() {
    let resolver = resolver(&[UPSTREAM]);
    let _upstream = upstream(&resolver, UPSTREAM);
    assert_eq!(answered_by(&ask(&resolver, "forged.example", RecordType::A)), UPSTREAM);
    assert_eq!(resolver.shared.counters.counts().upstream_mismatched, 2);
    let asked = query(3, "FoLd.eXaMpLe", RecordType::A);
    assert_eq!(resolver.exchange(&asked).unwrap()[12..asked.len()], asked[12..]);
}

#[test]
fn nobody_to_ask_is_servfail_at_once_over_udp_and_tcp_and_mesh_names_stay() {
    let resolver = resolver(&[]);
    for transport in ["+notcp", "+tcp"] {
        let answer = resolver.dig(&["@127.0.0.1", transport, "example.com"]).unwrap();
        assert!(answer.contains("status: SERVFAIL") && answer.contains("EDNS: version: 0"), "{answer}");
    }
    assert_eq!(answered_by(&ask(&resolver, REDIS, RecordType::A)), "240.0.0.1");
    std::fs::remove_file(resolver.resolv_conf()).unwrap();
    assert_eq!(ask(&resolver, "example.com", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    let _upstream = upstream(&resolver, UPSTREAM);
    resolver.write_resolv_conf(&[UPSTREAM]).unwrap();
    let answers =
        || ask(&resolver, "example.com", RecordType::A).metadata.response_code == ResponseCode::NoError;
    wait_until(5, "the new resolv.conf is used", answers);
}

#[test]
fn silence_everywhere_is_servfail_within_ten_seconds_and_mesh_names_do_not_notice() {
    let resolver = resolver(&[UPSTREAM]);
    let _upstream = upstream(&resolver, UPSTREAM);
    let (client, began) = (resolver.client().unwrap(), Instant::now());
    client.send(&query(5, "silent.example", RecordType::A)).unwrap();
    assert_eq!(answered_by(&ask(&resolver, REDIS, RecordType::A)), "240.0.0.1");
    assert!(began.elapsed() < Duration::from_millis(900));
    let answer = Message::from_bytes(&receive(&client).unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(began.elapsed() > Duration::from_secs(4) && began.elapsed() < Duration::from_secs(10));
}

#[test]
fn our_own_listener_is_never_asked() {
    let resolver = resolver(&["127.0.0.1", "0.0.0.0", "::1", UPSTREAM]);
    let _upstream = upstream(&resolver, UPSTREAM);
    assert_eq!(answered_by(&ask(&resolver, "example.com", RecordType::A)), UPSTREAM);
    assert_eq!(resolver.shared.nameservers().len(), 1);
    assert_eq!(resolver.shared.counters.counts().forwarded.a, 1, "nothing went in a circle");
}

#[test]
fn nameservers_over_ipv6_are_asked() {
    let resolver = resolver(&["fd99::53"]);
    resolver.netns.add_addresses("lo", &[("fd99::53".parse().unwrap(), 128)]).unwrap();
    let started = || Upstream::start("fd99::53".parse().unwrap()).ok();
    let mut upstream = None;
    wait_until(5, "the address is usable", || {
        upstream = resolver.netns.run(started);
        upstream.is_some()
    });
    assert_eq!(answered_by(&ask(&resolver, "example.com", RecordType::AAAA)), "fd99::53");
}

#[test]
fn queries_beyond_the_bound_are_servfail_at_once_and_mesh_names_do_not_notice() {
    let resolver = resolver(&[UPSTREAM]);
    let _deaf = resolver.netns.run(|| UdpSocket::bind((UPSTREAM, 53))).unwrap();
    let client = resolver.client().unwrap();
    for number in 0..QUERIES_IN_FLIGHT {
        client.send(&query(1, &format!("n{number}.example"), RecordType::A)).unwrap();
        if number % 100 == 99 {
            let taken = || resolver.shared.counters.counts().forwarded.a > number as u64;
            wait_until(5, "the resolver has taken them", taken);
        }
    }
    let began = Instant::now();
    let refused = ask(&resolver, "one.too.many.example", RecordType::A);
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(answered_by(&ask(&resolver, REDIS, RecordType::A)), "240.0.0.1");
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(resolver.shared.counters.counts().overloaded, 1);
    let served = || {
        ask(&resolver, "later.example", RecordType::A).metadata.response_code == ResponseCode::ServFail
            && resolver.shared.counters.counts().forwarded.a > QUERIES_IN_FLIGHT as u64
    };
    wait_until(20, "the places are free again after the deadline", served);
}

#[test]
fn sockets_towards_nameservers_are_few_under_load_and_gone_after_it() {
    let resolver = resolver(&[UPSTREAM]);
    let _upstream = upstream(&resolver, UPSTREAM);
    let sockets = || {
        resolver.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/udp").unwrap().lines().count())
    };
    let (before, client, mut most) = (sockets(), resolver.client().unwrap(), 0);
    for number in 0..3_000 {
        client.send(&query(1, &format!("n{number}.example"), RecordType::A)).unwrap();
        receive(&client).unwrap();
        if number % 100 == 0 {
            most = most.max(sockets());
        }
    }
    assert!(most > before && most < before + 150, "{most} sockets after {before}");
    drop(client);
    wait_until(20, "unused sockets are closed", || sockets() <= before);
}

#[test]
fn a_burst_of_thousands_is_answered_whole() {
    let resolver = resolver(&[UPSTREAM]);
    let upstream = upstream(&resolver, UPSTREAM);
    let clients: Vec<UdpSocket> = (0..20).map(|_| resolver.client().unwrap()).collect();
    for (number, client) in clients.iter().enumerate() {
        for query_number in 0..100 {
            client.send(&query(1, &format!("slow.{number}.{query_number}.example"), RecordType::A)).unwrap();
        }
    }
    for client in &clients {
        for _ in 0..100 {
            let answer = Message::from_bytes(&receive(client).unwrap()).unwrap();
            assert_eq!(answered_by(&answer), UPSTREAM);
        }
    }
    assert!(upstream.exchanges().len() >= 2_000);
}
