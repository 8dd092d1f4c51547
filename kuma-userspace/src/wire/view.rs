//! The mesh view on the wire: a resource type of our own, served by delta xDS beside Envoy's types. The resource that has
//! the view's name is its header, `VIEW/KEY` is a part. Keeps: what is decoded is valid; one header or part has one
//! encoding. Called by cp::xds, agent::feed and the agent's memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use prost::{Message, Oneof};

use crate::model::name::{Hostname, NameError};
use crate::model::view::{Addresses, Header, Part, PartError, Port, Route};

/// `kuma_dns.v1.MeshView`
#[derive(Clone, PartialEq, Message)]
struct WireView {
    // 1 to 6 held a whole view once: who expects one must not take a header for it.
    #[prost(oneof = "Piece", tags = "7, 8")]
    piece: Option<Piece>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Piece {
    #[prost(message, tag = "7")]
    Header(WireHeader),
    #[prost(message, tag = "8")]
    Part(WirePart),
}

#[derive(Clone, PartialEq, Message)]
struct WireHeader {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(uint32, tag = "2")]
    ttl_secs: u32,
    #[prost(message, repeated, tag = "3")]
    ranges: Vec<WireRange>,
}

/// A network: 4 or 16 bytes of address, and how many of its bits count.
#[derive(Clone, PartialEq, Message)]
struct WireRange {
    #[prost(bytes = "vec", tag = "1")]
    address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    prefix_bits: u32,
}

/// An absent address is empty.
#[derive(Clone, PartialEq, Message)]
struct WirePart {
    #[prost(string, repeated, tag = "1")]
    hostnames: Vec<String>,
    #[prost(bytes = "vec", tag = "2")]
    v4: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    v6: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    routes: Vec<WireRoutes>,
}

/// The routes to one VIP.
#[derive(Clone, PartialEq, Message)]
struct WireRoutes {
    #[prost(bytes = "vec", tag = "1")]
    vip: Vec<u8>,
    #[prost(uint32, repeated, tag = "2")]
    ports: Vec<u32>,
}

/// Why bytes are no view.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the bytes are no kuma_dns.v1.MeshView")]
    Malformed(#[from] prost::DecodeError),
    #[error("neither a header nor a part: agent and control plane are of different releases, update both")]
    Nothing,
    #[error("a header or part under the name of the other")]
    Misnamed,
    #[error("{name:?} is no resource of view {view:?}")]
    Foreign { view: String, name: String },
    #[error("a hostname is not valid")]
    Name(#[from] NameError),
    #[error("an address has {0} bytes, IPv4 has 4 and IPv6 has 16")]
    Address(usize),
    #[error("a range has {0} prefix bits")]
    Prefix(u32),
    #[error("port {0} is not from 1 to 65535")]
    Port(u32),
    #[error("the part contradicts itself")]
    Part(#[from] PartError),
}

/// A resource of a view, as it is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named<'a> {
    Header,
    Part(&'a str),
}

impl<'a> Named<'a> {
    /// What the resource `name` of `view` is.
    ///
    /// # Errors
    /// It is none of that view.
    pub fn read(view: &str, name: &'a str) -> Result<Self, DecodeError> {
        match name.strip_prefix(view) {
            Some("") => Ok(Self::Header),
            Some(rest) if rest.starts_with('/') => Ok(Self::Part(&rest[1..])),
            _ => Err(DecodeError::Foreign { view: view.into(), name: name.into() }),
        }
    }
}

/// The name of a part's resource.
pub fn part_name(view: &str, key: &str) -> String {
    format!("{view}/{key}")
}

/// How an agent says that the resource `name` is at fault, so that the others can be sent again without it.
pub fn refusal(name: &str, reason: &str) -> String {
    format!("resource {name}: {reason}")
}

/// Which of `names` a refusal is about; `None`: about the view as a whole.
pub fn blamed<'a>(refusal: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let said = refusal.strip_prefix("resource ")?;
    names
        .filter(|name| said.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")))
        .max_by_key(|name| name.len())
}

/// The body of the header's resource.
pub fn encode_header(header: &Header) -> Vec<u8> {
    WireView { piece: Some(Piece::Header(header.into())) }.encode_to_vec()
}

/// The body of a part's resource.
pub fn encode_part(part: &Part) -> Vec<u8> {
    WireView { piece: Some(Piece::Part(part.into())) }.encode_to_vec()
}

/// What a resource of a view holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    Header(Header),
    Part(Part),
}

/// What the resource `named` of a view holds.
///
/// # Errors
/// Bytes of another type, or of a header or part that breaks the model's rules.
pub fn decode(named: Named<'_>, body: &[u8]) -> Result<Decoded, DecodeError> {
    match (named, WireView::decode(body)?.piece.ok_or(DecodeError::Nothing)?) {
        (Named::Header, Piece::Header(header)) => Ok(Decoded::Header(header.try_into()?)),
        (Named::Part(_), Piece::Part(part)) => Ok(Decoded::Part(part.try_into()?)),
        _ => Err(DecodeError::Misnamed),
    }
}

impl From<&Header> for WireHeader {
    fn from(header: &Header) -> Self {
        let range =
            |range: &IpNetwork| WireRange { address: octets(range.ip()), prefix_bits: range.prefix().into() };
        let ranges = header.ranges.iter().map(range).collect();
        Self { domain: header.domain.as_str().into(), ttl_secs: header.ttl_secs, ranges }
    }
}

impl TryFrom<WireHeader> for Header {
    type Error = DecodeError;

    fn try_from(wire: WireHeader) -> Result<Self, DecodeError> {
        let ranges = wire.ranges.iter().map(range).collect::<Result<_, _>>()?;
        Ok(Self { domain: Hostname::parse(&wire.domain)?, ttl_secs: wire.ttl_secs, ranges })
    }
}

impl From<&Part> for WirePart {
    fn from(part: &Part) -> Self {
        let Addresses { v4, v6 } = part.addresses();
        let of_one_vip = part.routes().chunk_by(|one, other| one.vip == other.vip);
        let routes = of_one_vip.map(|routes| WireRoutes {
            vip: octets(routes[0].vip),
            ports: routes.iter().map(|route| route.port.get().into()).collect(),
        });
        Self {
            hostnames: part.hostnames().iter().map(|name| name.as_str().into()).collect(),
            v4: v4.map_or(Vec::new(), |v4| v4.octets().into()),
            v6: v6.map_or(Vec::new(), |v6| v6.octets().into()),
            routes: routes.collect(),
        }
    }
}

impl TryFrom<WirePart> for Part {
    type Error = DecodeError;

    fn try_from(wire: WirePart) -> Result<Self, DecodeError> {
        let hostnames = wire.hostnames.iter().map(|name| Hostname::parse(name)).collect::<Result<_, _>>()?;
        let v4 = if wire.v4.is_empty() { None } else { Some(v4(&wire.v4)?) };
        let v6 = if wire.v6.is_empty() { None } else { Some(v6(&wire.v6)?) };
        let mut routes = Vec::new();
        for WireRoutes { vip, ports } in &wire.routes {
            let vip = ip(vip)?;
            for &port in ports {
                routes.push(Route { vip, port: self::port(port)? });
            }
        }
        Ok(Self::new(hostnames, Addresses { v4, v6 }, routes)?)
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn v4(bytes: &[u8]) -> Result<Ipv4Addr, DecodeError> {
    <[u8; 4]>::try_from(bytes).map(Ipv4Addr::from).map_err(|_wrong_length| DecodeError::Address(bytes.len()))
}

fn v6(bytes: &[u8]) -> Result<Ipv6Addr, DecodeError> {
    <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).map_err(|_wrong_length| DecodeError::Address(bytes.len()))
}

fn ip(bytes: &[u8]) -> Result<IpAddr, DecodeError> {
    if bytes.len() == 4 { v4(bytes).map(IpAddr::V4) } else { v6(bytes).map(IpAddr::V6) }
}

fn range(wire: &WireRange) -> Result<IpNetwork, DecodeError> {
    let bad = |_| DecodeError::Prefix(wire.prefix_bits);
    let prefix = u8::try_from(wire.prefix_bits).map_err(bad)?;
    IpNetwork::new(ip(&wire.address)?, prefix).map_err(|_too_long| DecodeError::Prefix(wire.prefix_bits))
}

fn port(wire: u32) -> Result<Port, DecodeError> {
    let port = u16::try_from(wire).ok().filter(|&port| port != 0).ok_or(DecodeError::Port(wire))?;
    Ok(Port::new(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::{Changes, MeshView};

    fn view() -> MeshView {
        let ranges = vec!["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
        let header = Header { domain: Hostname::parse("mesh").unwrap(), ttl_secs: 30, ranges };
        let (v4, v6) = ("240.0.0.1".parse().unwrap(), "fd00:fd00::1".parse().unwrap());
        let names = || vec![Hostname::parse("redis.mesh").unwrap()];
        let both = Addresses { v4: Some(v4), v6: Some(v6) };
        let routes = |vips: Addresses| {
            let ports = [80, 6379].map(Port::new);
            vips.iter().flat_map(|vip| ports.map(|port| Route { vip, port })).collect::<Vec<_>>()
        };
        let only_v4 = Addresses { v4: Some("240.0.0.2".parse().unwrap()), v6: None };
        let parts = [
            ("redis", Part::new(names(), both, routes(both)).unwrap()),
            ("host:a/b", Part::new(Vec::new(), only_v4, routes(only_v4)).unwrap()),
        ];
        MeshView::new("default", header).with(Changes::adding(parts)).unwrap()
    }

    #[test]
    fn a_view_survives_the_wire() {
        let view = view();
        let header = decode(Named::Header, &encode_header(view.header())).unwrap();
        assert_eq!(header, Decoded::Header((**view.header()).clone()));
        for (key, part) in view.parts() {
            let name = part_name("default", key);
            let named = Named::read("default", &name).unwrap();
            assert_eq!(named, Named::Part(key));
            assert_eq!(decode(named, &encode_part(part)).unwrap(), Decoded::Part((**part).clone()));
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused_in_words() {
        let view = view();
        let words = |named, body: &[u8]| decode(named, body).unwrap_err().to_string();
        let broken = |change: fn(&mut WirePart)| {
            let mut part: WirePart = (&*view.parts()["redis"]).into();
            change(&mut part);
            words(Named::Part("redis"), &WireView { piece: Some(Piece::Part(part)) }.encode_to_vec())
        };
        assert!(broken(|part| part.routes[0].ports[0] = 0).contains("port 0"));
        assert!(broken(|part| part.routes[0].vip.truncate(3)).contains("has 3 bytes"));
        assert!(broken(|part| part.routes.clear()).contains("contradicts"));
        assert!(broken(|part| part.hostnames[0].clear()).contains("hostname"));
        let mut header = WireHeader::from(&**view.header());
        header.ranges[0].prefix_bits = 33;
        let header = WireView { piece: Some(Piece::Header(header)) }.encode_to_vec();
        assert!(words(Named::Header, &header).contains("33 prefix bits"));
        assert!(words(Named::Part("redis"), &header).contains("name of the other"));
        assert!(words(Named::Header, b"\xff\xff").contains("no kuma_dns.v1.MeshView"));
        // Field 2 was the domain of a whole view.
        assert!(words(Named::Header, b"\x12\x04mesh").contains("different releases"));
        assert!(Named::read("default", "defaults/redis").is_err());
    }

    #[test]
    fn a_refusal_is_about_the_part_that_it_begins_with_or_about_the_whole_view() {
        let names = ["default", "default/a", "default/a: b"];
        for (text, want) in [
            (refusal("default/a", "no"), Some("default/a")),
            (refusal("default/a: b", "no"), Some("default/a: b")),
            (refusal("default", "no"), Some("default")),
            ("map VIPS of default/a: is full".into(), None),
        ] {
            assert_eq!(blamed(&text, names.into_iter()), want, "{text}");
        }
    }
}
