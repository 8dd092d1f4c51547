//! Believes tokens, or says why not. Called by cp::xds for each stream and by REST for each request with a token.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::de::DeserializeOwned;

use super::claims::{DataplaneClaims, DataplaneIdentity, Registered, UserClaims, UserIdentity};
use super::keys::{Known, PublicKey, Purpose};
use super::{KeyError, TokenError};
use crate::cp::secrets::Secrets;

/// The `kid` of a token that names none.
const NO_KID: &str = "0";

/// Why a token is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it is no token that is signed with RS256")]
    Malformed(#[source] jsonwebtoken::errors::Error),
    #[error("it is for mesh {found:?}, and not for {wanted:?}")]
    OtherMesh { found: String, wanted: String },
    #[error("it is for a proxy of type {0:?}, and not for a dataplane")]
    OtherType(String),
    #[error(
        "signing key {kid:?} is not known here: it was deleted, or the token is from another control plane"
    )]
    UnknownKey { kid: String },
    #[error("its signature is wrong: it was changed, or is from another control plane")]
    Signature,
    #[error("it expired at {at}: make a new one")]
    Expired { at: String },
    #[error("it is not valid yet: is a clock wrong?")]
    NotYet,
    #[error("it was revoked")]
    Revoked,
    #[error("its key cannot be had")]
    Key(#[source] Box<TokenError>),
}

/// Who somebody is, and for how long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified<I> {
    pub identity: I,
    pub expires: SystemTime,
}

/// Knows the keys; cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    /// Nothing: the keys of the store are not believed.
    secrets: Option<Secrets>,
    known: Known,
    /// By mesh and kid; users have no mesh.
    public: Arc<BTreeMap<(String, String), DecodingKey>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("public", &self.public.keys()).finish_non_exhaustive()
    }
}

impl Verifier {
    /// # Errors
    /// A public key is none.
    pub fn new(secrets: Option<Secrets>, public: &[PublicKey]) -> Result<Self, KeyError> {
        let decoded = |key: &PublicKey| Ok(((key.mesh.clone(), key.kid.clone()), key.decoding()?));
        let public: Result<_, KeyError> = public.iter().map(decoded).collect();
        Ok(Self { secrets, known: Known::default(), public: Arc::new(public?) })
    }

    /// Whose token it is, for a client of this mesh.
    ///
    /// # Errors
    /// Why it is nobody's.
    pub fn dataplane(&self, token: &str, mesh: &str) -> Result<Verified<DataplaneIdentity>, Refusal> {
        // Not believed yet: keys of another mesh have the same numbers, and "wrong signature" would help nobody.
        let said: DataplaneClaims = insecure_decode_claims(token).map_err(Refusal::Malformed)?;
        if said.mesh != mesh {
            return Err(Refusal::OtherMesh { found: said.mesh, wanted: mesh.into() });
        }
        let claims: DataplaneClaims = self.claims(token, Purpose::Dataplane(mesh), &said.registered)?;
        if !matches!(claims.kind.as_str(), "" | "dataplane") {
            return Err(Refusal::OtherType(claims.kind));
        }
        let DataplaneClaims { name, mesh, tags, registered, .. } = claims;
        let identity = DataplaneIdentity { mesh, name, tags: tags.unwrap_or_default() };
        Ok(Verified { identity, expires: time(registered.exp) })
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// Why it is nobody's.
    pub fn user(&self, token: &str) -> Result<Verified<UserIdentity>, Refusal> {
        let said: UserClaims = insecure_decode_claims(token).map_err(Refusal::Malformed)?;
        let claims: UserClaims = self.claims(token, Purpose::User, &said.registered)?;
        let UserClaims { name, groups, registered } = claims;
        let identity = UserIdentity { name, groups: groups.unwrap_or_default() };
        Ok(Verified { identity, expires: time(registered.exp) })
    }

    fn claims<C: DeserializeOwned + Clone>(
        &self,
        token: &str,
        purpose: Purpose<'_>,
        said: &Registered,
    ) -> Result<C, Refusal> {
        let kid = decode_header(token).map_err(Refusal::Malformed)?.kid.unwrap_or_else(|| NO_KID.into());
        let key = self.key(purpose, &kid)?.ok_or(Refusal::UnknownKey { kid })?;
        let mut rules = Validation::new(Algorithm::RS256);
        (rules.leeway, rules.validate_nbf, rules.validate_aud) = (0, true, false);
        let claims = decode::<C>(token, &key, &rules).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => Refusal::Signature,
            ErrorKind::ExpiredSignature => Refusal::Expired { at: words(said.exp) },
            ErrorKind::ImmatureSignature => Refusal::NotYet,
            _ => Refusal::Malformed(error),
        })?;
        if self.is_revoked(purpose, &said.jti)? {
            return Err(Refusal::Revoked);
        }
        Ok(claims.claims)
    }

    fn key(&self, purpose: Purpose<'_>, kid: &str) -> Result<Option<DecodingKey>, Refusal> {
        if let Some(key) = self.public.get(&(purpose.mesh().to_owned(), kid.to_owned())) {
            return Ok(Some(key.clone()));
        }
        let Some(secrets) = &self.secrets else { return Ok(None) };
        self.known.find(secrets, purpose, kid).map_err(|error| Refusal::Key(Box::new(error)))
    }

    fn is_revoked(&self, purpose: Purpose<'_>, id: &str) -> Result<bool, Refusal> {
        let Some(secrets) = &self.secrets else { return Ok(false) };
        let listed = secrets.get(purpose.mesh(), &purpose.revocations());
        let listed = listed.map_err(|error| Refusal::Key(Box::new(error.into())))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&listed).split(',').any(|revoked| revoked.trim() == id))
    }
}

fn time(secs: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs.try_into().unwrap_or_default())
}

/// `2026-11-24T10:00:00Z`
fn words(secs: i64) -> String {
    jiff::Timestamp::from_second(secs).map_or_else(|_far| secs.to_string(), |time| time.to_string())
}
