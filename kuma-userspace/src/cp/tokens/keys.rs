//! What tokens are signed and believed with: RSA keys of 2048 bits in secrets of Kuma's names, `…-signing-key-<serial>`, and
//! public keys from the configuration. Called by issue, verify, configuration and cli.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jsonwebtoken::{DecodingKey, EncodingKey};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};

use super::TokenError;
use crate::cp::secrets::{SecretError, Secrets};

/// Whose tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose<'a> {
    /// Data plane proxies of this mesh.
    Dataplane(&'a str),
    User,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a signing key cannot be made")]
    Make(#[source] rcgen::Error),
    #[error(
        "it is no RSA private key in PEM (PKCS#8, `-----BEGIN PRIVATE KEY-----`): `kuma-dns generate signing-key` makes one"
    )]
    Private(#[source] rcgen::Error),
    #[error("it cannot sign")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error(
        "it is no RSA public key in PEM (`-----BEGIN PUBLIC KEY-----`): `kuma-dns generate public-key` prints that of a signing key"
    )]
    Public(#[source] jsonwebtoken::errors::Error),
    #[error(
        "it is a private key: keep it to yourself, and give what `kuma-dns generate public-key` prints of it"
    )]
    NotPublic,
}

/// A key that is believed, from the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    /// Whose tokens it is for; users have none.
    pub mesh: String,
    pub kid: String,
    pub pem: Arc<str>,
}

impl PublicKey {
    /// # Errors
    /// The text is no key.
    pub fn parse(mesh: &str, kid: &str, pem: &str) -> Result<Self, KeyError> {
        if pem.contains("PRIVATE KEY") {
            return Err(KeyError::NotPublic);
        }
        let key = Self { mesh: mesh.into(), kid: kid.into(), pem: pem.into() };
        key.decoding()?;
        Ok(key)
    }

    pub(super) fn decoding(&self) -> Result<DecodingKey, KeyError> {
        DecodingKey::from_rsa_pem(self.pem.as_bytes()).map_err(KeyError::Public)
    }
}

/// A new private key, as PEM.
///
/// # Errors
/// The machine has no randomness.
pub fn signing_key_pem() -> Result<String, KeyError> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(KeyError::Make)?;
    Ok(key.serialize_pem())
}

/// The public part of a private key, as PEM.
///
/// # Errors
/// It is no private key.
pub fn public_key_pem(private_pem: &str) -> Result<String, KeyError> {
    Ok(rsa(private_pem)?.public_key_pem())
}

fn rsa(private_pem: &str) -> Result<KeyPair, KeyError> {
    KeyPair::from_pem_and_sign_algo(private_pem, &PKCS_RSA_SHA256).map_err(KeyError::Private)
}

/// The key that signs now, with its `kid`.
pub(super) struct Signing {
    pub(super) kid: String,
    pub(super) key: EncodingKey,
}

impl Signing {
    pub(super) fn new(kid: String, private_pem: &str) -> Result<Self, KeyError> {
        rsa(private_pem)?;
        let key = EncodingKey::from_rsa_pem(private_pem.as_bytes()).map_err(KeyError::Sign)?;
        Ok(Self { kid, key })
    }

    /// The newest of the store; the first who needs one makes it. Blocks.
    pub(super) fn newest(secrets: &Secrets, purpose: Purpose<'_>) -> Result<Self, TokenError> {
        secrets.refresh()?;
        let names = secrets.names(purpose.mesh(), &purpose.prefix());
        let newest = names.iter().filter_map(|name| Some((purpose.serial(name)?, name))).max();
        let (serial, pem) = match newest {
            Some((serial, name)) => (serial, secrets.get(purpose.mesh(), name)?),
            None => {
                let make = || Ok::<_, TokenError>(signing_key_pem()?.into_bytes());
                (1, Some(secrets.obtain(purpose.mesh(), &purpose.name(1), make)?))
            }
        };
        let gone = || SecretError::Gone { name: purpose.name(serial).into(), mesh: purpose.mesh().into() };
        let pem = pem.ok_or_else(gone)?;
        Ok(Self::new(serial.to_string(), &String::from_utf8_lossy(&pem))?)
    }
}

/// Public parts of keys of the store that were asked for: taking one out of a private key costs more than a signature.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<PublicParts>>);

/// By mesh and kid: the key as it stands in the store, and its public part.
type PublicParts = BTreeMap<(String, String), (Vec<u8>, DecodingKey)>;

impl Known {
    /// The public part of the key of the store that has this `kid`.
    pub(super) fn find(
        &self,
        secrets: &Secrets,
        purpose: Purpose<'_>,
        kid: &str,
    ) -> Result<Option<DecodingKey>, TokenError> {
        let Ok(serial) = kid.parse() else { return Ok(None) };
        let Some(pem) = secrets.get(purpose.mesh(), &purpose.name(serial))? else { return Ok(None) };
        let place = (purpose.mesh().to_owned(), kid.to_owned());
        if let Some((of, key)) = self.lock().get(&place)
            && *of == pem
        {
            return Ok(Some(key.clone()));
        }
        let public = public_key_pem(&String::from_utf8_lossy(&pem))?;
        let key = DecodingKey::from_rsa_pem(public.as_bytes()).map_err(KeyError::Public)?;
        self.lock().insert(place, (pem, key.clone()));
        Ok(Some(key))
    }

    fn lock(&self) -> MutexGuard<'_, PublicParts> {
        // A panic while holding the lock leaves the map whole: every change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Purpose<'_> {
    pub(super) fn mesh(&self) -> &str {
        match self {
            Self::Dataplane(mesh) => mesh,
            Self::User => "",
        }
    }

    fn prefix(&self) -> String {
        match self {
            Self::Dataplane(mesh) => format!("dataplane-token-signing-key-{mesh}"),
            Self::User => "user-token-signing-key".into(),
        }
    }

    /// The name of the secret.
    fn name(&self, serial: u64) -> String {
        format!("{}-{serial}", self.prefix())
    }

    fn serial(&self, name: &str) -> Option<u64> {
        name.strip_prefix(&self.prefix())?.strip_prefix('-')?.parse().ok()
    }

    /// The secret that lists the ids of tokens that are not believed any more, with commas between them.
    pub(super) fn revocations(&self) -> String {
        match self {
            Self::Dataplane(mesh) => format!("dataplane-token-revocations-{mesh}"),
            Self::User => "user-token-revocations".into(),
        }
    }
}
