//! Host names as the mesh publishes them. Keeps: a [`Hostname`] is valid, lower-case, without a final dot, so it can be
//! compared and put into a DNS message as it is. Called by cp (names), wire, agent and dns.

use std::fmt;
use std::sync::Arc;

/// Longest name in text form without the final dot: 255 octets on the wire (RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 253;
/// Longest label (RFC 1035 section 2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;

/// A valid host name: letters, digits, `-` and `_` in labels of 1 to 63 bytes, lower-case (RFC 4343), no final dot.
/// A copy shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Arc<str>);

/// Why a text is no host name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("name {name:?} has {bytes} bytes, at most {MAX_NAME_BYTES} fit into a DNS name (RFC 1035)")]
    TooLong { name: String, bytes: usize },
    #[error("label {label:?} of name {name:?} has {bytes} bytes, at most {MAX_LABEL_BYTES} fit (RFC 1035)")]
    LabelTooLong { name: String, label: String, bytes: usize },
    #[error("name {name:?} has an empty label: remove the extra dot")]
    EmptyLabel { name: String },
    #[error("name {name:?} has the character {character:?}: use letters, digits, '-', '_' and '.'")]
    BadCharacter { name: String, character: char },
}

impl Hostname {
    /// Parses and lower-cases; one final dot is taken off.
    ///
    /// # Errors
    /// See [`NameError`]; each says the value and the limit.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        for label in name.split('.') {
            if label.is_empty() {
                return Err(NameError::EmptyLabel { name: name.into() });
            }
            if label.len() > MAX_LABEL_BYTES {
                let (name, label, bytes) = (name.into(), label.into(), label.len());
                return Err(NameError::LabelTooLong { name, label, bytes });
            }
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong { name: name.into(), bytes: name.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(character) = name.chars().find(|&c| !allowed(c)) {
            return Err(NameError::BadCharacter { name: name.into(), character });
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The name in lower case without a final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lower_cased_and_loses_its_final_dot() {
        assert_eq!(Hostname::parse("Redis.MESH.").unwrap().as_str(), "redis.mesh");
        assert_eq!(Hostname::parse("echo_svc_1010.mesh").unwrap().as_str(), "echo_svc_1010.mesh");
    }

    #[test]
    fn every_bad_name_says_what_is_wrong_with_it() {
        let long_label = "a".repeat(64);
        let long_name = vec!["a".repeat(60); 5].join(".");
        for (text, want) in [
            ("", "is empty"),
            (".", "is empty"),
            ("a..b", "an empty label"),
            (long_label.as_str(), "has 64 bytes"),
            (long_name.as_str(), "has 304 bytes"),
            ("a b.mesh", "the character ' '"),
            ("ä.mesh", "the character 'ä'"),
        ] {
            let error = Hostname::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }
}
