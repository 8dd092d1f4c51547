//! Writes an answer over the query that it answers: id, question and its spelling stay where they are.
//! Keeps: no allocation, and no answer of ours ever needs more than a plain client's 512 octets, so TC is never set.
//! Called by zone (mesh names) and by server and upstream (SERVFAIL of everything else).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::question::{self, CLASS_IN, Edns, HEADER_BYTES, MAX_NAME_BYTES, Question, qtype, rcode};

/// The UDP payload that we announce (dnsflagday.net/2020): it never fragments.
const EDNS_PAYLOAD_BYTES: u16 = 1_232;
/// A plain client's limit (RFC 1035 section 4.2.1).
const PLAIN_UDP_BYTES: usize = 512;

/// Fixed part of a record whose owner is a pointer: owner, type, class, TTL, length of the data.
const RECORD_BYTES: usize = 2 + 2 + 2 + 4 + 2;
const A_BYTES: usize = RECORD_BYTES + 4;
const AAAA_BYTES: usize = RECORD_BYTES + 16;
const OPT_BYTES: usize = 11;
const SOA_BYTES: usize = RECORD_BYTES + SOA_NAMES.len() + 20;

/// Room that a buffer must have behind the query.
pub const ROOM_BYTES: usize = 96;
const _: () = assert!(A_BYTES + AAAA_BYTES + OPT_BYTES <= ROOM_BYTES);
const _: () = assert!(SOA_BYTES + OPT_BYTES <= ROOM_BYTES);
const _: () = assert!(HEADER_BYTES + MAX_NAME_BYTES + 4 + ROOM_BYTES <= PLAIN_UDP_BYTES);

/// Points at the question's name.
const OWNER: [u8; 2] = [0xc0, HEADER_BYTES as u8];
/// MNAME and RNAME of the SOA: the name itself, and hostmaster under it.
const SOA_NAMES: &[u8] = b"\xc0\x0c\x0ahostmaster\xc0\x0c";
/// Serial, refresh, retry and expire of the SOA. Nobody transfers such a zone; these are RFC 1912's suggestions.
const SOA_NUMBERS: [u32; 4] = [1, 3_600, 900, 1_209_600];

/// What to say about a name that is ours.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub ttl_secs: u32,
}

/// An answer that stands in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    pub bytes: usize,
    pub rcode: u8,
    /// `None` where the query had no question that could be read.
    pub qtype: Option<u16>,
}

/// Answers a question about a name of ours: its addresses, or "no such data" with the SOA that says how long that holds.
///
/// Every published name is a zone of its own: neither its parent nor its children are ours. So it is the owner of its SOA.
pub fn mesh(buffer: &mut [u8], question: &Question, edns: Option<Edns>, records: &Records) -> Answered {
    if edns.is_some_and(|edns| edns.version != 0) {
        return status(buffer, question, edns, rcode::BADVERS);
    }
    if matches!(question.qtype, qtype::AXFR | qtype::IXFR) {
        return status(buffer, question, edns, rcode::REFUSED);
    }
    let wants = |family| question.qtype == family || question.qtype == qtype::ANY;
    let mut writer = Writer { buffer, at: question.end };
    let mut answers = 0;
    if let Some(v4) = records.v4.filter(|_| wants(qtype::A)) {
        writer.record(qtype::A, records.ttl_secs, &v4.octets());
        answers += 1;
    }
    if let Some(v6) = records.v6.filter(|_| wants(qtype::AAAA)) {
        writer.record(qtype::AAAA, records.ttl_secs, &v6.octets());
        answers += 1;
    }
    if answers == 0 {
        writer.soa(records.ttl_secs);
    }
    let authority = u8::from(answers == 0);
    writer.opt(edns, rcode::NOERROR);
    let bytes = writer.at;
    header(buffer, rcode::NOERROR, Authoritative::Yes, [1, answers, authority, u8::from(edns.is_some())]);
    Answered { bytes, rcode: rcode::NOERROR, qtype: Some(question.qtype) }
}

/// A bare response code to a question that could be read.
pub fn status(buffer: &mut [u8], question: &Question, edns: Option<Edns>, rcode: u8) -> Answered {
    let mut writer = Writer { buffer, at: question.end };
    writer.opt(edns, rcode);
    let bytes = writer.at;
    header(buffer, rcode, Authoritative::No, [1, 0, 0, u8::from(edns.is_some())]);
    Answered { bytes, rcode, qtype: Some(question.qtype) }
}

/// A bare response code to a message whose question could not be read: the header alone.
pub fn header_only(buffer: &mut [u8], rcode: u8) -> Answered {
    header(buffer, rcode, Authoritative::No, [0; 4]);
    Answered { bytes: HEADER_BYTES, rcode, qtype: None }
}

/// SERVFAIL to the query of `query_bytes` octets in `buffer`, whose question was read before.
pub fn servfail(buffer: &mut [u8], query_bytes: usize, question: &Question) -> Answered {
    let edns = question::edns(&buffer[..query_bytes], question).unwrap_or(None);
    status(buffer, question, edns, rcode::SERVFAIL)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Authoritative {
    Yes,
    No,
}

/// Turns the query's header into the answer's: id, opcode, RD and CD are echoed, RA is set, AD and Z are not.
fn header(buffer: &mut [u8], rcode: u8, authoritative: Authoritative, counts: [u8; 4]) {
    let aa = if authoritative == Authoritative::Yes { 0x04 } else { 0 };
    buffer[2] = 0x80 | (buffer[2] & 0x79) | aa;
    buffer[3] = 0x80 | (buffer[3] & 0x10) | (rcode & 0x0f);
    for (field, count) in buffer[4..HEADER_BYTES].chunks_exact_mut(2).zip(counts) {
        field.copy_from_slice(&[0, count]);
    }
}

struct Writer<'b> {
    buffer: &'b mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, octets: &[u8]) {
        self.buffer[self.at..self.at + octets.len()].copy_from_slice(octets);
        self.at += octets.len();
    }

    fn head(&mut self, rtype: u16, ttl_secs: u32, data_bytes: usize) {
        let mut head = [0; RECORD_BYTES];
        head[..2].copy_from_slice(&OWNER);
        head[2..4].copy_from_slice(&rtype.to_be_bytes());
        head[4..6].copy_from_slice(&CLASS_IN.to_be_bytes());
        head[6..10].copy_from_slice(&ttl_secs.to_be_bytes());
        // Data of ours has at most 34 octets.
        head[11] = data_bytes as u8;
        self.put(&head);
    }

    fn record(&mut self, rtype: u16, ttl_secs: u32, data: &[u8]) {
        self.head(rtype, ttl_secs, data.len());
        self.put(data);
    }

    /// A cache holds "no such data" for the SOA's TTL or its MINIMUM, whichever is less (RFC 2308 section 5).
    fn soa(&mut self, ttl_secs: u32) {
        self.head(qtype::SOA, ttl_secs, SOA_BYTES - RECORD_BYTES);
        self.put(SOA_NAMES);
        for number in SOA_NUMBERS {
            self.put(&number.to_be_bytes());
        }
        self.put(&ttl_secs.to_be_bytes());
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
