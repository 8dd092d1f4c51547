//! Writes an answer over the query that it answers: id, question and its spelling stay where they are.
//! Keeps: no allocation, and no answer of ours ever needs more than a plain client's 512 octets, so TC is never set.
//! Called by zone (mesh names, and all of a domain that is ours) and by server and upstream (SERVFAIL of everything else).

use super::question::{self, CLASS_IN, Edns, HEADER_BYTES, MAX_NAME_BYTES, Question, qtype, rcode};
use crate::model::view::Addresses;

/// The UDP payload that we announce (dnsflagday.net/2020): it never fragments.
const EDNS_PAYLOAD_BYTES: u16 = 1_232;
/// A plain client's limit (RFC 1035 section 4.2.1).
const PLAIN_UDP_BYTES: usize = 512;

/// Fixed part of a record whose owner is a pointer: owner, type, class, TTL, length of the data.
const RECORD_BYTES: usize = 2 + 2 + 2 + 4 + 2;
const A_BYTES: usize = RECORD_BYTES + 4;
const AAAA_BYTES: usize = RECORD_BYTES + 16;
const OPT_BYTES: usize = 11;
const NS_BYTES: usize = RECORD_BYTES + NS.len() + 2;
const SOA_BYTES: usize = RECORD_BYTES + NS.len() + 2 + HOSTMASTER.len() + 2 + 20;

/// Room that a buffer must have behind the query.
pub const ROOM_BYTES: usize = 96;
const _: () = assert!(A_BYTES + AAAA_BYTES + OPT_BYTES <= ROOM_BYTES);
const _: () = assert!(SOA_BYTES + NS_BYTES + OPT_BYTES <= ROOM_BYTES);
const _: () = assert!(HEADER_BYTES + MAX_NAME_BYTES + 4 + ROOM_BYTES <= PLAIN_UDP_BYTES);

/// The label of the server's own name under an apex.
pub const NS: &[u8] = b"\x02ns";
/// The label of whom to write to about a zone.
const HOSTMASTER: &[u8] = b"\x0ahostmaster";
/// Serial, refresh, retry and expire of the SOA. Nobody transfers such a zone; these are RFC 1912's suggestions.
const SOA_NUMBERS: [u32; 4] = [1, 3_600, 900, 1_209_600];

/// As what we answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The resolver of a stub: recursion is available, by asking others.
    Resolver,
    /// The authority of one domain, which asks nobody.
    Authority,
}

/// What to say about a name that is ours.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    pub found: Found,
    pub ttl_secs: u32,
    /// How long "no such name" and "no such data" hold.
    pub negative_ttl_secs: u32,
    pub role: Role,
    /// Where the name of its zone begins within the message.
    pub apex_at: usize,
}

/// What there is at a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Its addresses; without any it only has names below it.
    Name(Addresses),
    /// The zone itself.
    Apex,
    Nothing,
}

/// An answer that stands in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    pub bytes: usize,
    pub rcode: u8,
    /// `None` where the query had no question that could be read.
    pub qtype: Option<u16>,
}

/// Answers a question about a name of ours: its data, or "no such data" or "no such name" with the SOA that says how long
/// that holds.
///
/// To a resolver every published name is a zone of its own: neither its parent nor its children are ours. So it is the
/// owner of its SOA. To an authority the whole domain is one zone.
pub fn mesh(buffer: &mut [u8], question: &Question, edns: Option<Edns>, records: &Records) -> Answered {
    let role = records.role;
    if edns.is_some_and(|edns| edns.version != 0) {
        return status(buffer, question, edns, (rcode::BADVERS, role));
    }
    if matches!(question.qtype, qtype::AXFR | qtype::IXFR) {
        return status(buffer, question, edns, (rcode::REFUSED, role));
    }
    let mut writer = Writer { buffer, at: question.end, apex: pointer(records.apex_at) };
    let answers = writer.answers(question, records);
    if answers == 0 {
        writer.soa(records.negative_ttl_secs, records);
    }
    let rcode = if records.found == Found::Nothing { rcode::NXDOMAIN } else { rcode::NOERROR };
    let authority = u8::from(answers == 0);
    writer.opt(edns, rcode);
    let bytes = writer.at;
    let counts = [1, answers, authority, u8::from(edns.is_some())];
    header(buffer, rcode, (role, Authoritative::Yes), counts);
    Answered { bytes, rcode, qtype: Some(question.qtype) }
}

/// A bare response code to a question that could be read.
pub fn status(
    buffer: &mut [u8],
    question: &Question,
    edns: Option<Edns>,
    (rcode, role): (u8, Role),
) -> Answered {
    let mut writer = Writer { buffer, at: question.end, apex: pointer(HEADER_BYTES) };
    writer.opt(edns, rcode);
    let bytes = writer.at;
    header(buffer, rcode, (role, Authoritative::No), [1, 0, 0, u8::from(edns.is_some())]);
    Answered { bytes, rcode, qtype: Some(question.qtype) }
}

/// A bare response code to a message whose question could not be read: the header alone.
pub fn header_only(buffer: &mut [u8], rcode: u8, role: Role) -> Answered {
    header(buffer, rcode, (role, Authoritative::No), [0; 4]);
    Answered { bytes: HEADER_BYTES, rcode, qtype: None }
}

/// SERVFAIL to the query of `query_bytes` octets in `buffer`, whose question was read before.
pub fn servfail(buffer: &mut [u8], query_bytes: usize, question: &Question) -> Answered {
    let edns = question::edns(&buffer[..query_bytes], question).unwrap_or(None);
    status(buffer, question, edns, (rcode::SERVFAIL, Role::Resolver))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Authoritative {
    Yes,
    No,
}

/// Turns the query's header into the answer's: id, opcode, RD and CD are echoed, AD and Z are not; RA is as the role says.
fn header(buffer: &mut [u8], rcode: u8, (role, authoritative): (Role, Authoritative), counts: [u8; 4]) {
    let aa = if authoritative == Authoritative::Yes { 0x04 } else { 0 };
    let ra = if role == Role::Resolver { 0x80 } else { 0 };
    buffer[2] = 0x80 | (buffer[2] & 0x79) | aa;
    buffer[3] = ra | (buffer[3] & 0x10) | (rcode & 0x0f);
    for (field, count) in buffer[4..HEADER_BYTES].chunks_exact_mut(2).zip(counts) {
        field.copy_from_slice(&[0, count]);
    }
}

/// Points at a name that stands at `at` already (RFC 1035 section 4.1.4).
fn pointer(at: usize) -> [u8; 2] {
    let at = u16::try_from(at).expect("a question ends within 271 octets");
    (0xc000 | at).to_be_bytes()
}

struct Writer<'b> {
    buffer: &'b mut [u8],
    at: usize,
    apex: [u8; 2],
}

impl Writer<'_> {
    /// The records that were asked for, and how many they are.
    fn answers(&mut self, question: &Question, records: &Records) -> u8 {
        let wants = |rtype| question.qtype == rtype || question.qtype == qtype::ANY;
        let mut answers = 0;
        match records.found {
            Found::Name(addresses) => {
                if let Some(v4) = addresses.v4.filter(|_| wants(qtype::A)) {
                    self.record(qtype::A, records.ttl_secs, &v4.octets());
                    answers += 1;
                }
                if let Some(v6) = addresses.v6.filter(|_| wants(qtype::AAAA)) {
                    self.record(qtype::AAAA, records.ttl_secs, &v6.octets());
                    answers += 1;
                }
            }
            Found::Apex => {
                if wants(qtype::SOA) {
                    self.soa(records.ttl_secs, records);
                    answers += 1;
                }
                if wants(qtype::NS) {
                    self.head(self.apex, qtype::NS, records.ttl_secs, NS_BYTES - RECORD_BYTES);
                    self.put(NS);
                    self.put_apex();
                    answers += 1;
                }
            }
            Found::Nothing => {}
        }
        answers
    }

    fn put(&mut self, octets: &[u8]) {
        self.buffer[self.at..self.at + octets.len()].copy_from_slice(octets);
        self.at += octets.len();
    }

    fn put_apex(&mut self) {
        let apex = self.apex;
        self.put(&apex);
    }

    fn head(&mut self, owner: [u8; 2], rtype: u16, ttl_secs: u32, data_bytes: usize) {
        let mut head = [0; RECORD_BYTES];
        head[..2].copy_from_slice(&owner);
        head[2..4].copy_from_slice(&rtype.to_be_bytes());
        head[4..6].copy_from_slice(&CLASS_IN.to_be_bytes());
        head[6..10].copy_from_slice(&ttl_secs.to_be_bytes());
        // Data of ours has at most 38 octets.
        head[11] = data_bytes as u8;
        self.put(&head);
    }

    fn record(&mut self, rtype: u16, ttl_secs: u32, data: &[u8]) {
        self.head(pointer(HEADER_BYTES), rtype, ttl_secs, data.len());
        self.put(data);
    }

    /// A cache holds "no such data" for the SOA's TTL or its MINIMUM, whichever is less (RFC 2308 section 5).
    /// Its MNAME is the server's own name, for a resolver the name itself.
    fn soa(&mut self, ttl_secs: u32, records: &Records) {
        let server = if records.role == Role::Authority { NS } else { &[] };
        let data_bytes = SOA_BYTES - RECORD_BYTES - NS.len() + server.len();
        self.head(self.apex, qtype::SOA, ttl_secs, data_bytes);
        self.put(server);
        self.put_apex();
        self.put(HOSTMASTER);
        self.put_apex();
        for number in SOA_NUMBERS {
            self.put(&number.to_be_bytes());
        }
        self.put(&records.negative_ttl_secs.to_be_bytes());
    }

    /// An OPT for an OPT, never without (RFC 6891 section 7); DO is echoed (RFC 3225 section 3).
    fn opt(&mut self, asked: Option<Edns>, rcode: u8) {
        let Some(asked) = asked else { return };
        let [payload_high, payload_low] = EDNS_PAYLOAD_BYTES.to_be_bytes();
        let flags = if asked.dnssec_ok { 0x80 } else { 0 };
        let [type_high, type_low] = qtype::OPT.to_be_bytes();
        self.put(&[0, type_high, type_low, payload_high, payload_low, rcode >> 4, 0, flags, 0, 0, 0]);
    }
}
