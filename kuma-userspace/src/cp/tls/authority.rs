//! An authority of our own, for whoever has no certificate: made once, kept as a secret that all replicas share; each replica
//! makes its own certificate by it, in memory. Called by tls.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::cp::secrets::{SecretError, Secrets};

/// The secret that holds the authority's key and certificate.
const SECRET: &str = "kuma-dns-tls-ca";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const NAME: &str = "kuma-dns control plane CA";
const AUTHORITY_DAYS: i64 = 3_650;
const CERTIFICATE_DAYS: i64 = 365;
/// A certificate is made anew this often.
const RENEW_DAYS: i64 = 30;
/// Clocks that are behind still find us valid.
const BACKDATE_DAYS: i64 = 2;

/// Why there is no authority or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the authority of our own certificates cannot be stored or read")]
    Secret(#[from] SecretError),
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    #[error("secret {SECRET:?} holds no key and certificate: delete it, and give agents the new certificate")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the key of a certificate that was made cannot be used")]
    Use(#[from] rustls::Error),
}

/// Makes certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// What a certificate is good for, and since which period it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Subject {
    names: BTreeSet<String>,
    period: i64,
}

impl Authority {
    /// The authority of this store; the first who asks makes it. Blocks.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn obtain(secrets: &Secrets) -> Result<Self, AuthorityError> {
        let bytes = secrets.obtain("", SECRET, make)?;
        let text = String::from_utf8(bytes).map_err(malformed)?;
        let key = KeyPair::from_pem(&text).map_err(malformed)?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(malformed)?;
        let pem = text[text.find(BEGIN).unwrap_or_default()..].to_owned();
        Ok(Self { issuer: Issuer::new(params()?, key), certificate, pem })
    }

    /// What agents and proxies need to trust us.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(&self.certificate);
        let mut text = String::with_capacity(3 * digest.len());
        for byte in digest {
            let colon = if text.is_empty() { "" } else { ":" };
            write!(text, "{colon}{byte:02X}").expect("a text can always be written to");
        }
        text
    }

    /// Puts the certificate where operators and agents of this machine find it, in one step.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn publish(&self, path: &Path) -> std::io::Result<()> {
        if std::fs::read_to_string(path).is_ok_and(|there| there == self.pem) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = path.with_extension("new");
        std::fs::write(&new, &self.pem)?;
        std::fs::rename(new, path)
    }

    /// A new key with a certificate.
    pub(super) fn issue(&self, subject: &Subject) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(subject.names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name = named("kuma-dns control plane");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, CERTIFICATE_DAYS);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok(CertifiedKey::new(chain, any_supported_type(&private)?))
    }
}

impl Subject {
    /// This machine as others reach it, when it listens on `addrs`.
    pub(super) fn now(addrs: &[SocketAddr]) -> Self {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let mut names: BTreeSet<String> = loopback.iter().map(ToString::to_string).collect();
        names.insert("localhost".into());
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        // What is no DNS name cannot stand in a certificate.
        if !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
            names.insert(host);
        }
        if addrs.iter().any(|addr| addr.ip().is_unspecified()) {
            names.extend(machine_addresses().map(|ip| ip.to_string()));
        }
        names.extend(
            addrs.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()),
        );
        Self { names, period: today() / RENEW_DAYS }
    }
}

/// Addresses of this machine that others may use; link-local ones mean something else on each link.
fn machine_addresses() -> impl Iterator<Item = IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip);
        v4.or(v6.filter(|ip| !ip.is_unicast_link_local()).map(IpAddr::from))
    })
}

fn malformed(error: impl std::error::Error + Send + Sync + 'static) -> AuthorityError {
    AuthorityError::Malformed(Box::new(error))
}

fn make() -> Result<Vec<u8>, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params()?.self_signed(&key)?;
    Ok([key.serialize_pem(), certificate.pem()].concat().into_bytes())
}

/// What the authority says of itself, and what its certificates say of it.
fn params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named(NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, AUTHORITY_DAYS);
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Days of the Unix epoch.
fn today() -> i64 {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(secs / 86_400).unwrap_or_default()
}

/// A certificate's first and last day.
fn set_validity(params: &mut CertificateParams, days: i64) {
    let date = |days: i64| {
        let time = jiff::Timestamp::from_second(days * 86_400).unwrap_or_default();
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        let positive = |number: i8| number.unsigned_abs();
        rcgen::date_time_ymd(date.year().into(), positive(date.month()), positive(date.day()))
    };
    params.not_before = date(today() - BACKDATE_DAYS);
    params.not_after = date(today() + days);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::store::MemoryDocuments;
    use std::sync::Arc;

    #[test]
    fn replicas_of_one_store_have_one_authority_and_a_lost_one_is_made_anew() {
        let documents = Arc::new(MemoryDocuments::default());
        let [one, two] =
            [1, 2].map(|_| Authority::obtain(&Secrets::open(documents.clone()).unwrap()).unwrap());
        assert_eq!((one.pem(), one.fingerprint()), (two.pem(), two.fingerprint()));
        assert_eq!(one.fingerprint().len(), 95);
        let other = Authority::obtain(&Secrets::open(Arc::new(MemoryDocuments::default())).unwrap()).unwrap();
        assert_ne!(one.pem(), other.pem());
    }

    #[test]
    fn a_certificate_names_the_address_that_is_listened_on_and_loopback() {
        let subject = Subject::now(&["10.1.2.3:5678".parse().unwrap()]);
        for name in ["127.0.0.1", "::1", "localhost", "10.1.2.3"] {
            assert!(subject.names.contains(name), "{name} in {subject:?}");
        }
        let secrets = Secrets::open(Arc::new(MemoryDocuments::default())).unwrap();
        assert!(Authority::obtain(&secrets).unwrap().issue(&subject).unwrap().keys_match().is_ok());
        assert_eq!(
            subject,
            Subject::now(&["10.1.2.3:5678".parse().unwrap()]),
            "made anew only when something changes"
        );
    }
}
