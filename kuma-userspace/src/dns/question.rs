//! Reads a query as far as an answer needs it: the header, the one question, the OPT record. Pure, no allocation.
//! Keeps: nothing outside the message is read, whatever its octets say. Called by zone, server, upstream and lookup.

/// The fixed header (RFC 1035 section 4.1.1).
pub const HEADER_BYTES: usize = 12;
/// Longest name on the wire (RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 255;

/// Response codes that we give ourselves.
pub mod rcode {
    pub const NOERROR: u8 = 0;
    pub const FORMERR: u8 = 1;
    pub const SERVFAIL: u8 = 2;
    pub const NXDOMAIN: u8 = 3;
    pub const NOTIMP: u8 = 4;
    pub const REFUSED: u8 = 5;
    /// Extended (RFC 6891 section 9): its upper bits travel in the OPT record.
    pub const BADVERS: u8 = 16;
}

/// Query types that get an answer of their own.
pub mod qtype {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const AAAA: u16 = 28;
    pub const SOA: u16 = 6;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// The Internet class.
pub const CLASS_IN: u16 = 1;

/// The one question of a query; its name begins behind the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Where the octets behind the question begin.
    pub end: usize,
    pub qtype: u16,
    pub qclass: u16,
}

impl Question {
    /// The name's octets within `message`, the final zero included.
    pub fn name<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        &message[HEADER_BYTES..self.end - 4]
    }

    /// Name, type and class as they stand within `message`.
    pub fn octets<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        &message[HEADER_BYTES..self.end]
    }
}

/// Why a message is no query that we could look up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No answer: it has no header, or it is an answer itself (two resolvers must never talk in circles).
    Silent,
    /// An answer with this response code.
    Answer(u8),
}

/// EDNS as the client asked for it (RFC 6891).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    pub version: u8,
    pub dnssec_ok: bool,
}

/// The question of a query.
///
/// # Errors
/// See [`Fault`].
pub fn read(message: &[u8]) -> Result<Question, Fault> {
    if message.len() < HEADER_BYTES || message[2] & 0x80 != 0 {
        return Err(Fault::Silent);
    }
    if message[2] & 0x78 != 0 {
        return Err(Fault::Answer(rcode::NOTIMP));
    }
    if u16_at(message, 4) != Some(1) {
        return Err(Fault::Answer(rcode::FORMERR));
    }
    question_of(message).ok_or(Fault::Answer(rcode::FORMERR))
}

/// The first question of any message that has one: plain labels, at most 255 octets, type and class.
pub fn question_of(message: &[u8]) -> Option<Question> {
    let name_end = plain_name_end(message)?;
    let (qtype, qclass) = (u16_at(message, name_end)?, u16_at(message, name_end + 2)?);
    Some(Question { end: name_end + 4, qtype, qclass })
}

/// The OPT record of a query, if it has one.
///
/// # Errors
/// Records that do not fit into the message, a second OPT, an OPT outside the additional section or with an owner or
/// options that are not well-formed: all of these are FORMERR (RFC 6891 sections 6.1.1 and 7).
pub fn edns(message: &[u8], question: &Question) -> Result<Option<Edns>, Fault> {
    opt_record(message, question).ok_or(Fault::Answer(rcode::FORMERR))
}

fn opt_record(message: &[u8], question: &Question) -> Option<Option<Edns>> {
    let elsewhere = u32::from(u16_at(message, 6)?) + u32::from(u16_at(message, 8)?);
    let additional = u32::from(u16_at(message, 10)?);
    let (mut at, mut found) = (question.end, None);
    // Every record takes at least 11 octets, so the message's own length bounds this loop.
    for number in 0..elsewhere + additional {
        let fixed = skip_name(message, at)?;
        let (rtype, length) = (u16_at(message, fixed)?, usize::from(u16_at(message, fixed + 8)?));
        let data = message.get(fixed + 10..fixed + 10 + length)?;
        if rtype == qtype::OPT {
            let owner_is_root = fixed == at + 1;
            if found.is_some() || number < elsewhere || !owner_is_root || !options_fit(data) {
                return None;
            }
            found = Some(Edns { version: message[fixed + 5], dnssec_ok: message[fixed + 6] & 0x80 != 0 });
        }
        at = fixed + 10 + length;
    }
    Some(found)
}

/// Do the options of an OPT record fill it exactly (RFC 6891 section 6.1.2)?
fn options_fit(mut data: &[u8]) -> bool {
    while let Some(length) = u16_at(data, 2) {
        let Some(rest) = data.get(4 + usize::from(length)..) else { return false };
        data = rest;
    }
    data.is_empty()
}

/// The end of the question's name. Compression has nothing to point at there, so a pointer is malformed.
fn plain_name_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        if length > 63 {
            return None;
        }
        at += 1 + length;
        if at - HEADER_BYTES > MAX_NAME_BYTES {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The end of a name that may be compressed; pointers are not followed.
pub(super) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = usize::from(*message.get(at)?);
        match length >> 6 {
            0 => at += 1 + length,
            3 => return message.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start > MAX_NAME_BYTES {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The number that stands there, if the message goes as far.
pub(super) fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05redis\x04mesh\x00\x00\x01\x00\x01";

    fn with(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut query = QUERY.to_vec();
        change(&mut query);
        query
    }

    fn with_records(additional: u8, records: &[u8]) -> Vec<u8> {
        with(|q| {
            q[11] = additional;
            q.extend_from_slice(records);
        })
    }

    #[test]
    fn a_question_is_read_where_it_stands() {
        let question = read(QUERY).unwrap();
        assert_eq!(question, Question { end: QUERY.len(), qtype: qtype::A, qclass: CLASS_IN });
        assert_eq!(question.name(QUERY), b"\x05redis\x04mesh\x00");
    }

    #[test]
    fn every_malformed_query_gets_the_answer_that_it_deserves() {
        for (query, fault) in [
            (QUERY[..11].to_vec(), Fault::Silent),
            (with(|q| q[2] |= 0x80), Fault::Silent),
            (with(|q| q[2] |= 0x28), Fault::Answer(rcode::NOTIMP)),
            (with(|q| q[5] = 0), Fault::Answer(rcode::FORMERR)),
            (with(|q| q[5] = 2), Fault::Answer(rcode::FORMERR)),
            (with(|q| q.truncate(20)), Fault::Answer(rcode::FORMERR)),
            (with(|q| q.truncate(QUERY.len() - 1)), Fault::Answer(rcode::FORMERR)),
            (with(|q| q[12] = 0x40), Fault::Answer(rcode::FORMERR)),
            (with(|q| q[12..14].copy_from_slice(b"\xc0\x0c")), Fault::Answer(rcode::FORMERR)),
        ] {
            assert_eq!(read(&query), Err(fault), "{query:02x?}");
        }
    }

    #[test]
    fn a_name_of_255_octets_is_read_and_one_of_256_is_not() {
        let name = |last: usize| {
            let mut name = QUERY[..12].to_vec();
            for length in [63, 63, 63, last] {
                name.push(u8::try_from(length).unwrap());
                name.extend(std::iter::repeat_n(b'a', length));
            }
            name.extend_from_slice(b"\0\0\x01\0\x01");
            name
        };
        assert!(read(&name(61)).is_ok());
        assert!(read(&name(62)).is_err());
    }

    #[test]
    fn opt_is_found_and_every_misuse_of_it_refused() {
        let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0";
        let question = read(QUERY).unwrap();
        assert_eq!(edns(QUERY, &question), Ok(None));
        let plain = with_records(1, opt);
        assert_eq!(edns(&plain, &question), Ok(Some(Edns { version: 0, dnssec_ok: true })));
        let behind_another =
            with_records(2, &[b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x01\x02\x03\x04", &opt[..]].concat());
        assert!(edns(&behind_another, &question).unwrap().is_some());
        for bad in [
            with_records(2, &[&opt[..], &opt[..]].concat()),
            with_records(1, &opt[..10]),
            with_records(1, b"\x01a\0\0\x29\x04\xd0\0\0\0\0\0\0"),
            with_records(1, b"\0\0\x29\x04\xd0\0\0\0\0\0\x03\0\x0a\0"),
            with_records(1, b"\0\0\x29\x04\xd0\0\0\0\0\0\x05\0\x0a\0\x09\x01"),
            with_records(9, opt),
        ] {
            assert_eq!(edns(&bad, &question), Err(Fault::Answer(rcode::FORMERR)), "{bad:02x?}");
        }
    }
}
