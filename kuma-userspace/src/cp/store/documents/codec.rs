//! A document as bytes: a checksum, three numbers, then the body as it is.
//! Keeps: bytes that were changed by anything but us are never taken for a document. Called by store::embedded and
//! store::postgres.

use super::Document;
use super::batch::Standing;
use crate::cp::store::codec::{Damage, checked, with_checksum};
use crate::model::kind::{ResourceKey, ResourceKind};

/// Revision, creation and modification, eight bytes each.
const NUMBERS_BYTES: usize = 24;

/// The key as it stands in the store: `kind/mesh/name`. A mesh name holds no slash.
pub(in crate::cp::store) fn text(key: &ResourceKey) -> String {
    format!("{}/{}/{}", key.kind.word(), key.mesh, key.name)
}

/// The key that [`text`] printed.
pub(in crate::cp::store) fn parse(text: &str) -> Option<ResourceKey> {
    let (kind, rest) = text.split_once('/')?;
    let (mesh, name) = rest.split_once('/')?;
    let key = ResourceKey::new(ResourceKind::parse(kind)?, mesh, name);
    (*key.mesh == *mesh).then_some(key)
}

/// The bytes that stand under the document's key.
pub(in crate::cp::store) fn encode(document: &Document) -> Vec<u8> {
    let mut content = Vec::with_capacity(NUMBERS_BYTES + document.body.len());
    content.extend(document.revision.to_be_bytes());
    content.extend(document.created_secs.to_be_bytes());
    content.extend(document.modified_secs.to_be_bytes());
    content.extend(document.body.as_bytes());
    with_checksum(&text(&document.key), &content)
}

/// The document that stands under a key.
pub(in crate::cp::store) fn decode(key: &str, bytes: &[u8]) -> Result<Document, Damage> {
    let parsed = parse(key).ok_or_else(|| Damage::DocumentKey(key.into()))?;
    let content = checked(key, bytes)?;
    let (numbers, body) = content.split_first_chunk::<NUMBERS_BYTES>().ok_or(Damage::Short(bytes.len()))?;
    let number = |at: usize| {
        let mut raw = [0; 8];
        raw.copy_from_slice(&numbers[at..at + 8]);
        raw
    };
    Ok(Document {
        key: parsed,
        revision: u64::from_be_bytes(number(0)),
        created_secs: i64::from_be_bytes(number(8)),
        modified_secs: i64::from_be_bytes(number(16)),
        body: std::str::from_utf8(body).map_err(Damage::Text)?.into(),
    })
}

/// What a batch must know of the document in these bytes; damaged bytes count as none, so that they can be replaced.
pub(in crate::cp::store) fn standing(key: &str, bytes: &[u8]) -> Option<Standing> {
    let Document { revision, created_secs, .. } = decode(key, bytes).ok()?;
    Some(Standing { revision, created_secs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_every_kind_is_read_as_it_is_stored() {
        for kind in ResourceKind::ALL {
            let key = ResourceKey::new(kind, "default", "a.b/c:d");
            assert_eq!(parse(&text(&key)), Some(key));
        }
        assert_eq!(text(&ResourceKey::new(ResourceKind::Mesh, "", "default")), "Mesh//default");
        for wrong in ["MeshService/default", "meshservice/default/a", "Mesh", "Mesh/default/a"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_document_survives_the_round_trip_and_every_flipped_bit_and_cut_is_damage() {
        let key = ResourceKey::new(ResourceKind::Mesh, "", "default");
        let body = r#"{"type":"Mesh","name":"default"}"#.into();
        let document = Document { key, revision: 7, created_secs: -1, modified_secs: 1_800_000_000, body };
        let bytes = encode(&document);
        assert_eq!(decode("Mesh//default", &bytes).unwrap(), document);
        assert_eq!(standing("Mesh//default", &bytes), Some(Standing { revision: 7, created_secs: -1 }));
        for key in ["Mesh//other", "Mash//default", "default"] {
            assert!(decode(key, &bytes).is_err(), "{key}: the document is another's");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(decode("Mesh//default", &flipped).is_err(), "bit {bit} of byte {at}");
            }
            assert!(decode("Mesh//default", &bytes[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(standing("Mesh//default", &bytes[..20]), None);
    }
}
