//! Names and ports that VirtualOutbounds make up from tags. Keeps: of several that want one port of one host, the one whose
//! best selector has the most tags (then the most exact ones) has it, then the newest, then the first by name.
//! Called by plan.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::claims::{Claim, Claims};
use super::{Backend, Instance, Share};
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

pub(super) fn claim(claims: &mut Claims<'_>, share: &Share<'_>) {
    if share.virtual_outbounds.is_empty() {
        return;
    }
    let instances = Instances::new(share);
    let mut bids: BTreeMap<(Hostname, Port), BTreeSet<Bid<'_>>> = BTreeMap::new();
    for outbound in &share.virtual_outbounds {
        let (Ok(host), Ok(port)) = (Parsed::new(&outbound.host), Parsed::new(&outbound.port)) else {
            continue;
        };
        let who = format!("VirtualOutbound {}", outbound.meta.name);
        for (tags, rank) in matches(outbound, &instances) {
            match render(outbound, &host, &port, &tags) {
                Ok(place) => {
                    let created_secs = Reverse(outbound.meta.created_secs);
                    let bid = Bid { rank: Reverse(rank), created_secs, name: &outbound.meta.name, tags };
                    bids.entry(place).or_default().insert(bid);
                }
                Err(message) => {
                    claims.condition(&shown(&tags), &who, "TemplateError", message);
                }
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
fn matches(outbound: &VirtualOutbound, instances: &Instances<'_>) -> BTreeMap<Tags, (usize, usize)> {
    let mut found = BTreeMap::new();
    for tags in &instances.tags {
        let fits = |selector: &&Tags| {
            let fits = |(key, value)| tags.get(key).is_some_and(|found| value == ANY || value == found);
            selector.iter().all(fits)
        };
        let rank =
            |selector: &Tags| (selector.len(), selector.values().filter(|value| *value != ANY).count());
        let Some(rank) = outbound.selectors.iter().filter(fits).map(rank).max() else { continue };
        let told: Tags = outbound.parameters.values().filter_map(|key| Some((key, tags.get(key)?))).collect();
        let best = found.entry(told).or_insert(rank);
        *best = rank.max(*best);
    }
    found
}

fn render(
    outbound: &VirtualOutbound,
    host: &Parsed,
    port: &Parsed,
    tags: &Tags,
) -> Result<(Hostname, Port), String> {
    let values = outbound.parameters.iter().filter_map(|(name, key)| Some((name, tags.get(key)?)));
    let values: Tags = values.collect();
    let host = host.with_parameters(&values)?;
    let host = Hostname::parse(&host).map_err(|error| format!("host {host:?}: {error}"))?;
    let port = port.with_parameters(&values)?;
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
            // Kuma matches external services by their service alone.
            found.tags.insert(Tags::from([(SERVICE_TAG, &*external.service)]));
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

fn plain_tags(service: &str, protocol: Protocol) -> Tags {
    let spoken = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Http => "http",
    };
    [(SERVICE_TAG, service), (PROTOCOL_TAG, spoken)].into()
}
