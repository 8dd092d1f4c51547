//! How proxies are told of VIPs: a listener for each, or one for all. Called by cp (settings, xds) and cli.

use std::str::FromStr;

use serde::Serialize;

/// The shapes that an operator can choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outbounds {
    /// A listener for each VIP and port while they are few, as Kuma has it; compact when they are many.
    #[default]
    Auto,
    /// A listener for each VIP and port, however many.
    Listeners,
    /// One listener, and a cluster for each VIP and port.
    Compact,
}

/// A word that names no shape.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no shape of outbounds: use auto, listeners or compact")]
pub struct UnknownOutbounds(String);

impl Outbounds {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Listeners, Self::Compact];

    /// The word in files, flags and the status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Listeners => "listeners",
            Self::Compact => "compact",
        }
    }
}

impl FromStr for Outbounds {
    type Err = UnknownOutbounds;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|one| one.word() == text).ok_or_else(|| UnknownOutbounds(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_read_by_its_word_and_others_are_named() {
        for one in Outbounds::ALL {
            assert_eq!(one.word().parse(), Ok(one));
        }
        let error = "Compact".parse::<Outbounds>().unwrap_err().to_string();
        assert!(error.contains("\"Compact\"") && error.contains("auto, listeners or compact"), "{error}");
    }
}
