//! The mesh names of one view as an immutable table, and the answers it gives. Pure: a query in, octets out.
//! Keeps: no allocation, no lock and no clock per query. Swapped whole; called by udp and tcp.
//!
//! A name that is not in the table is not ours, even under the mesh domain: the nameservers of the host may know it
//! (Kuma's behaviour). A name that is in the table shadows the outside one for every type.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::answer::{self, Answered, ROOM_BYTES, Records};
use super::question::{self, CLASS_IN, Fault, MAX_NAME_BYTES, Question};
use crate::model::view::{Addresses, MeshView};

/// Names and their addresses, looked up by the lower-cased name as it stands on the wire.
///
/// `table` is an open-addressed hash table of `hash << 32 | entry number + 1`; 0 is an empty place. The upper half of the
/// hash keeps a probe from touching entries that cannot match; the name itself decides.
pub struct Zone {
    hasher: RandomState,
    table: Box<[u64]>,
    entries: Box<[Entry]>,
    names: Box<[u8]>,
    ttl_secs: u32,
}

struct Entry {
    name_at: u32,
    name_bytes: u8,
    addresses: Addresses,
}

/// What the zone says to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The answer stands in the buffer.
    Answered(Answered),
    /// Somebody else's to answer; the buffer is as it was.
    NotOurs(Question),
    /// No answer at all.
    Drop,
}

impl Zone {
    /// The table of a view's names.
    pub fn new(view: &MeshView) -> Self {
        let mut zone = Self {
            hasher: RandomState::default(),
            // At most half full: a probe ends after one or two places.
            table: vec![0; (view.names().len() * 2).next_power_of_two().max(8)].into(),
            entries: Box::default(),
            names: Box::default(),
            ttl_secs: view.ttl_secs,
        };
        let mut entries = Vec::with_capacity(view.names().len());
        let mut names = Vec::with_capacity(view.names().keys().map(|name| name.as_str().len() + 2).sum());
        for (name, &addresses) in view.names() {
            let name_at = names.len();
            for label in name.as_str().split('.') {
                names.push(
                    u8::try_from(label.len()).expect("labels have at most 63 bytes: Hostname::parse checks"),
                );
                names.extend_from_slice(label.as_bytes());
            }
            names.push(0);
            zone.place(&names[name_at..], entries.len());
            entries.push(Entry {
                name_at: u32::try_from(name_at)
                    .expect("a view's names fit into 4 GiB: gRPC messages are smaller"),
                name_bytes: u8::try_from(names.len() - name_at).expect("names have at most 255 octets"),
                addresses,
            });
        }
        zone.entries = entries.into();
        zone.names = names.into();
        zone
    }

    /// How many names it answers.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Does it answer no name at all?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Answers the query of `query_bytes` octets that stands at the front of `buffer`, in place.
    ///
    /// # Panics
    /// If `buffer` has less than [`ROOM_BYTES`] behind the query.
    pub fn answer(&self, buffer: &mut [u8], query_bytes: usize) -> Outcome {
        assert!(buffer.len() >= query_bytes + ROOM_BYTES, "the buffer has room for an answer");
        let question = match question::read(&buffer[..query_bytes]) {
            Ok(question) => question,
            Err(Fault::Silent) => return Outcome::Drop,
            Err(Fault::Answer(rcode)) => return Outcome::Answered(answer::header_only(buffer, rcode)),
        };
        if question.qclass != CLASS_IN {
            return Outcome::NotOurs(question);
        }
        let Some(addresses) = self.find(question.name(buffer)) else { return Outcome::NotOurs(question) };
        let edns = match question::edns(&buffer[..query_bytes], &question) {
            Ok(edns) => edns,
            Err(Fault::Answer(rcode)) => {
                return Outcome::Answered(answer::status(buffer, &question, None, rcode));
            }
            Err(Fault::Silent) => return Outcome::Drop,
        };
        let records = Records { v4: addresses.v4, v6: addresses.v6, ttl_secs: self.ttl_secs };
        Outcome::Answered(answer::mesh(buffer, &question, edns, &records))
    }

    fn find(&self, asked: &[u8]) -> Option<Addresses> {
        // Lengths of labels lie below 64, letters above: the whole name can be folded octet by octet (RFC 4343).
        let mut folded = [0; MAX_NAME_BYTES];
        let name = &mut folded[..asked.len()];
        for (lower, &octet) in name.iter_mut().zip(asked) {
            *lower = octet.to_ascii_lowercase();
        }
        let hash = self.hasher.hash_one(&*name);
        let mut place = self.first_place(hash);
        loop {
            let word = self.table[place];
            let number = (word as u32).checked_sub(1)?;
            if word >> 32 == hash >> 32 {
                let entry = &self.entries[number as usize];
                if self.name_of(entry) == name {
                    return Some(entry.addresses);
                }
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    fn name_of(&self, entry: &Entry) -> &[u8] {
        &self.names[entry.name_at as usize..][..usize::from(entry.name_bytes)]
    }

    fn place(&mut self, name: &[u8], number: usize) {
        let hash = self.hasher.hash_one(name);
        let mut place = self.first_place(hash);
        while self.table[place] != 0 {
            place = (place + 1) & (self.table.len() - 1);
        }
        let number = u32::try_from(number + 1).expect("fewer than 4 billion names");
        self.table[place] = (hash >> 32) << 32 | u64::from(number);
    }

    fn first_place(&self, hash: u64) -> usize {
        hash as usize & (self.table.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
    use hickory_proto::serialize::binary::BinDecodable;

    use super::*;
    use crate::model::name::Hostname;
    use crate::model::view::{Port, Route};

    const TTL: u32 = 60;

    fn zone(names: &[(&str, Option<&str>, Option<&str>)]) -> Zone {
        let mut base = MeshView::empty("default", Hostname::parse("mesh").unwrap());
        base.ranges = vec!["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
        base.ttl_secs = TTL;
        let mut table = BTreeMap::new();
        for (name, v4, v6) in names {
            let addresses =
                Addresses { v4: v4.map(|ip| ip.parse().unwrap()), v6: v6.map(|ip| ip.parse().unwrap()) };
            table.insert(Hostname::parse(name).unwrap(), addresses);
        }
        let routes: BTreeSet<Route> =
            table.values().flat_map(|a| a.iter()).map(|vip| Route { vip, port: Port::new(80) }).collect();
        Zone::new(&MeshView::with(base, routes, table).unwrap())
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
                flags.authoritative
                    && flags.recursion_available
                    && flags.recursion_desired
                    && !flags.truncation
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
        for name in ["example.com.", "unknown.mesh.", "mesh.", "child.redis.mesh.", ".", "redis.mesh.local."]
        {
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
}
