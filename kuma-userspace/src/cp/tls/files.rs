//! A certificate and its key in PEM files. Keeps: every error names the setting, the file and what to do. Called by tls.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Where a certificate and its key lie, and which setting said so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// `dpServer`, `apiServer.https` or `general`: below it stand `tlsCertFile` and `tlsKeyFile`.
    pub section: &'static str,
}

/// When and how files were written last; equal stamps mean the same content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stamp([Option<(SystemTime, u64)>; 2]);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("{setting}: cannot read {}: does it exist, and may this user read it?", path.display())]
    Read { setting: Setting, path: PathBuf, source: std::io::Error },
    #[error("{setting}: {} is not readable as PEM: write it anew", path.display())]
    Malformed { setting: Setting, path: PathBuf, source: Box<PemError> },
    #[error(
        "{setting}: no certificate is in {}: it must have `-----BEGIN CERTIFICATE-----`, the server's own one first",
        path.display()
    )]
    NoCertificate { setting: Setting, path: PathBuf },
    #[error(
        "{setting}: no private key is in {}: it must have `-----BEGIN PRIVATE KEY-----` (PKCS#8), without a passphrase",
        path.display()
    )]
    NoKey { setting: Setting, path: PathBuf },
    #[error("{setting}: the private key in {} cannot be used: take RSA, ECDSA or Ed25519", path.display())]
    UnusableKey { setting: Setting, path: PathBuf, source: Box<rustls::Error> },
    #[error(
        "{setting}: the key in {} does not belong to the first certificate in {}: give the pair that was made together",
        key.display(), certificate.display()
    )]
    Mismatch { setting: Setting, key: PathBuf, certificate: PathBuf, source: Box<rustls::Error> },
}

/// Prints as `dpServer.tlsKeyFile`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    section: &'static str,
    name: &'static str,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section, self.name)
    }
}

impl Files {
    pub(super) fn read(&self) -> Result<CertifiedKey, FilesError> {
        let chain = self.chain()?;
        let (setting, path) = (self.setting("tlsKeyFile"), || self.key.clone());
        let private = match PrivateKeyDer::from_pem_slice(&read(&self.key, setting)?) {
            Ok(private) => private,
            Err(PemError::NoItemsFound) => return Err(FilesError::NoKey { setting, path: path() }),
            Err(source) => {
                return Err(FilesError::Malformed { setting, path: path(), source: Box::new(source) });
            }
        };
        let signing = any_supported_type(&private).map_err(|source| FilesError::UnusableKey {
            setting,
            path: path(),
            source: Box::new(source),
        })?;
        let pair = CertifiedKey::new(chain, signing);
        let certificate = || self.certificate.clone();
        pair.keys_match().map_err(|source| FilesError::Mismatch {
            setting,
            key: path(),
            certificate: certificate(),
            source: Box::new(source),
        })?;
        Ok(pair)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, FilesError> {
        let (setting, path) = (self.setting("tlsCertFile"), || self.certificate.clone());
        let text = read(&self.certificate, setting)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let malformed = |source| FilesError::Malformed { setting, path: path(), source: Box::new(source) };
        let chain = chain.map_err(malformed)?;
        if chain.is_empty() { Err(FilesError::NoCertificate { setting, path: path() }) } else { Ok(chain) }
    }

    fn setting(&self, name: &'static str) -> Setting {
        Setting { section: self.section, name }
    }

    /// Follows links: a folder that is swapped as a whole (a mounted Secret) counts as written.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp([&self.certificate, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        }))
    }
}

fn read(path: &Path, setting: Setting) -> Result<Vec<u8>, FilesError> {
    std::fs::read(path).map_err(|source| FilesError::Read { setting, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        dir: tempfile::TempDir,
        files: Files,
    }

    fn pair() -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Pair { dir, files: Files { certificate, key, section: "dpServer" } }
    }

    #[test]
    fn a_pair_that_belongs_together_is_read() {
        assert!(pair().files.read().is_ok());
    }

    #[test]
    fn every_bad_pair_is_refused_with_the_setting_the_file_and_the_next_step() {
        let other = pair();
        let other_key = std::fs::read(&other.files.key).unwrap();
        type Break = fn(&Pair, &[u8]);
        let cases: [(Break, &str, &str, &str); 5] = [
            (
                |p, _| std::fs::remove_file(&p.files.key).unwrap(),
                "dpServer.tlsKeyFile",
                "key.pem",
                "does it exist",
            ),
            (
                |p, _| std::fs::write(&p.files.certificate, "hello").unwrap(),
                "dpServer.tlsCertFile",
                "cert.pem",
                "BEGIN CERTIFICATE",
            ),
            (
                |p, _| {
                    std::fs::copy(&p.files.certificate, &p.files.key).unwrap();
                },
                "dpServer.tlsKeyFile",
                "key.pem",
                "BEGIN PRIVATE KEY",
            ),
            (
                |p, key| std::fs::write(&p.files.key, key).unwrap(),
                "dpServer.tlsKeyFile",
                "key.pem",
                "made together",
            ),
            (
                |p, _| {
                    std::fs::write(
                        &p.files.certificate,
                        "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n",
                    )
                    .unwrap()
                },
                "dpServer.tlsCertFile",
                "cert.pem",
                "not readable as PEM",
            ),
        ];
        for (damage, setting, file, step) in cases {
            let pair = pair();
            damage(&pair, &other_key);
            let said = pair.files.read().unwrap_err().to_string();
            assert!(said.starts_with(setting) && said.contains(step), "{said}");
            assert!(said.contains(&pair.dir.path().join(file).display().to_string()), "{said}");
        }
    }
}
