//! The name of a resource, kept as small as it can be: most are those of a VIP and port, whose text is made when it is sent.
//! Keeps: two names are the same exactly when their texts are. Called by the other files of cp::xds.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::view::{Port, Route};
use crate::wire::envoy;

/// What every name of a VIP and port begins with.
const OUTBOUND: &str = "outbound:";

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Name {
    /// `outbound:240.0.0.1:80`: a listener, or a cluster.
    Vip(Route),
    /// Any other. Of a mesh view: the key of a part, or nothing for the header.
    Text(Arc<str>),
}

impl Name {
    /// Reads the text of a name.
    pub(super) fn of(text: &str) -> Self {
        vip(text).map_or_else(|| Self::Text(text.into()), Self::Vip)
    }
}

/// Other spellings of the same address are other names.
fn vip(text: &str) -> Option<Route> {
    let socket: SocketAddr = text.strip_prefix(OUTBOUND)?.parse().ok()?;
    let route = Route { vip: socket.ip(), port: Port::new(socket.port()) };
    (envoy::outbound_name(route) == text).then_some(route)
}

/// Shares the text.
impl From<&Arc<str>> for Name {
    fn from(text: &Arc<str>) -> Self {
        vip(text).map_or_else(|| Self::Text(text.clone()), Self::Vip)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip(route) => f.write_str(&envoy::outbound_name(*route)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_read_back_as_it_was() {
        for (text, is_vip) in [
            ("outbound:240.0.0.1:80", true),
            ("outbound:[fd00:fd00::1]:6379", true),
            ("outbound:[fd00:fd00:0::1]:80", false),
            ("outbound:240.0.0.1:080", false),
            ("outbound:original-destination:ipv4", false),
            ("outbound:", false),
            ("redis", false),
            ("", false),
        ] {
            let name = Name::of(text);
            assert_eq!(name.to_string(), text);
            assert_eq!(matches!(name, Name::Vip(_)), is_vip, "{text}");
        }
        assert!(size_of::<Name>() <= 24, "there are half a million of them");
    }
}
