//! What a zone answers, in either role, judged by another reader of DNS messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable;

use super::*;
use crate::model::name::Hostname;
use crate::model::view::{Changes, Header, Part, Port, Route};

const TTL: u32 = 60;

fn zone(names: &[(&str, Option<&str>, Option<&str>)]) -> Zone {
    let ranges = vec!["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
    let header = Header { domain: Hostname::parse("mesh").unwrap(), ttl_secs: TTL, ranges };
    let part = |&(name, v4, v6): &(&str, Option<&str>, Option<&str>)| {
        let (v4, v6) = (v4.map(|ip| ip.parse().unwrap()), v6.map(|ip| ip.parse().unwrap()));
        let addresses = Addresses { v4, v6 };
        let routes = addresses.iter().map(|vip| Route { vip, port: Port::new(80) }).collect();
        (Arc::<str>::from(name), Part::new(vec![Hostname::parse(name).unwrap()], addresses, routes).unwrap())
    };
    let view = MeshView::new("default", header).with(Changes::adding(names.iter().map(part)));
    Zone::new(&view.unwrap())
}

fn redis() -> Zone {
    zone(&[
        ("redis.mesh", Some("240.0.0.1"), Some("fd00:fd00::1")),
        ("four_only_svc_80.mesh", Some("240.0.0.2"), None),
    ])
}

fn query(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), qtype));
    message
}

fn ask_raw(zone: &Zone, query: &[u8]) -> Result<Message, Outcome> {
    let mut buffer = vec![0; query.len() + ROOM_BYTES];
    buffer[..query.len()].copy_from_slice(query);
    match zone.answer(&mut buffer, query.len()) {
        Outcome::Answered(answered) => Ok(Message::from_bytes(&buffer[..answered.bytes]).unwrap()),
        other => {
            assert_eq!(&buffer[..query.len()], query, "what is not ours stays as it was");
            Err(other)
        }
    }
}

fn ask(zone: &Zone, query: &Message) -> Message {
    ask_raw(zone, &query.to_vec().unwrap()).unwrap()
}

#[test]
fn both_families_of_a_name_are_answered_with_the_views_ttl() {
    for (qtype, want) in [
        (RecordType::A, RData::A("240.0.0.1".parse::<std::net::Ipv4Addr>().unwrap().into())),
        (RecordType::AAAA, RData::AAAA("fd00:fd00::1".parse::<std::net::Ipv6Addr>().unwrap().into())),
    ] {
        let answer = ask(&redis(), &query("redis.mesh.", qtype));
        assert_eq!(answer.metadata.id, 0x1234);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        let flags = answer.metadata;
        assert!(
            flags.authoritative && flags.recursion_available && flags.recursion_desired && !flags.truncation
        );
        assert_eq!(answer.answers.len(), 1);
        assert_eq!((answer.answers[0].ttl, &answer.answers[0].data), (TTL, &want));
        assert!(answer.authorities.is_empty() && answer.edns.is_none());
    }
}

#[test]
fn names_match_in_any_case_and_the_spelling_is_echoed() {
    let answer = ask(&redis(), &query("ReDiS.mEsH.", RecordType::A));
    assert_eq!(answer.queries[0].name().to_ascii(), "ReDiS.mEsH.");
    assert_eq!(answer.answers[0].name.to_ascii(), "ReDiS.mEsH.");
}

#[test]
fn a_missing_family_and_every_other_type_are_no_data_with_a_soa() {
    for (name, qtype) in [
        ("four_only_svc_80.mesh.", RecordType::AAAA),
        ("redis.mesh.", RecordType::HTTPS),
        ("redis.mesh.", RecordType::TXT),
        ("redis.mesh.", RecordType::SOA),
        ("redis.mesh.", RecordType::Unknown(65_000)),
    ] {
        let answer = ask(&redis(), &query(name, qtype));
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{qtype}");
        assert!(answer.answers.is_empty(), "{qtype}");
        let soa = &answer.authorities[0];
        assert_eq!((soa.ttl, soa.name.to_ascii().as_str()), (TTL, name), "{qtype}");
        let RData::SOA(data) = &soa.data else { panic!("{qtype}: no SOA") };
        assert_eq!((data.minimum, data.rname.to_ascii()), (TTL, format!("hostmaster.{name}")));
    }
}

#[test]
fn any_gets_what_there_is_and_a_transfer_is_refused() {
    assert_eq!(ask(&redis(), &query("redis.mesh.", RecordType::ANY)).answers.len(), 2);
    let refused = ask(&redis(), &query("redis.mesh.", RecordType::AXFR));
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn what_is_not_in_the_table_is_not_ours() {
    for name in ["example.com.", "unknown.mesh.", "mesh.", "child.redis.mesh.", ".", "redis.mesh.local."] {
        let asked = ask_raw(&redis(), &query(name, RecordType::A).to_vec().unwrap());
        assert!(matches!(asked, Err(Outcome::NotOurs(_))), "{name}: {asked:?}");
    }
    let mut chaos = query("redis.mesh.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(matches!(ask_raw(&redis(), &chaos.to_vec().unwrap()), Err(Outcome::NotOurs(_))));
}

#[test]
fn an_opt_is_answered_with_an_opt_and_a_strange_version_with_badvers() {
    let mut asked = query("redis.mesh.", RecordType::AAAA);
    let mut edns = Edns::new();
    edns.set_max_payload(4_096).set_dnssec_ok(true);
    asked.set_edns(edns.clone());
    let answer = ask(&redis(), &asked);
    let opt = answer.edns.as_ref().unwrap();
    assert_eq!((opt.max_payload(), opt.version(), opt.flags().dnssec_ok), (1_232, 0, true));
    assert_eq!(answer.answers.len(), 1);

    edns.set_version(1);
    asked.set_edns(edns);
    let refused = ask(&redis(), &asked);
    // hickory-proto calls 16 BADSIG, which it means in a TSIG only.
    assert_eq!(u16::from(refused.metadata.response_code), 16);
    assert!(refused.answers.is_empty());
    assert_eq!(refused.edns.as_ref().unwrap().version(), 0);
}

#[test]
fn cd_is_echoed_and_the_reserved_bits_are_not() {
    let mut raw = query("redis.mesh.", RecordType::A).to_vec().unwrap();
    raw[3] |= 0x70;
    let mut buffer = raw.clone();
    buffer.resize(raw.len() + ROOM_BYTES, 0);
    assert!(matches!(redis().answer(&mut buffer, raw.len()), Outcome::Answered(_)));
    assert_eq!(buffer[3], 0x90);
}

#[test]
fn bad_messages_get_a_code_or_silence() {
    let good = query("redis.mesh.", RecordType::A).to_vec().unwrap();
    let mut status = good.clone();
    status[2] |= 0x10;
    let answer = ask_raw(&redis(), &status).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    assert_eq!(answer.metadata.op_code, OpCode::Status);
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(ask_raw(&redis(), &two).unwrap().metadata.response_code, ResponseCode::FormErr);
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(ask_raw(&redis(), &response).unwrap_err(), Outcome::Drop);
    assert_eq!(ask_raw(&redis(), &good[..5]).unwrap_err(), Outcome::Drop);
}

#[test]
fn a_hundred_thousand_names_are_all_found_and_none_else() {
    let names: Vec<String> = (0..100_000).map(|n| format!("service-{n}_ns_svc_80.mesh")).collect();
    let rows: Vec<_> = names.iter().map(|name| (name.as_str(), Some("240.0.0.9"), None)).collect();
    let zone = zone(&rows);
    assert_eq!(zone.len(), 100_000);
    let wire = |name: &str| Name::from_ascii(name).unwrap();
    for name in &names {
        let mut encoded = Vec::new();
        for label in wire(name).iter() {
            encoded.push(u8::try_from(label.len()).unwrap());
            encoded.extend_from_slice(label);
        }
        encoded.push(0);
        assert!(zone.find(&encoded).is_some(), "{name}");
        encoded[1] = b'x';
        assert!(zone.find(&encoded).is_none(), "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn no_octets_make_it_panic_or_answer_more_than_512(octets in proptest::collection::vec(0_u8.., 0..300)) {
        let mut query = query("redis.mesh.", RecordType::A).to_vec().unwrap();
        for noise in [octets.clone(), { query.extend_from_slice(&octets); query[11] = 3; query }] {
            let mut buffer = noise.clone();
            buffer.resize(noise.len() + ROOM_BYTES, 0);
            if let Outcome::Answered(answered) = redis().answer(&mut buffer, noise.len()) {
                proptest::prop_assert!(answered.bytes <= 512);
            }
        }
    }
}

/// `mesh` as the control plane's server answers it.
fn authority(names: &[(&str, Option<&str>, Option<&str>)]) -> Zone {
    let table = names.iter().map(|(name, v4, v6)| {
        let addresses =
            Addresses { v4: v4.map(|ip| ip.parse().unwrap()), v6: v6.map(|ip| ip.parse().unwrap()) };
        (Hostname::parse(name).unwrap(), addresses)
    });
    let server = Addresses { v4: Some("127.0.0.1".parse().unwrap()), v6: None };
    let table: Vec<(Hostname, Addresses)> = table.collect();
    let empty = Zone::authority(&Hostname::parse("mesh").unwrap(), TTL, server);
    empty.with(table.iter().map(|(name, addresses)| (name, *addresses)))
}

fn redis_authority() -> Zone {
    authority(&[
        ("redis.mesh", Some("240.0.0.1"), Some("fd00:fd00::1")),
        ("echo.ns.svc.80.mesh", Some("240.0.0.2"), None),
        ("db.example.com", Some("240.0.0.3"), None),
    ])
}

#[test]
fn an_authority_answers_the_whole_domain_and_refuses_the_rest() {
    use RecordType as T;
    use ResponseCode as R;
    // name, type, code, answers, and whether the SOA of the domain says how long "no" holds
    for (name, qtype, code, answers, soa) in [
        ("redis.mesh.", T::A, R::NoError, 1, false),
        ("REDIS.Mesh.", T::AAAA, R::NoError, 1, false),
        ("redis.mesh.", T::ANY, R::NoError, 2, false),
        ("redis.mesh.", T::MX, R::NoError, 0, true),
        ("echo.ns.svc.80.mesh.", T::AAAA, R::NoError, 0, true),
        ("svc.80.mesh.", T::A, R::NoError, 0, true),
        ("80.mesh.", T::TXT, R::NoError, 0, true),
        ("ns.svc.81.mesh.", T::A, R::NXDomain, 0, true),
        ("unknown.mesh.", T::A, R::NXDomain, 0, true),
        ("a.redis.mesh.", T::SOA, R::NXDomain, 0, true),
        ("mesh.", T::SOA, R::NoError, 1, false),
        ("MESH.", T::NS, R::NoError, 1, false),
        ("mesh.", T::ANY, R::NoError, 2, false),
        ("mesh.", T::A, R::NoError, 0, true),
        ("ns.mesh.", T::A, R::NoError, 1, false),
        ("ns.mesh.", T::AAAA, R::NoError, 0, true),
        ("example.com.", T::A, R::Refused, 0, false),
        ("db.example.com.", T::A, R::Refused, 0, false),
        ("bigmesh.", T::A, R::Refused, 0, false),
        ("mesh.local.", T::A, R::Refused, 0, false),
        (".", T::NS, R::Refused, 0, false),
        ("mesh.", T::AXFR, R::Refused, 0, false),
    ] {
        let answer = ask(&redis_authority(), &query(name, qtype));
        let said = format!("{name} {qtype}: {answer:?}");
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, answers), "{said}");
        assert_eq!(answer.metadata.authoritative, code != R::Refused, "{said}");
        assert!(!answer.metadata.recursion_available && answer.metadata.recursion_desired, "{said}");
        assert_eq!(answer.authorities.len(), usize::from(soa), "{said}");
        for record in &answer.authorities {
            let RData::SOA(data) = &record.data else { panic!("{said}") };
            assert_eq!((record.ttl, data.minimum), (NEGATIVE_TTL_SECS, NEGATIVE_TTL_SECS), "{said}");
            assert_eq!(record.name.to_ascii().to_lowercase(), "mesh.", "{said}");
            assert_eq!(data.mname.to_ascii().to_lowercase(), "ns.mesh.", "{said}");
            assert_eq!(data.rname.to_ascii().to_lowercase(), "hostmaster.mesh.", "{said}");
        }
    }
}

#[test]
fn the_octets_of_a_domain_inside_a_label_are_not_the_domain() {
    // A label of 5 octets that end as the domain does on the wire: \x04mesh.
    let mut raw = query("aaaaaa.", RecordType::A).to_vec().unwrap();
    raw[13..19].copy_from_slice(b"a\x04mesh");
    let answer = ask_raw(&redis_authority(), &raw).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn an_authority_names_itself_unless_a_service_has_that_name() {
    let ns = ask(&redis_authority(), &query("mesh.", RecordType::NS));
    let RData::NS(server) = &ns.answers[0].data else { panic!("{ns:?}") };
    assert_eq!((server.to_ascii().as_str(), ns.answers[0].ttl), ("ns.mesh.", TTL));
    let taken = ask(&authority(&[("ns.mesh", Some("240.0.0.9"), None)]), &query("ns.mesh.", RecordType::A));
    assert_eq!(taken.answers[0].data, RData::A("240.0.0.9".parse::<std::net::Ipv4Addr>().unwrap().into()));
}

#[test]
fn an_authority_leaves_nothing_to_others() {
    let mut chaos = query("redis.mesh.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(&redis_authority(), &chaos).metadata.response_code, ResponseCode::Refused);
    let mut edns = Edns::new();
    edns.set_version(1);
    for (name, code) in [("example.com.", 16), ("unknown.mesh.", 16)] {
        let mut asked = query(name, RecordType::A);
        asked.set_edns(edns.clone());
        assert_eq!(u16::from(ask(&redis_authority(), &asked).metadata.response_code), code, "{name}");
    }
    let mut two = query("redis.mesh.", RecordType::A).to_vec().unwrap();
    two[5] = 2;
    let answer = ask_raw(&redis_authority(), &two).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert!(!answer.metadata.recursion_available);
}

#[test]
fn the_longest_name_still_has_room_for_its_denial() {
    let long = format!("{}.mesh.", [&*"a".repeat(60); 4].join("."));
    let mut asked = query(&long, RecordType::A);
    asked.set_edns(Edns::new());
    let answer = ask(&redis_authority(), &asked);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].name.to_ascii(), "mesh.");
}

proptest::proptest! {
    /// Names that lie above, below and beside each other come and go; the zone answers as one that was made of them at once.
    #[test]
    fn a_changed_authority_answers_as_a_new_one(
        batches in proptest::collection::vec(proptest::collection::btree_map(0..NAMES.len(), 0..3_u8, 0..4), 1..8),
    ) {
        let server = Addresses { v4: Some([127, 0, 0, 1].into()), v6: None };
        let empty = Zone::authority(&Hostname::parse("mesh").unwrap(), TTL, server);
        let (mut zone, mut table) = (empty.clone(), BTreeMap::new());
        for batch in batches {
            let v4 = |last: u8| (last > 0).then(|| [240, 0, 0, last].into());
            let changed: Vec<(Hostname, Addresses)> = batch
                .iter()
                .map(|(&name, &last)| (Hostname::parse(NAMES[name]).unwrap(), Addresses { v4: v4(last), v6: None }))
                .collect();
            zone = zone.with(changed.iter().map(|(name, addresses)| (name, *addresses)));
            table.extend(changed);
            table.retain(|_, addresses| *addresses != Addresses::default());
            let anew = empty.with(table.iter().map(|(name, addresses)| (name, *addresses)));
            proptest::prop_assert_eq!(zone.len(), anew.len());
            for name in NAMES.iter().chain(&["d.mesh", "x.c.mesh", "mesh"]) {
                let asked = query(&format!("{name}."), RecordType::A);
                proptest::prop_assert_eq!(ask(&zone, &asked), ask(&anew, &asked), "{}", name);
            }
        }
    }
}

const NAMES: [&str; 8] =
    ["c.mesh", "b.c.mesh", "a.b.c.mesh", "x.b.c.mesh", "ns.mesh", "a.ns.mesh", "b.d.mesh", "a.example"];

#[test]
fn another_ttl_changes_the_answers_and_no_name() {
    let zone = redis().with_ttl(7);
    assert_eq!((ask(&zone, &query("redis.mesh.", RecordType::A)).answers[0].ttl, zone.len()), (7, 2));
}
