//! Tokens made and believed, and every way in which one is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::cp::secrets::Secrets;
use crate::cp::store::MemoryDocuments;
use crate::cp::store::documents::{Documents, Expected, Write};
use crate::model::kind::{ResourceKey, ResourceKind};

const HOUR: u64 = 3_600;

struct Plane {
    documents: Arc<MemoryDocuments>,
    secrets: Secrets,
    issuer: Issuer,
    verifier: Verifier,
}

fn plane() -> Plane {
    let documents = Arc::new(MemoryDocuments::default());
    let secrets = Secrets::open(documents.clone()).unwrap();
    let issuer = Issuer::new(secrets.clone());
    let verifier = Verifier::new(Some(secrets.clone()), &[]).unwrap();
    Plane { documents, secrets, issuer, verifier }
}

fn web(mesh: &str) -> DataplaneIdentity {
    let tags = BTreeMap::from([("kuma.io/service".into(), vec!["web".into(), "api".into()])]);
    DataplaneIdentity { mesh: mesh.into(), name: "web-1".into(), tags }
}

impl Plane {
    fn refusal(&self, token: &str, mesh: &str) -> String {
        self.verifier.dataplane(token, mesh).unwrap_err().to_string()
    }

    fn put_secret(&self, mesh: &str, name: &str, text: &str) {
        let key = ResourceKey::new(ResourceKind::Secret, mesh, name);
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let body = format!(r#"{{"type":"Secret","mesh":"{mesh}","name":"{name}","data":"{data}"}}"#).into();
        self.documents.write(&[Write::Put { key, body, expected: Expected::Any }]).unwrap();
        self.secrets.refresh().unwrap();
    }
}

/// The parts of a token, decoded: header and claims.
fn parts(token: &str) -> [serde_json::Value; 2] {
    let mut parts = token.split('.').map(|part| {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, part).unwrap();
        serde_json::from_slice(&bytes).unwrap_or_default()
    });
    [parts.next().unwrap(), parts.next().unwrap()]
}

#[test]
fn a_token_has_kumas_form_and_says_who_it_is_for() {
    let plane = plane();
    let token = plane.issuer.dataplane(web("default"), HOUR).unwrap();
    let [header, claims] = parts(&token);
    assert_eq!((header["alg"].as_str(), header["kid"].as_str()), (Some("RS256"), Some("1")));
    assert_eq!(claims["Name"], "web-1");
    assert_eq!(claims["Mesh"], "default");
    assert_eq!(claims["Type"], "dataplane");
    assert_eq!(claims["Tags"]["kuma.io/service"][1], "api");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3_600);
    assert_eq!(claims["jti"].as_str().unwrap().len(), 32);
    let verified = plane.verifier.dataplane(&token, "default").unwrap();
    assert_eq!(verified.identity, web("default"));
    let left = verified.expires.duration_since(std::time::SystemTime::now()).unwrap().as_secs();
    assert!((HOUR - 5..=HOUR).contains(&left), "{left}");
    let again = plane.issuer.dataplane(web("default"), HOUR).unwrap();
    assert_eq!(
        plane.secrets.names("default", "dataplane-token-signing-key-default").len(),
        1,
        "one key for both"
    );
    assert_ne!(parts(&again)[1]["jti"], claims["jti"]);
}

#[test]
fn a_token_of_another_replica_of_the_store_is_believed_and_of_another_store_is_not() {
    let (one, other) = (plane(), plane());
    let token = one.issuer.dataplane(web("default"), HOUR).unwrap();
    let replica = Secrets::open(one.documents.clone()).unwrap();
    let replica = Verifier::new(Some(replica), &[]).unwrap();
    assert!(replica.dataplane(&token, "default").is_ok());
    assert!(other.refusal(&token, "default").contains("signing key \"1\" is not known here"));
    other.issuer.dataplane(web("default"), HOUR).unwrap();
    other.secrets.refresh().unwrap();
    assert!(other.refusal(&token, "default").contains("its signature is wrong"));
}

#[test]
fn every_token_that_is_not_believed_says_why() {
    let plane = plane();
    let token = plane.issuer.dataplane(web("default"), HOUR).unwrap();
    assert!(plane.refusal(&token, "b").contains("it is for mesh \"default\", and not for \"b\""));
    for wrong in ["", "a.b.c", "hello", &token[..token.len() / 2]] {
        assert!(plane.refusal(wrong, "default").contains("no token"), "{wrong:?}");
    }
    let cut = token.rfind('.').unwrap() + 1;
    let changed = format!("{}{}", &token[..cut], "A".repeat(token.len() - cut));
    assert!(plane.refusal(&changed, "default").contains("signature"));
    let expired = plane.issuer.dataplane(web("default"), 0).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert!(plane.refusal(&expired, "default").contains("it expired at 2"));
    // Signed with the public key as if it were a shared secret: the classic attack.
    let [_, claims] = parts(&token);
    let pem = String::from_utf8(
        plane.secrets.get("default", "dataplane-token-signing-key-default-1").unwrap().unwrap(),
    );
    let secret = jsonwebtoken::EncodingKey::from_secret(public_key_pem(&pem.unwrap()).unwrap().as_bytes());
    let header = jsonwebtoken::Header { kid: Some("1".into()), ..Default::default() };
    let forged = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
    assert!(plane.refusal(&forged, "default").contains("no token that is signed with RS256"));
}

#[test]
fn a_revoked_token_and_a_deleted_key_are_not_believed_and_a_newer_key_signs() {
    let plane = plane();
    let token = plane.issuer.dataplane(web("default"), HOUR).unwrap();
    let id = parts(&token)[1]["jti"].as_str().unwrap().to_owned();
    plane.put_secret("default", "dataplane-token-revocations-default", &format!("x, {id},y"));
    assert_eq!(plane.refusal(&token, "default"), "it was revoked");
    plane.put_secret("default", "dataplane-token-signing-key-default-12", &signing_key_pem().unwrap());
    let newer = plane.issuer.dataplane(web("default"), HOUR).unwrap();
    assert_eq!(parts(&newer)[0]["kid"], "12");
    assert!(plane.verifier.dataplane(&newer, "default").is_ok());
    let key = ResourceKey::new(ResourceKind::Secret, "default", "dataplane-token-signing-key-default-12");
    plane.documents.write(&[Write::Delete { key, expected: Expected::Any }]).unwrap();
    plane.secrets.refresh().unwrap();
    assert!(plane.refusal(&newer, "default").contains("\"12\" is not known"));
}

#[test]
fn offline_keys_are_believed_by_their_public_part_for_their_mesh() {
    let private = signing_key_pem().unwrap();
    let public = public_key_pem(&private).unwrap();
    let offline = OfflineKey::parse("laptop", &private).unwrap();
    let key = PublicKey::parse("default", "laptop", &public).unwrap();
    let verifier = Verifier::new(None, &[key]).unwrap();
    let token = offline.dataplane(web("default"), HOUR).unwrap();
    assert_eq!(verifier.dataplane(&token, "default").unwrap().identity, web("default"));
    let other = offline.dataplane(web("b"), HOUR).unwrap();
    assert!(verifier.dataplane(&other, "b").unwrap_err().to_string().contains("not known"));
    assert!(
        PublicKey::parse("default", "x", &private).is_err()
            && PublicKey::parse("default", "x", "hello").is_err()
    );
    assert!(OfflineKey::parse("x", &public).is_err());
}

#[test]
fn the_administrators_token_is_one_and_belongs_to_kumas_group() {
    let plane = plane();
    let token = plane.issuer.admin().unwrap();
    assert_eq!(plane.issuer.admin().unwrap(), token);
    let identity = plane.verifier.user(&token).unwrap().identity;
    assert_eq!(identity, UserIdentity { name: ADMIN.into(), groups: vec![ADMIN.into()] });
    assert!(plane.verifier.user(&plane.issuer.dataplane(web("default"), HOUR).unwrap()).is_err());
}

#[test]
fn requests_are_kumas_and_every_mistake_is_named_with_its_field() {
    let plane = plane();
    let body = br#"{"name":"web-1","mesh":"default","tags":{"kuma.io/service":["web","api"]},"type":"dataplane","validFor":"1h"}"#;
    let token = plane.issuer.dataplane_request(body).unwrap();
    assert_eq!(plane.verifier.dataplane(&token, "default").unwrap().identity, web("default"));
    let token = plane.issuer.user_request(br#"{"name":"john","groups":["team"],"validFor":"24h"}"#).unwrap();
    assert_eq!(plane.verifier.user(&token).unwrap().identity.groups, ["team"]);
    let mistakes = |body: &[u8]| match plane.issuer.dataplane_request(body) {
        Err(RequestError::Invalid(wrong)) => wrong.into_iter().map(|wrong| wrong.field).collect(),
        other => vec![format!("{other:?}")],
    };
    assert_eq!(mistakes(br#"{"type":"ingress","validFor":"soon"}"#), ["mesh", "type", "validFor"]);
    assert_eq!(mistakes(br#"{"mesh":"default","tag":{}}"#), [""]);
    assert!(
        matches!(plane.issuer.user_request(b"{}"), Err(RequestError::Invalid(wrong)) if wrong.len() == 2)
    );
}
