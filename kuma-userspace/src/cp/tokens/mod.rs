//! Tokens that say who somebody is, as Kuma's: JWTs signed with RS256 for data plane proxies and for users.
//!
//! - [`claims`]: what stands in them. [`keys`]: what they are signed with, secrets that all replicas share, or files.
//! - [`issue`]: makes them. [`verify`]: believes them, or says why not. [`request`]: what REST is asked to make.
//!
//! Keeps: a token is believed only for what stands in it, until it expires or is revoked; keys and tokens are never shown in
//! words. Called by cp::xds (who may connect), REST (who may write) and cli (offline).

mod claims;
mod issue;
mod keys;
mod request;
mod verify;

pub use self::claims::{DataplaneIdentity, UserIdentity};
pub use self::issue::{ADMIN, ADMIN_SECRET, Issuer, OfflineKey};
pub use self::keys::{KeyError, PublicKey, public_key_pem, signing_key_pem};
pub use self::request::{FieldError, RequestError};
pub use self::verify::{Refusal, Verified, Verifier};

use super::secrets::{SecretError, Secrets};

/// What tokens are checked by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenCheck {
    /// Are the keys of the store believed?
    pub use_secrets: bool,
    /// Keys that are believed beside them.
    pub public_keys: Vec<PublicKey>,
}

impl Default for TokenCheck {
    fn default() -> Self {
        Self { use_secrets: true, public_keys: Vec::new() }
    }
}

impl TokenCheck {
    /// # Errors
    /// A public key is none.
    pub fn verifier(&self, secrets: &Secrets) -> Result<Verifier, KeyError> {
        Verifier::new(self.use_secrets.then(|| secrets.clone()), &self.public_keys)
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the key that tokens are signed with cannot be stored or read")]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the token cannot be signed")]
    Sign(#[from] jsonwebtoken::errors::Error),
    #[error(
        "the token {0:?} of the secret admin-user-token is no text: delete the secret, and a new one is made"
    )]
    AdminToken(std::string::FromUtf8Error),
}

#[cfg(test)]
mod tests;
