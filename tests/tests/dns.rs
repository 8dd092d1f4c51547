//! The resolver through real sockets and real stubs, before a datapath comes into play: mesh names, everything else, and
//! what happens when nameservers are slow, dead, false or not there.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use harness::resolver::{PORT, Resolver, TTL, receive};
use harness::upstream::{BIG_BYTES, Over, SLOW, Upstream};
use harness::wait::wait_until;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use kuma_dns::dns::upstream::QUERIES_IN_FLIGHT;
use kuma_dns::model::view::Addresses;

/// Kuma's own spelling of a service, and one that has no IPv6 address.
const REDIS: &str = "redis_cache_svc_6379.mesh";
const FOUR: &str = "four.only.mesh";
const UPSTREAM: &str = "127.0.0.53";
/// Nobody listens there.
const CLOSED: &str = "127.0.0.54";

fn names() -> [(&'static str, Addresses); 2] {
    let both =
        Addresses { v4: Some("240.0.0.1".parse().unwrap()), v6: Some("fd00:fd00::1".parse().unwrap()) };
    [(REDIS, both), (FOUR, Addresses { v4: Some("240.0.0.2".parse().unwrap()), v6: None })]
}

fn resolver(nameservers: &[&str]) -> Resolver {
    Resolver::start(&names(), nameservers).unwrap()
}

fn upstream(resolver: &Resolver, ip: &str) -> Upstream {
    let ip: IpAddr = ip.parse().unwrap();
    resolver.netns.run(|| Upstream::start(ip)).unwrap()
}

fn query(id: u16, name: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), qtype));
    message.to_vec().unwrap()
}

fn ask(resolver: &Resolver, name: &str, qtype: RecordType) -> Message {
    Message::from_bytes(&resolver.exchange(&query(7, name, qtype)).unwrap()).unwrap()
}

/// The one A record of an answer, which names the server that gave it.
fn answered_by(answer: &Message) -> String {
    match answer.answers.as_slice() {
        [record] => match &record.data {
            RData::A(ip) => ip.to_string(),
            RData::AAAA(ip) => ip.to_string(),
            other => panic!("{other:?}"),
        },
        other => panic!("{:?}: {other:?}", answer.metadata.response_code),
    }
}

fn tcp(resolver: &Resolver) -> TcpStream {
    let stream = resolver.netns.run(|| TcpStream::connect(("127.0.0.1", PORT))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn send_tcp(stream: &mut TcpStream, query: &[u8]) {
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, query].concat()).unwrap();
}

fn receive_tcp(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_bytes(&answer).unwrap()
}

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
    let ids: std::collections::HashSet<_> =
        upstream.exchanges().iter().map(|e| e.heard[..2].to_vec()).collect();
    assert!(ids.len() > 1, "ids are drawn, not passed on: {ids:?}");
    let ports: std::collections::HashSet<_> = upstream.exchanges().iter().map(|e| e.from.port()).collect();
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
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());

    let silent = "127.0.0.55";
    let _deaf = resolver.netns.run(|| UdpSocket::bind((silent, 53))).unwrap();
    resolver.write_resolv_conf(&[silent, UPSTREAM]).unwrap();
    let known =
        || resolver.shared.nameservers().first().is_some_and(|first| first.ip().to_string() == silent);
    wait_until(5, "the new resolv.conf is read", known);
    for number in 0..3 {
        let began = Instant::now();
        assert_eq!(answered_by(&ask(&resolver, &format!("b{number}.example"), RecordType::A)), UPSTREAM);
        assert!(began.elapsed() < Duration::from_millis(1_900), "{:?}", began.elapsed());
    }
    let began = Instant::now();
    assert_eq!(answered_by(&ask(&resolver, "c.example", RecordType::A)), UPSTREAM);
    assert!(
        began.elapsed() < Duration::from_millis(500),
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
    assert!(began.elapsed() < Duration::from_millis(200));
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
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(resolver.shared.counters.counts().overloaded, 1);
    let served = || {
        ask(&resolver, "later.example", RecordType::A).metadata.response_code == ResponseCode::ServFail
            && resolver.shared.counters.counts().forwarded.a > QUERIES_IN_FLIGHT as u64
    };
    wait_until(20, "the places are free again after the deadline", served);
}

#[test]
fn one_tcp_connection_carries_many_queries_and_mesh_answers_do_not_wait() {
    let resolver = resolver(&[UPSTREAM]);
    let _upstream = upstream(&resolver, UPSTREAM);
    let mut stream = tcp(&resolver);
    send_tcp(&mut stream, &query(1, "slow.example", RecordType::A));
    send_tcp(&mut stream, &query(2, REDIS, RecordType::A));
    send_tcp(&mut stream, &query(3, "quick.example", RecordType::A));
    stream.shutdown(Shutdown::Write).unwrap();
    let ids: Vec<u16> = (0..3).map(|_| receive_tcp(&mut stream).metadata.id).collect();
    assert_eq!(
        ids,
        [2, 3, 1],
        "in the order in which they were ready, also to a client that has closed its half"
    );
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "then the connection is closed");
}

#[test]
fn a_tcp_query_may_come_in_pieces_and_nonsense_is_answered_in_kind() {
    let resolver = resolver(&[]);
    let mut stream = tcp(&resolver);
    let asked = query(4, REDIS, RecordType::A);
    let framed = [&u16::try_from(asked.len()).unwrap().to_be_bytes(), asked.as_slice()].concat();
    for octet in framed {
        stream.write_all(&[octet]).unwrap();
    }
    assert_eq!(answered_by(&receive_tcp(&mut stream)), "240.0.0.1");
    let mut two_questions = query(5, REDIS, RecordType::A);
    two_questions[5] = 2;
    send_tcp(&mut stream, &two_questions);
    assert_eq!(receive_tcp(&mut stream).metadata.response_code, ResponseCode::FormErr);
    send_tcp(&mut stream, b"short");
    send_tcp(&mut stream, &asked);
    assert_eq!(receive_tcp(&mut stream).metadata.id, 4, "a message without a header gets no answer");
}

#[test]
fn hundreds_of_tcp_clients_are_served_at_once() {
    let resolver = resolver(&[]);
    let mut streams: Vec<TcpStream> = (0..300).map(|_| tcp(&resolver)).collect();
    for stream in streams.iter_mut().rev() {
        send_tcp(stream, &query(6, REDIS, RecordType::A));
        assert_eq!(answered_by(&receive_tcp(stream)), "240.0.0.1");
    }
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
