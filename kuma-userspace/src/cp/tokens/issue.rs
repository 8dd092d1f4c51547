//! Makes tokens: with the newest key of the store, or offline with a key from a file. Called by request and cli.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, Header, encode};
use rustls::crypto::aws_lc_rs;
use serde::Serialize;

use super::TokenError;
use super::claims::{DataplaneClaims, DataplaneIdentity, Registered, UserClaims, UserIdentity};
use super::keys::{KeyError, Purpose, Signing};
use crate::cp::secrets::Secrets;

/// Kuma's administrator: the name and the group.
pub const ADMIN: &str = "mesh-system:admin";
/// The secret with the administrator's token.
pub const ADMIN_SECRET: &str = "admin-user-token";
/// Kuma's ten years for a token that nobody asked an end of.
pub(super) const DEFAULT_VALID_SECS: u64 = 10 * 365 * 86_400;

/// Signs with the keys of the store; cheap to clone. Its calls block.
#[derive(Clone, Debug)]
pub struct Issuer(Secrets);

/// A private key from a file.
pub struct OfflineKey(Signing);

impl Issuer {
    /// Signs with what is in there, and makes what is not.
    pub fn new(secrets: Secrets) -> Self {
        Self(secrets)
    }

    /// A token of a data plane proxy.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn dataplane(&self, identity: DataplaneIdentity, valid_secs: u64) -> Result<String, TokenError> {
        let signing = Signing::newest(&self.0, Purpose::Dataplane(&identity.mesh))?;
        sign_dataplane(&signing, identity, valid_secs)
    }

    /// A token of a user.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn user(&self, identity: UserIdentity, valid_secs: u64) -> Result<String, TokenError> {
        sign_user(&Signing::newest(&self.0, Purpose::User)?, identity, valid_secs)
    }

    /// The administrator's token, which is kept as a secret of Kuma's name; the first who asks makes it.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn admin(&self) -> Result<String, TokenError> {
        let admin = || UserIdentity { name: ADMIN.into(), groups: vec![ADMIN.into()] };
        let make = || Ok::<_, TokenError>(self.user(admin(), DEFAULT_VALID_SECS)?.into_bytes());
        String::from_utf8(self.0.obtain("", ADMIN_SECRET, make)?).map_err(TokenError::AdminToken)
    }
}

impl OfflineKey {
    /// `kid` is the name under which the control plane's configuration has the public part.
    ///
    /// # Errors
    /// The text is no RSA private key.
    pub fn parse(kid: &str, private_pem: &str) -> Result<Self, KeyError> {
        Signing::new(kid.into(), private_pem).map(Self)
    }

    /// A token of a data plane proxy.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn dataplane(&self, identity: DataplaneIdentity, valid_secs: u64) -> Result<String, TokenError> {
        sign_dataplane(&self.0, identity, valid_secs)
    }

    /// A token of a user.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn user(&self, identity: UserIdentity, valid_secs: u64) -> Result<String, TokenError> {
        sign_user(&self.0, identity, valid_secs)
    }
}

fn sign_dataplane(
    signing: &Signing,
    identity: DataplaneIdentity,
    valid_secs: u64,
) -> Result<String, TokenError> {
    let DataplaneIdentity { mesh, name, tags } = identity;
    let tags = (!tags.is_empty()).then_some(tags);
    sign(
        signing,
        &DataplaneClaims { name, mesh, tags, kind: "dataplane".into(), registered: registered(valid_secs) },
    )
}

fn sign_user(signing: &Signing, identity: UserIdentity, valid_secs: u64) -> Result<String, TokenError> {
    let UserIdentity { name, groups } = identity;
    sign(signing, &UserClaims { name, groups: Some(groups), registered: registered(valid_secs) })
}

fn sign<C: Serialize>(signing: &Signing, claims: &C) -> Result<String, TokenError> {
    let header = Header { kid: Some(signing.kid.clone()), ..Header::new(Algorithm::RS256) };
    Ok(encode(&header, claims, &signing.key)?)
}

fn registered(valid_secs: u64) -> Registered {
    Registered::new(now_secs(), valid_secs, random_id())
}

pub(super) fn now_secs() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What a revocation names a token by.
fn random_id() -> String {
    let mut bytes = [0; 16];
    let filled = aws_lc_rs::default_provider().secure_random.fill(&mut bytes);
    filled.expect("without randomness the key could not have been made either");
    format!("{:032x}", u128::from_be_bytes(bytes))
}
