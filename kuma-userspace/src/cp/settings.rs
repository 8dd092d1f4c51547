//! The settings of a resource file: `dnsServer` (domain, VIP pools, times), `ipam` (pools of the newer kinds), `multizone`
//! (our zone's name). Kuma's keys, and `CIDR6`, `ttl`, `rest`, `outbounds` and `cidr6` of ours.
//! Keeps: a [`Settings`] is consistent: pools are usable and apart, an address rests at least two TTLs.
//! Called by cp::resources.

mod ipam;
mod pools;

use ipnetwork::IpNetwork;

pub(super) use self::ipam::{IpamDraft, read_ipam, read_multizone};
pub use self::pools::{AllPools, Pools, Source, usable_v4};

use super::dns;
use super::violation::{FieldPath, Object, Place, Reader};
use super::yaml::{Node, Value};
use crate::model::name::Hostname;
use crate::model::outbounds::{Outbounds, UnknownOutbounds};
use crate::model::view::Port;

/// Kuma's default pool.
const DEFAULT_CIDR: &str = "240.0.0.0/4";
/// The pool that Kuma's documents use for IPv6.
const DEFAULT_CIDR6: &str = "fd00:fd00::/64";
/// Kuma's default domain.
const DEFAULT_DOMAIN: &str = "mesh";
/// TTL of an answer unless the file says another one.
const DEFAULT_TTL_SECS: u32 = 60;
/// Longest TTL: a day. A removed service is remembered by clients for so long.
const MAX_TTL_SECS: u32 = 86_400;
/// Longest rest: 30 days.
const MAX_REST_SECS: u64 = 30 * 86_400;
/// Kuma's default of `serviceVipPort`.
const DEFAULT_SERVICE_VIP_PORT: u16 = 80;
/// A freed VIP rests at least this many TTLs: one for answers given before, one for clients that hold on to them.
const TTLS_OF_REST: u64 = 2;

/// Kuma's default zone.
const DEFAULT_ZONE: &str = "default";

const FIELDS: [&str; 8] =
    ["domain", "CIDR", "CIDR6", "ttl", "rest", "serviceVipEnabled", "serviceVipPort", "outbounds"];

/// Everything about names and VIPs that is not a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub dns_server: dns::Listen,
    pub domain: Hostname,
    /// Of services, ExternalServices and VirtualOutbounds.
    pub pools: Pools,
    pub ipam: Ipam,
    pub ttl_secs: u32,
    pub rest_secs: u64,
    /// Has every service a VIP, or only what VirtualOutbounds make up?
    pub service_vip_enabled: bool,
    pub service_vip_port: Port,
    pub outbounds: Outbounds,
    /// Our own zone.
    pub zone: String,
}

/// The pools of the kinds whose addresses stand in their `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipam {
    pub mesh_service: Pools,
    pub mesh_external_service: Pools,
    pub mesh_multi_zone_service: Pools,
}

impl Settings {
    /// Every pool.
    pub fn all_pools(&self) -> AllPools {
        let Ipam { mesh_service, mesh_external_service, mesh_multi_zone_service } = self.ipam;
        AllPools { dns: self.pools, mesh_service, mesh_external_service, mesh_multi_zone_service }
    }
}

/// Where the pools stand in the files, for mistakes that show only when everything is read.
#[derive(Debug, Default)]
pub(super) struct PoolPlaces {
    v4: Option<Place>,
    v6: Option<Place>,
}

impl PoolPlaces {
    /// Where the pool with the least room stands; a default pool has no place, and room for every file.
    pub(super) fn smallest(self, pools: Pools) -> Option<Place> {
        let only = |v4, v6| Pools { v4, v6 }.room();
        let by_v4 = pools.v4.is_some_and(|_| only(pools.v4, None) == pools.room());
        if by_v4 { self.v4.or(self.v6) } else { self.v6.or(self.v4) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dns_server: dns::Listen::default(),
            domain: Hostname::parse(DEFAULT_DOMAIN).expect("`mesh` is a name"),
            pools: Pools {
                v4: Some(DEFAULT_CIDR.parse().expect("Kuma's own default is a network")),
                v6: Some(DEFAULT_CIDR6.parse().expect("the documented network is one")),
            },
            ipam: Ipam::default(),
            ttl_secs: DEFAULT_TTL_SECS,
            rest_secs: TTLS_OF_REST * u64::from(DEFAULT_TTL_SECS),
            service_vip_enabled: true,
            service_vip_port: Port::new(DEFAULT_SERVICE_VIP_PORT),
            outbounds: Outbounds::default(),
            zone: DEFAULT_ZONE.into(),
        }
    }
}

/// Reads `dnsServer`; what is wrong goes to the reader, and defaults stand in for it.
pub(super) fn read(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> (Settings, PoolPlaces) {
    let mut settings = Settings::default();
    let mut places = PoolPlaces::default();
    let known = [&FIELDS[..], &dns::FIELDS].concat();
    let Some(object) = reader.object(node, path, &known) else { return (settings, places) };
    settings.dns_server = dns::read(reader, &object, path);
    if let Some(node) = object.get("domain") {
        settings.domain = domain(reader, node, &path.field("domain")).unwrap_or(settings.domain);
    }
    settings.pools =
        pools(reader, &object, path, ["CIDR", "CIDR6"], settings.pools).unwrap_or(settings.pools);
    places.v4 = object.get("CIDR").map(|node| reader.place(node.line, &path.field("CIDR")));
    places.v6 = object.get("CIDR6").map(|node| reader.place(node.line, &path.field("CIDR6")));
    if let Some(node) = object.get("ttl") {
        let ttl = seconds(reader, node, &path.field("ttl"), u64::from(MAX_TTL_SECS));
        settings.ttl_secs = ttl.and_then(|ttl| u32::try_from(ttl).ok()).unwrap_or(settings.ttl_secs);
    }
    let least = TTLS_OF_REST * u64::from(settings.ttl_secs);
    settings.rest_secs = match object.get("rest") {
        Some(node) => rest(reader, node, &path.field("rest"), least).unwrap_or(least),
        None => least,
    };
    if let Some(node) = object.get("serviceVipEnabled") {
        let enabled = reader.boolean(node, &path.field("serviceVipEnabled"));
        settings.service_vip_enabled = enabled.unwrap_or(settings.service_vip_enabled);
    }
    if let Some(node) = object.get("serviceVipPort") {
        let port = vip_port(reader, node, &path.field("serviceVipPort"));
        settings.service_vip_port = port.unwrap_or(settings.service_vip_port);
    }
    if let Some(node) = object.get("outbounds") {
        settings.outbounds = outbounds(reader, node, &path.field("outbounds")).unwrap_or(settings.outbounds);
    }
    (settings, places)
}

fn vip_port(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<Port> {
    if matches!(&node.value, Value::Number(number) if number == "0") {
        reader.report(node.line, path, "port can't be 0: use a whole number from 1 to 65535");
        return None;
    }
    let port = reader.integer(node, path, 1, u64::from(u16::MAX))?;
    u16::try_from(port).ok().map(Port::new)
}

fn outbounds(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<Outbounds> {
    let text = reader.text(node, path)?;
    text.parse().map_err(|error: UnknownOutbounds| reader.report(node.line, path, error.to_string())).ok()
}

fn domain(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<Hostname> {
    let text = reader.text(node, path)?;
    if let Some(rest) = text.strip_prefix('.') {
        reader.report(node.line, path, format!("domain {text:?} must not start with a dot: write {rest:?}"));
        return None;
    }
    Hostname::parse(text).map_err(|error| reader.report(node.line, path, error.to_string())).ok()
}

/// `CIDR` of either family, as in Kuma, and `CIDR6` beside it; `CIDR6: ""` switches IPv6 off.
fn pools(
    reader: &mut Reader<'_>,
    object: &Object<'_>,
    path: &FieldPath<'_>,
    [key, key6]: [&str; 2],
    default: Pools,
) -> Option<Pools> {
    let (path4, path6) = (path.field(key), path.field(key6));
    let first = match object.get(key) {
        Some(node) => network(reader, node, &path4)?,
        None => IpNetwork::V4(default.v4.expect("every default has both families")),
    };
    let given = object.get(key6);
    let off = given.is_some_and(|node| matches!(&node.value, Value::Text(text) if text.is_empty()));
    match (first, given) {
        (IpNetwork::V4(v4), _) if off => Some(Pools { v4: Some(v4), v6: None }),
        (IpNetwork::V4(v4), None) => Some(Pools { v4: Some(v4), v6: default.v6 }),
        (IpNetwork::V6(v6), None) => Some(Pools { v4: None, v6: Some(v6) }),
        (IpNetwork::V6(v6), _) if off => Some(Pools { v4: None, v6: Some(v6) }),
        (IpNetwork::V4(v4), Some(node)) => match network(reader, node, &path6)? {
            IpNetwork::V6(v6) => Some(Pools { v4: Some(v4), v6: Some(v6) }),
            IpNetwork::V4(other) if other.overlaps(v4) => {
                let problem =
                    format!("{other} overlaps {path4} {v4}: write an IPv6 network such as {DEFAULT_CIDR6}");
                reader.report(node.line, &path6, problem);
                None
            }
            IpNetwork::V4(other) => {
                let problem =
                    format!("{other} is an IPv4 network: write an IPv6 one such as {DEFAULT_CIDR6}");
                reader.report(node.line, &path6, problem);
                None
            }
        },
        (IpNetwork::V6(first), Some(node)) => {
            let other = network(reader, node, &path6)?;
            let clash = match other {
                IpNetwork::V6(other) if other.overlaps(first) => "overlaps",
                _ => "stands beside",
            };
            let problem =
                format!("{other} {clash} {path4} {first}, which is IPv6 already: leave one of the two out");
            reader.report(node.line, &path6, problem);
            None
        }
    }
}

/// A network whose addresses can be VIPs. Host bits are masked off, as in Kuma.
fn network(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<IpNetwork> {
    let text = reader.text(node, path)?;
    let parsed = text.contains('/').then(|| text.parse::<IpNetwork>().ok()).flatten();
    let Some(parsed) = parsed else {
        reader.report(
            node.line,
            path,
            format!(
                "{text:?} is no CIDR, CIDR must be valid: write it like {DEFAULT_CIDR} or {DEFAULT_CIDR6}"
            ),
        );
        return None;
    };
    let network = IpNetwork::new(parsed.network(), parsed.prefix()).expect("the prefix was accepted before");
    if let Some((taken, why)) = RESERVED.iter().find(|(taken, _)| overlap(network, taken)) {
        let problem =
            format!("{network} overlaps {taken}, {why}: use a network of your own such as {DEFAULT_CIDR}");
        reader.report(node.line, path, problem);
        return None;
    }
    Some(network)
}

/// Networks that can never hold VIPs.
const RESERVED: [(&str, &str); 7] = [
    ("0.0.0.0/8", "which means this host"),
    ("127.0.0.0/8", "the loopback network"),
    ("224.0.0.0/4", "the multicast network"),
    ("::/128", "the unspecified address"),
    ("::1/128", "the loopback address"),
    ("::ffff:0:0/96", "the IPv4-mapped network"),
    ("ff00::/8", "the multicast network"),
];

fn overlap(network: IpNetwork, other: &str) -> bool {
    match (network, other.parse().expect("the table holds networks")) {
        (IpNetwork::V4(a), IpNetwork::V4(b)) => a.overlaps(b),
        (IpNetwork::V6(a), IpNetwork::V6(b)) => a.overlaps(b),
        _ => false,
    }
}

fn rest(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>, least: u64) -> Option<u64> {
    let rest = seconds(reader, node, path, MAX_REST_SECS)?;
    if rest >= least {
        return Some(rest);
    }
    let problem = format!("{rest} s is less than two TTLs: use at least {least} s, or a shorter ttl");
    reader.report(node.line, path, problem);
    None
}

/// Seconds as a number, or with a unit as Kuma writes durations: `90`, `90s`, `5m`, `1h30m`.
fn seconds(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>, max: u64) -> Option<u64> {
    let parsed = match &node.value {
        Value::Number(text) => text.parse().ok(),
        Value::Text(text) => duration_secs(text),
        _ => None,
    };
    match parsed {
        Some(secs) if (1..=max).contains(&secs) => Some(secs),
        _ => {
            let found = node.value.describe();
            let problem =
                format!("{found} is not allowed: use whole seconds from 1 to {max}, like 60, 60s or 1m");
            reader.report(node.line, path, problem);
            None
        }
    }
}

fn duration_secs(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let factor = match rest[digits..].chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then_some(total)
}
