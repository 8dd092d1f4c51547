//! Mesh names as an immutable table, and the answers it gives. Pure: a query in, octets out.
//! Keeps: no allocation, no lock and no clock per query; the zone after a change of few names costs little, however many
//! there are. Swapped whole; called by udp and tcp.
//!
//! For the resolver: a name that is not in the table is not ours, even under the mesh domain: the nameservers of the host
//! may know it (Kuma's behaviour). A name that is in the table shadows the outside one for every type.
//! For the control plane's server: the whole domain is ours, its unknown names do not exist, and all else is refused.

use super::answer::{self, Answered, Found, ROOM_BYTES, Records, Role};
use super::question::{self, CLASS_IN, Fault, HEADER_BYTES, MAX_NAME_BYTES, Question, rcode};
use super::table::{Change, Changes, Names, wire_name};
use crate::model::name::Hostname;
use crate::model::view::{Addresses, MeshView};

/// How long an authority's "no such name" holds at most, in seconds: a service that is added must not be missed for long.
const NEGATIVE_TTL_SECS: u32 = 5;

/// Names and their addresses, looked up by the lower-cased name as it stands on the wire.
#[derive(Clone)]
pub struct Zone {
    names: Names,
    ttl_secs: u32,
    apex: Option<Apex>,
}

/// The domain of which everything is ours to answer.
#[derive(Clone)]
struct Apex {
    domain: Hostname,
    /// As it stands on the wire.
    name: Box<[u8]>,
    /// The server's own name, `ns` under the domain, and what it resolves to unless a service has that name.
    server: (Option<Hostname>, Addresses),
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
    /// The resolver's zone of no names yet.
    pub fn resolver(ttl_secs: u32) -> Self {
        Self { names: Names::default(), ttl_secs, apex: None }
    }

    /// The resolver's zone: the table of a view's names.
    pub fn new(view: &MeshView) -> Self {
        Self::resolver(view.header().ttl_secs)
            .with(view.names().iter().map(|(name, &addresses)| (name, addresses)))
    }

    /// The authority's zone of no names yet: everything in `domain`, and nothing else is answered but REFUSED. `server` is
    /// what `ns` under the domain resolves to, unless that is a name.
    pub fn authority(domain: &Hostname, ttl_secs: u32, server: Addresses) -> Self {
        let (name, own) = (wire_name(domain.as_str()).into(), Hostname::parse(&format!("ns.{domain}")).ok());
        let apex = Apex { domain: domain.clone(), name, server: (own.clone(), server) };
        let zone = Self { names: Names::default(), ttl_secs, apex: Some(apex) };
        zone.with(own.iter().map(|name| (name, Addresses::default())))
    }

    /// This zone with other addresses for these names, each given once; one without addresses is gone. An authority leaves
    /// names outside of its domain out.
    pub fn with<'n>(&self, changed: impl IntoIterator<Item = (&'n Hostname, Addresses)>) -> Self {
        let mut changes = Changes::default();
        for (name, addresses) in changed {
            match &self.apex {
                None => changes.add(name.as_str(), Change::Addresses(addresses)),
                Some(apex) => self.change_in_domain(apex, name, addresses, &mut changes),
            }
        }
        Self { names: self.names.with(&changes), ..self.clone() }
    }

    /// How long its answers hold.
    pub fn ttl_secs(&self) -> u32 {
        self.ttl_secs
    }

    /// This zone with another TTL.
    pub fn with_ttl(&self, ttl_secs: u32) -> Self {
        Self { ttl_secs, ..self.clone() }
    }

    /// A name that only has names below it exists all the same (RFC 8020): who asked for it must not believe that there is
    /// nothing below. So names are counted at those above them.
    fn change_in_domain(&self, apex: &Apex, name: &Hostname, mut to: Addresses, changes: &mut Changes) {
        let Some(labels) = in_domain(name, &apex.domain) else { return };
        if to == Addresses::default() && apex.server.0.as_ref() == Some(name) {
            to = apex.server.1;
        }
        changes.add(name.as_str(), Change::Addresses(to));
        let more = i32::from(to != Addresses::default()) - i32::from(self.addresses(name).is_some());
        if more != 0 {
            for (at, _) in labels.match_indices('.') {
                changes.add(&name.as_str()[at + 1..], Change::Below(more));
            }
        }
    }

    /// How many names it answers.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Does it answer no name at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a name resolves to.
    pub fn addresses(&self, name: &Hostname) -> Option<Addresses> {
        let record = self.names.find(&wire_name(name.as_str()))?;
        (record.addresses != Addresses::default()).then_some(record.addresses)
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
        let addresses = self.names.find(name).map(|record| record.addresses);
        let Some(Apex { name: apex, .. }) = &self.apex else {
            return Some((Found::Name(addresses?), HEADER_BYTES));
        };
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
