//! Mesh names as an immutable table, and the answers it gives. Pure: a query in, octets out.
//! Keeps: no allocation, no lock and no clock per query. Swapped whole; called by udp and tcp.
//!
//! For the resolver: a name that is not in the table is not ours, even under the mesh domain: the nameservers of the host
//! may know it (Kuma's behaviour). A name that is in the table shadows the outside one for every type.
//! For the control plane's server: the whole domain is ours, its unknown names do not exist, and all else is refused.

use std::collections::BTreeMap;

use super::answer::{self, Answered, Found, ROOM_BYTES, Records, Role};
use super::question::{self, CLASS_IN, Fault, HEADER_BYTES, MAX_NAME_BYTES, Question, rcode};
use super::table::{Names, wire_name};
use crate::model::name::Hostname;
use crate::model::view::{Addresses, MeshView};

/// How long an authority's "no such name" holds at most, in seconds: a service that is added must not be missed for long.
const NEGATIVE_TTL_SECS: u32 = 5;

/// Names and their addresses, looked up by the lower-cased name as it stands on the wire.
pub struct Zone {
    names: Names,
    ttl_secs: u32,
    /// The domain as it stands on the wire, if everything in it is ours to answer.
    apex: Option<Box<[u8]>>,
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
    /// The resolver's zone: the table of a view's names.
    pub fn new(view: &MeshView) -> Self {
        let names = view.names().iter().map(|(name, &addresses)| (name.as_str(), addresses));
        Self { names: Names::new(names), ttl_secs: view.ttl_secs, apex: None }
    }

    /// The authority's zone: everything in `domain`, and nothing else is answered but REFUSED. `names` outside of the
    /// domain are left out; `server` is what `ns` under the domain resolves to, unless that is a name already.
    pub fn authoritative(
        domain: &Hostname,
        ttl_secs: u32,
        names: &BTreeMap<Hostname, Addresses>,
        server: Addresses,
    ) -> Self {
        let mut all: BTreeMap<&str, Addresses> = BTreeMap::new();
        let own = format!("ns.{domain}");
        if Hostname::parse(&own).is_ok() {
            all.insert(&own, server);
        }
        for (name, &addresses) in names {
            let Some(labels) = in_domain(name, domain) else { continue };
            all.insert(name.as_str(), addresses);
            // A name that only has names below it exists all the same (RFC 8020): who asked for it must not
            // believe that there is nothing below.
            for (at, _) in labels.match_indices('.') {
                all.entry(&name.as_str()[at + 1..]).or_default();
            }
        }
        let names = Names::new(all.into_iter());
        Self { names, ttl_secs, apex: Some(wire_name(domain.as_str()).into()) }
    }

    /// How many names it answers.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Does it answer no name at all?
    pub fn is_empty(&self) -> bool {
        self.names.len() == 0
    }

    /// Answers the query of `query_bytes` octets that stands at the front of `buffer`, in place.
    ///
    /// # Panics
    /// If `buffer` has less than [`ROOM_BYTES`] behind the query.
    pub fn answer(&self, buffer: &mut [u8], query_bytes: usize) -> Outcome {
        assert!(buffer.len() >= query_bytes + ROOM_BYTES, "the buffer has room for an answer");
        let role = self.role();
        let question = match question::read(&buffer[..query_bytes]) {
            Ok(question) => question,
            Err(Fault::Silent) => return Outcome::Drop,
            Err(Fault::Answer(rcode)) => return Outcome::Answered(answer::header_only(buffer, rcode, role)),
        };
        let found = if question.qclass == CLASS_IN { self.find(question.name(buffer)) } else { None };
        if found.is_none() && role == Role::Resolver {
            return Outcome::NotOurs(question);
        }
        let edns = match question::edns(&buffer[..query_bytes], &question) {
            Ok(edns) => edns,
            Err(Fault::Answer(rcode)) => {
                return Outcome::Answered(answer::status(buffer, &question, None, (rcode, role)));
            }
            Err(Fault::Silent) => return Outcome::Drop,
        };
        let Some((found, apex_at)) = found else {
            let version = edns.is_none_or(|edns| edns.version == 0);
            let rcode = if version { rcode::REFUSED } else { rcode::BADVERS };
            return Outcome::Answered(answer::status(buffer, &question, edns, (rcode, role)));
        };
        let ttl_secs = self.ttl_secs;
        let negative_ttl_secs = match role {
            Role::Resolver => ttl_secs,
            Role::Authority => ttl_secs.min(NEGATIVE_TTL_SECS),
        };
        let records = Records { found, ttl_secs, negative_ttl_secs, role, apex_at };
        Outcome::Answered(answer::mesh(buffer, &question, edns, &records))
    }

    fn role(&self) -> Role {
        if self.apex.is_some() { Role::Authority } else { Role::Resolver }
    }

    /// What there is at a name, and where its zone's name begins within the message. `None`: not ours.
    fn find(&self, asked: &[u8]) -> Option<(Found, usize)> {
        // Lengths of labels lie below 64, letters above: the whole name can be folded octet by octet (RFC 4343).
        let mut folded = [0; MAX_NAME_BYTES];
        let name = &mut folded[..asked.len()];
        for (lower, &octet) in name.iter_mut().zip(asked) {
            *lower = octet.to_ascii_lowercase();
        }
        let addresses = self.names.find(name);
        let Some(apex) = &self.apex else { return Some((Found::Name(addresses?), HEADER_BYTES)) };
        let above = name.len().checked_sub(apex.len()).filter(|&at| name[at..] == **apex)?;
        let found = match addresses {
            _ if above == 0 => Found::Apex,
            Some(addresses) => Found::Name(addresses),
            // A suffix of octets is a suffix of labels only if a label ends there.
            None if !begins_label(name, above) => return None,
            None => Found::Nothing,
        };
        Some((found, HEADER_BYTES + above))
    }
}

/// The labels of `name` in front of `domain`.
fn in_domain<'n>(name: &'n Hostname, domain: &Hostname) -> Option<&'n str> {
    name.as_str().strip_suffix(domain.as_str())?.strip_suffix('.')
}

/// Does a label begin at `at`, or the root?
fn begins_label(name: &[u8], at: usize) -> bool {
    let mut begin = 0;
    while begin < at {
        begin += 1 + usize::from(name[begin]);
    }
    begin == at
}

#[cfg(test)]
mod tests;
