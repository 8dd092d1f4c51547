//! Which VIPs and ports have a listener of their own, and which share one. Pure, and a function of the mesh alone, so that
//! every replica decides alike. Called by targets and order.

use serde::Serialize;

use crate::cp::snapshot::Outbounds;
use crate::wire::envoy::Codec;

/// Envoy adds listeners in quadratic time; up to so many it does not show.
const MAX_LISTENERS: usize = 1_000;

/// How the connections to a VIP and port find their service in Envoy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Shape {
    /// By a listener of its own, which leads to the service's cluster.
    Listener,
    /// By a cluster of its own, which the listener that all share finds by the VIP and port.
    Compact,
}

impl Shape {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Listener => Self::Compact,
            Self::Compact => Self::Listener,
        }
    }
}

/// How many VIPs and ports of a view have which shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Spread {
    /// What the operator chose.
    pub setting: Outbounds,
    /// Those with a listener of their own.
    pub listeners: usize,
    /// Those that share one.
    pub compact: usize,
    /// Those of HTTP services among `compact`: they are balanced by connection.
    pub compact_http: usize,
}

impl Spread {
    /// The shapes of a view with so many VIPs and ports of each codec.
    pub(super) fn of(setting: Outbounds, tcp: usize, http: usize) -> Self {
        let many = |count| count > MAX_LISTENERS;
        let tcp_compact = match setting {
            Outbounds::Listeners => false,
            Outbounds::Compact => true,
            Outbounds::Auto => many(tcp + http),
        };
        let compact_http = if tcp_compact && many(http) { http } else { 0 };
        let compact = compact_http + if tcp_compact { tcp } else { 0 };
        Self { setting, listeners: tcp + http - compact, compact, compact_http }
    }

    /// The shape of one of them.
    pub(super) fn shape(&self, codec: Codec) -> Shape {
        let compact = match codec {
            Codec::Tcp => self.compact > self.compact_http,
            Codec::Http => self.compact_http > 0,
        };
        if compact { Shape::Compact } else { Shape::Listener }
    }

    /// The shape in a word.
    pub fn word(&self) -> &'static str {
        match (self.listeners, self.compact) {
            (_, 0) => "listeners",
            (0, _) => "compact",
            _ => "compact, HTTP with listeners",
        }
    }

    /// What the operator loses by the shape, if anything.
    pub fn loss(&self) -> Option<String> {
        let Self { compact_http, .. } = self;
        (*compact_http > 0).then(|| {
            format!(
                "{compact_http} VIPs and ports of HTTP services are more than the {MAX_LISTENERS} that get a listener \
                 each: they are balanced by connection instead of by request, and failed requests are not retried"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_vips_share_a_listener_and_http_keeps_its_own_as_long_as_it_can() {
        let (few, many) = (MAX_LISTENERS, MAX_LISTENERS + 1);
        for (setting, tcp, http, listeners, compact, compact_http) in [
            (Outbounds::Auto, 0, 0, 0, 0, 0),
            (Outbounds::Auto, few - 1, 1, few, 0, 0),
            (Outbounds::Auto, few, 1, 1, few, 0),
            (Outbounds::Auto, 1, few, few, 1, 0),
            (Outbounds::Auto, 0, many, 0, many, many),
            (Outbounds::Auto, 7, many, 0, many + 7, many),
            (Outbounds::Listeners, many, many, 2 * many, 0, 0),
            (Outbounds::Compact, 1, 1, 1, 1, 0),
            (Outbounds::Compact, 1, many, 0, many + 1, many),
        ] {
            let spread = Spread::of(setting, tcp, http);
            assert_eq!(
                spread,
                Spread { setting, listeners, compact, compact_http },
                "{tcp} TCP, {http} HTTP"
            );
            assert_eq!(spread.loss().is_some(), compact_http > 0);
            if tcp > 0 {
                assert_eq!(spread.shape(Codec::Tcp) == Shape::Compact, compact > compact_http);
            }
            assert_eq!(spread.shape(Codec::Http) == Shape::Compact, compact_http > 0);
        }
    }
}
