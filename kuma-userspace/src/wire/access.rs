//! How a client gets in at a control plane: whose certificates it trusts, and the token that says who it is.
//! Keeps: a token is never shown. Called by agent::feed and the bootstrap; made by cli.

use std::fmt;
use std::sync::Arc;

/// Longest token: a header value of this length passes every HTTP/2 implementation.
const MAX_TOKEN_BYTES: usize = 8 << 10;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
/// The request header, in gRPC's words metadata.
pub const AUTHORIZATION: &str = "authorization";

/// What a client needs beside an address; by default nothing: plain and without a token.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// TLS with servers whose certificate one of these vouches for; `None`: plain.
    pub trust: Option<Trust>,
    pub token: Option<Token>,
}

/// Certificates of authorities, as PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trust(Arc<str>);

/// A dataplane token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// Why a text gives no access.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccessError {
    #[error("there is no `{BEGIN}` in it: give the certificate of the control plane's authority as PEM")]
    NoCertificate,
    #[error("the token is empty: `kuma-dns generate dataplane-token` makes one")]
    NoToken,
    #[error("the token has {0} bytes, at most {MAX_TOKEN_BYTES} are allowed")]
    LongToken(usize),
    #[error("the token has characters that no token has: it is one line of letters, digits, dots and dashes")]
    StrangeToken,
}

impl Trust {
    /// # Errors
    /// No certificate is in it.
    pub fn parse(pem: &str) -> Result<Self, AccessError> {
        if pem.contains(BEGIN) { Ok(Self(pem.into())) } else { Err(AccessError::NoCertificate) }
    }

    pub fn as_pem(&self) -> &str {
        &self.0
    }
}

impl Token {
    /// Takes the text of a file: white space around it does not count.
    ///
    /// # Errors
    /// It cannot be a token.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AccessError::NoToken);
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(AccessError::LongToken(text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AccessError::StrangeToken);
        }
        Ok(Self(text.into()))
    }

    /// The token itself, for the wire.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_with_its_line_end_and_never_shown() {
        let token = Token::parse(" abc.def-_g.h\n").unwrap();
        assert_eq!(token.reveal(), "abc.def-_g.h");
        assert!(!format!("{token:?}").contains("abc"));
    }

    #[test]
    fn what_gives_no_access_is_refused_with_a_reason() {
        assert_eq!(Token::parse(" \n"), Err(AccessError::NoToken));
        assert_eq!(Token::parse("a b"), Err(AccessError::StrangeToken));
        assert_eq!(Token::parse(&"a".repeat(8_193)), Err(AccessError::LongToken(8_193)));
        assert_eq!(Trust::parse("hello"), Err(AccessError::NoCertificate));
    }
}
