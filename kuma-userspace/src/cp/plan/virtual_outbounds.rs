//! Names and ports that VirtualOutbounds make up from tags. Keeps: of several that want one port of one host, the one whose
//! best selector has the most tags (then the most exact ones) has it, then the newest, then the first by name.
//! Called by plan.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::Backend;
use super::claims::{Claim, Claims};
use super::drawing::{Instance, Share};
use super::token::{self, Token};
use crate::cp::template::Parsed;
use crate::model::kind::{Inbound, PROTOCOL_TAG, SERVICE_TAG, Tags, VirtualOutbound};
use crate::model::name::Hostname;
use crate::model::resource::{Endpoint, Kind, Protocol, Service};
use crate::model::view::Port;

/// Matches every value.
const ANY: &str = "*";

/// A claim before it is known who wins; the least wins.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Bid<'r> {
    rank: Reverse<(usize, usize)>,
    created_secs: Reverse<i64>,
    name: &'r str,
    tags: Tags,
}

/// A VirtualOutbound, ready to be used.
pub(super) struct Outbound {
    name: Arc<str>,
    created_secs: i64,
    selectors: Box<[Tags]>,
    parameters: Tags,
    /// Host and port; nothing if they are no templates.
    templates: Option<(Parsed, Parsed)>,
}

impl Outbound {
    pub(super) fn new(outbound: &VirtualOutbound) -> Self {
        Self {
            name: outbound.meta.name.clone(),
            created_secs: outbound.meta.created_secs,
            selectors: outbound.selectors.clone(),
            parameters: outbound.parameters.clone(),
            templates: Parsed::new(&outbound.host).ok().zip(Parsed::new(&outbound.port).ok()),
        }
    }

    /// Of these tags those that it can tell apart, and the rank of the best selector that finds them.
    fn find(&self, tags: &Tags) -> Option<(Tags, (usize, usize))> {
        let fits = |selector: &&Tags| {
            let fits = |(key, value)| tags.get(key).is_some_and(|found| value == ANY || value == found);
            selector.iter().all(fits)
        };
        let rank =
            |selector: &Tags| (selector.len(), selector.values().filter(|value| *value != ANY).count());
        let rank = self.selectors.iter().filter(fits).map(rank).max()?;
        Some((self.parameters.values().filter_map(|key| Some((key, tags.get(key)?))).collect(), rank))
    }

    fn render(&self, told: &Tags) -> Option<Result<(Hostname, Port), String>> {
        let (host, port) = self.templates.as_ref()?;
        let values = self.parameters.iter().filter_map(|(name, key)| Some((name, told.get(key)?)));
        Some(render(host, port, &values.collect()))
    }

    /// What of the plan an instance with these tags concerns through this outbound, and the host, if it makes one up.
    pub(super) fn touched(&self, mesh: &str, tags: &Tags) -> Option<(Token, Option<Hostname>)> {
        let (told, _) = self.find(tags)?;
        Some(match self.render(&told)? {
            Ok((host, _)) => (token::of_name(mesh, &host), Some(host)),
            Err(_) => (self.failure(mesh, &told), None),
        })
    }

    fn failure(&self, mesh: &str, told: &Tags) -> Token {
        token::of(mesh, &("VirtualOutbound", &self.name, told))
    }
}

pub(super) fn claim(claims: &mut Claims<'_>, outbounds: &[Outbound], share: &Share<'_>) {
    if outbounds.is_empty() {
        return;
    }
    let instances = Instances::new(share);
    let mut bids: BTreeMap<(Hostname, Port), BTreeSet<Bid<'_>>> = BTreeMap::new();
    for outbound in outbounds {
        let who = format!("VirtualOutbound {}", outbound.name);
        for (tags, rank) in matches(outbound, &instances) {
            match outbound.render(&tags) {
                Some(Ok(place)) => {
                    let created_secs = Reverse(outbound.created_secs);
                    let bid = Bid { rank: Reverse(rank), created_secs, name: &outbound.name, tags };
                    bids.entry(place).or_default().insert(bid);
                }
                Some(Err(message)) => {
                    let failure = outbound.failure(claims.mesh, &tags);
                    claims.condition(failure, &shown(&tags), &who, "TemplateError", message);
                }
                None => {}
            }
        }
    }
    for ((host, port), bids) in bids {
        for bid in bids {
            settle(claims, &instances, &host, port, bid);
        }
    }
}

/// The tags that the outbound can tell apart, and the rank of the best selector that found them.
fn matches(outbound: &Outbound, instances: &Instances<'_>) -> BTreeMap<Tags, (usize, usize)> {
    let mut found = BTreeMap::new();
    for (told, rank) in instances.tags.iter().filter_map(|tags| outbound.find(tags)) {
        let best = found.entry(told).or_insert(rank);
        *best = rank.max(*best);
    }
    found
}

fn render(host: &Parsed, port: &Parsed, values: &Tags) -> Result<(Hostname, Port), String> {
    let host = host.with_parameters(values)?;
    let host = Hostname::parse(&host).map_err(|error| format!("host {host:?}: {error}"))?;
    let port = port.with_parameters(values)?;
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("port {port:?} is no number from 1 to 65535")),
        Ok(port) => Ok((host, Port::new(port))),
    }
}

/// A host that another VIP has as a name gets a further port of that VIP: a name has one address.
fn settle(claims: &mut Claims<'_>, instances: &Instances<'_>, host: &Hostname, port: Port, bid: Bid<'_>) {
    let who: Rc<str> = format!("VirtualOutbound {}", bid.name).into();
    let key = match claims.owner(host) {
        Some(key) => key.clone(),
        None => {
            let key = claims.key(Kind::Fqdn, host.as_str());
            claims.name(host.clone(), &key, &who).expect("nobody has the name");
            key
        }
    };
    let what = shown(&bid.tags).into();
    let cluster = format!("{}:{host}:{}", Kind::Fqdn.word(), port.get());
    let backend = instances.backend(&bid.tags);
    claims.port(&key, Claim { port, who, what, shown: Some(host.clone()), cluster, backend });
}

fn shown(tags: &Tags) -> String {
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// All that tags can find in a mesh.
struct Instances<'r> {
    /// Each set of tags once.
    tags: BTreeSet<Tags>,
    inbounds: BTreeMap<&'r str, Vec<&'r Inbound>>,
    /// Services of the short form: they have no tags beside their name and protocol.
    plain: BTreeMap<&'r str, &'r Service>,
    external: BTreeMap<&'r str, Vec<(&'r Tags, Protocol, &'r Endpoint)>>,
}

impl<'r> Instances<'r> {
    fn new(share: &'r Share<'r>) -> Self {
        let mut found = Self {
            tags: BTreeSet::new(),
            inbounds: BTreeMap::new(),
            plain: BTreeMap::new(),
            external: BTreeMap::new(),
        };
        for Instance { inbound, .. } in &share.inbounds {
            found.tags.insert(inbound.tags.clone());
            found.inbounds.entry(&inbound.service).or_default().push(inbound);
        }
        for (name, service) in &share.services {
            if !found.inbounds.contains_key(name) {
                found.tags.insert(plain_tags(name, service.protocol));
                found.plain.insert(name, service);
            }
        }
        found.tags.extend(share.available.iter().map(|available| available.tags.clone()));
        for external in &share.external_services {
            found.tags.insert(external_tags(&external.service));
            let of = found.external.entry(&external.service).or_default();
            of.push((&external.tags, external.protocol, &external.endpoint));
        }
        found
    }

    /// What has at least these tags.
    fn backend(&self, wanted: &Tags) -> Backend {
        let mut backend = Backend::default();
        let Some(service) = wanted.get(SERVICE_TAG) else { return backend };
        let has = |tags: &Tags| tags.has(wanted);
        let mut first = true;
        for inbound in self.inbounds.get(service).into_iter().flatten().filter(|inbound| has(&inbound.tags)) {
            backend.add(std::mem::take(&mut first), inbound.protocol, inbound.endpoint.map(Endpoint::from));
        }
        if let Some(plain) = self.plain.get(service).filter(|plain| has(&plain_tags(service, plain.protocol)))
        {
            let endpoints = plain.endpoints.iter().copied().map(Endpoint::from);
            backend.add(std::mem::take(&mut first), plain.protocol, endpoints);
        }
        for (tags, protocol, endpoint) in self.external.get(service).into_iter().flatten() {
            if has(tags) {
                backend.add(std::mem::take(&mut first), *protocol, [(*endpoint).clone()]);
            }
        }
        backend
    }
}

/// Kuma matches external services by their service alone.
pub(super) fn external_tags(service: &str) -> Tags {
    [(SERVICE_TAG, service)].into()
}

pub(super) fn plain_tags(service: &str, protocol: Protocol) -> Tags {
    let spoken = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Http => "http",
    };
    [(SERVICE_TAG, service), (PROTOCOL_TAG, spoken)].into()
}
