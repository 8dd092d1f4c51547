//! The mesh view on the wire: a resource type of our own, served by delta xDS beside Envoy's types.
//! Keeps: what is decoded is a valid [`MeshView`]; one view has one encoding. Called by cp::xds and agent::feed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use prost::Message;

use crate::model::name::{Hostname, NameError};
use crate::model::view::{Addresses, MeshView, Port, Route, ViewError};
use crate::wire::resource::Resource;

/// `kuma_dns.v1.MeshView`
#[derive(Clone, PartialEq, Message)]
struct WireView {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(uint32, tag = "3")]
    ttl_secs: u32,
    #[prost(message, repeated, tag = "4")]
    ranges: Vec<WireRange>,
    #[prost(message, repeated, tag = "5")]
    routes: Vec<WireRoute>,
    #[prost(message, repeated, tag = "6")]
    hostnames: Vec<WireHostname>,
}

/// A network: 4 or 16 bytes of address, and how many of its bits count.
#[derive(Clone, PartialEq, Message)]
struct WireRange {
    #[prost(bytes = "vec", tag = "1")]
    address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    prefix_bits: u32,
}

#[derive(Clone, PartialEq, Message)]
struct WireRoute {
    #[prost(bytes = "vec", tag = "1")]
    vip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    port: u32,
}

/// A name and its addresses; an absent address is empty.
#[derive(Clone, PartialEq, Message)]
struct WireHostname {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    v4: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    v6: Vec<u8>,
}

/// Why bytes are no view.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the bytes are no kuma_dns.v1.MeshView")]
    Malformed(#[from] prost::DecodeError),
    #[error("a hostname of the view is not valid")]
    Name(#[from] NameError),
    #[error("an address has {0} bytes, IPv4 has 4 and IPv6 has 16")]
    Address(usize),
    #[error("a range has {0} prefix bits")]
    Prefix(u32),
    #[error("port {0} is not from 1 to 65535")]
    Port(u32),
    #[error("the view contradicts itself")]
    View(#[from] ViewError),
}

/// The view as a resource; its name is the view's.
pub fn encode(view: &MeshView) -> Resource {
    let ranges = view.ranges.iter();
    let wire = WireView {
        name: view.name().into(),
        domain: view.domain.as_str().into(),
        ttl_secs: view.ttl_secs,
        ranges: ranges
            .map(|r| WireRange { address: octets(r.ip()), prefix_bits: r.prefix().into() })
            .collect(),
        routes: view
            .routes
            .iter()
            .map(|r| WireRoute { vip: octets(r.vip), port: r.port.get().into() })
            .collect(),
        hostnames: view.names().iter().map(|(name, addresses)| wire_hostname(name, *addresses)).collect(),
    };
    Resource::encode(view.name(), &wire)
}

/// The view that `body` holds.
///
/// # Errors
/// Bytes of another type or of a view that breaks the model's rules.
pub fn decode(body: &[u8]) -> Result<MeshView, DecodeError> {
    let wire = WireView::decode(body)?;
    let mut base = MeshView::empty(&wire.name, Hostname::parse(&wire.domain)?);
    base.ttl_secs = wire.ttl_secs;
    base.ranges = wire.ranges.iter().map(range).collect::<Result<_, _>>()?;
    let routes = wire.routes.iter().map(route).collect::<Result<BTreeSet<_>, _>>()?;
    let names = wire.hostnames.iter().map(hostname).collect::<Result<BTreeMap<_, _>, _>>()?;
    Ok(MeshView::with(base, routes, names)?)
}

fn wire_hostname(name: &Hostname, addresses: Addresses) -> WireHostname {
    let v4 = addresses.v4.map_or(Vec::new(), |v4| v4.octets().into());
    let v6 = addresses.v6.map_or(Vec::new(), |v6| v6.octets().into());
    WireHostname { name: name.as_str().into(), v4, v6 }
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

fn route(wire: &WireRoute) -> Result<Route, DecodeError> {
    let port = u16::try_from(wire.port).ok().filter(|&port| port != 0).ok_or(DecodeError::Port(wire.port))?;
    Ok(Route { vip: ip(&wire.vip)?, port: Port::new(port) })
}

fn hostname(wire: &WireHostname) -> Result<(Hostname, Addresses), DecodeError> {
    let v4 = if wire.v4.is_empty() { None } else { Some(v4(&wire.v4)?) };
    let v6 = if wire.v6.is_empty() { None } else { Some(v6(&wire.v6)?) };
    Ok((Hostname::parse(&wire.name)?, Addresses { v4, v6 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> MeshView {
        let mut base = MeshView::empty("default", Hostname::parse("mesh").unwrap());
        base.ttl_secs = 30;
        base.ranges = vec!["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
        let (v4, v6) = ("240.0.0.1".parse().unwrap(), "fd00:fd00::1".parse().unwrap());
        let addresses = Addresses { v4: Some(v4), v6: Some(v6) };
        let routes = addresses.iter().map(|vip| Route { vip, port: Port::new(80) }).collect();
        let only_v4 = Addresses { v4: Some(v4), v6: None };
        let names = [("redis.mesh", addresses), ("redis.v4.mesh", only_v4)];
        let names = names.map(|(name, addresses)| (Hostname::parse(name).unwrap(), addresses)).into();
        MeshView::with(base, routes, names).unwrap()
    }

    #[test]
    fn a_view_survives_the_wire() {
        let resource = encode(&view());
        assert_eq!(resource.name, "default");
        assert_eq!(decode(&resource.body).unwrap(), view());
    }

    #[test]
    fn a_view_that_breaks_a_rule_is_refused_in_words() {
        let whole = WireView::decode(encode(&view()).body).unwrap();
        let broken = |change: fn(&mut WireView)| {
            let mut wire = whole.clone();
            change(&mut wire);
            decode(&wire.encode_to_vec()).unwrap_err().to_string()
        };
        assert!(broken(|w| w.routes[0].port = 0).contains("port 0"));
        assert!(broken(|w| w.routes[0].vip.truncate(3)).contains("has 3 bytes"));
        assert!(broken(|w| w.ranges[0].prefix_bits = 33).contains("33 prefix bits"));
        assert!(broken(|w| w.routes.clear()).contains("contradicts"));
        assert!(broken(|w| w.domain.clear()).contains("hostname"));
        assert!(matches!(decode(b"\xff\xff"), Err(DecodeError::Malformed(_))));
    }
}
