//! A record as bytes: a checksum, then JSON, which later versions can extend and people can read.
//! Keeps: bytes that were changed by anything but us are never taken for a record. Called by store::embedded and
//! store::postgres.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cp::record::{Record, Resting};
use crate::model::resource::ServiceKey;
use crate::model::view::Addresses;

/// Bytes of the checksum in front.
const CHECKSUM_BYTES: usize = 8;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("the key {0:?} is neither mesh/service nor mesh/kind:name")]
    Key(String),
    #[error("{0} bytes are too few")]
    Short(usize),
    #[error("the checksum does not fit the content")]
    Checksum,
    #[error("the content is no record")]
    Content(#[source] serde_json::Error),
    #[error("the key {0:?} is not kind/mesh/name")]
    DocumentKey(String),
    #[error("the document is no text")]
    Text(#[source] std::str::Utf8Error),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    v4: Option<std::net::Ipv4Addr>,
    v6: Option<std::net::Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resting: Vec<StoredResting>,
}

#[derive(Serialize, Deserialize)]
struct StoredResting {
    address: IpAddr,
    since: u64,
    until: u64,
}

/// The key of a service or of another kind: `mesh/service`, `mesh/kind:name`.
pub(super) fn key(service: &ServiceKey) -> String {
    service.to_string()
}

/// The bytes of a record in its next version.
pub(super) fn encode(record: &Record) -> Result<Vec<u8>, serde_json::Error> {
    let resting = record.resting.iter().map(|resting| StoredResting {
        address: resting.address,
        since: resting.since_secs,
        until: resting.until_secs,
    });
    let stored = Stored {
        version: record.version + 1,
        v4: record.held.v4,
        v6: record.held.v6,
        resting: resting.collect(),
    };
    Ok(with_checksum(&key(&record.service), &serde_json::to_vec(&stored)?))
}

/// The record that stands under a key.
pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Record, Damage> {
    let service = ServiceKey::parse(key).ok_or_else(|| Damage::Key(key.into()))?;
    let stored = content(key, bytes)?;
    let resting = stored.resting.into_iter().map(|resting| Resting {
        address: resting.address,
        since_secs: resting.since,
        until_secs: resting.until,
    });
    Ok(Record {
        service,
        version: stored.version,
        held: Addresses { v4: stored.v4, v6: stored.v6 },
        resting: resting.collect(),
    })
}

/// The version of the record in these bytes; damaged bytes count as none, so that they can be replaced.
pub(super) fn version(key: &str, bytes: &[u8]) -> u64 {
    content(key, bytes).map_or(0, |stored| stored.version)
}

fn content(key: &str, bytes: &[u8]) -> Result<Stored, Damage> {
    serde_json::from_slice(checked(key, bytes)?).map_err(Damage::Content)
}

/// Content with its checksum in front.
pub(super) fn with_checksum(key: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = checksum(key, content).to_be_bytes().to_vec();
    bytes.extend(content);
    bytes
}

/// The content behind a checksum that fits it.
pub(super) fn checked<'a>(key: &str, bytes: &'a [u8]) -> Result<&'a [u8], Damage> {
    let (sum, content) = bytes.split_first_chunk::<CHECKSUM_BYTES>().ok_or(Damage::Short(bytes.len()))?;
    if u64::from_be_bytes(*sum) == checksum(key, content) { Ok(content) } else { Err(Damage::Checksum) }
}

/// FNV-1a, 64 bits, over key and content: finds flipped bits, torn writes and records under another's key; it is no
/// defence against forgery.
fn checksum(key: &str, content: &[u8]) -> u64 {
    let bytes = key.bytes().chain([0]).chain(content.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let address = "240.0.0.9".parse().unwrap();
        let held =
            Addresses { v4: Some("240.0.0.1".parse().unwrap()), v6: Some("fd00:fd00::1".parse().unwrap()) };
        let resting = vec![Resting { address, since_secs: 5, until_secs: 125 }];
        Record { service: ServiceKey::new("default", "redis"), version: 7, held, resting }
    }

    #[test]
    fn a_record_survives_the_round_trip_in_its_next_version() {
        let bytes = encode(&record()).unwrap();
        assert_eq!(decode("default/redis", &bytes).unwrap(), Record { version: 8, ..record() });
        assert_eq!(version("default/redis", &bytes), 8);
        assert!(decode("default/other", &bytes).is_err(), "it belongs to another service");
    }

    #[test]
    fn a_record_of_the_first_release_is_read() {
        let json = br#"{"version":3,"v4":"240.0.0.1","v6":null,"resting":[{"address":"240.0.0.9","since":5,"until":125}]}"#;
        let mut bytes = 0x419e_9cef_e4f6_6827_u64.to_be_bytes().to_vec();
        bytes.extend(json);
        let read = decode("default/redis", &bytes).unwrap();
        let held = Addresses { v4: Some("240.0.0.1".parse().unwrap()), v6: None };
        assert_eq!(read, Record { version: 3, held, ..record() });
    }

    #[test]
    fn every_kind_has_records() {
        let service = ServiceKey::of("default", crate::model::resource::Kind::Host, "httpbin.org");
        let record = Record { service, ..record() };
        let bytes = encode(&record).unwrap();
        assert_eq!(decode("default/host:httpbin.org", &bytes).unwrap(), Record { version: 8, ..record });
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let bytes = encode(&record()).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(decode("default/redis", &flipped).is_err(), "bit {bit} of byte {at}");
            }
            assert!(decode("default/redis", &bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(decode("no-slash", &bytes).is_err());
    }
}
