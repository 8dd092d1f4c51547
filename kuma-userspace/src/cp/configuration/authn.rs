//! Who is believed to be whom: `dpServer.authn` and `apiServer.authn.tokens`, in Kuma's words.
//! Keeps: beyond loopback proxies and agents need a token, unless it is told outright that they do not. Called by servers.

use std::net::IpAddr;

use super::keys;
use crate::cp::tokens::{PublicKey, TokenCheck};
use crate::cp::violation::{FieldPath, Object, Reader, advice};
use crate::cp::yaml::{Node, Value};

/// Of proxies and agents.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DpAuthn {
    pub kind: AuthnKind,
    pub tokens: TokenCheck,
}

/// When a token is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AuthnKind {
    /// Where others than this machine can connect.
    #[default]
    Auto,
    DpToken,
    None,
}

/// `dpServer.authn.dpProxy.type`; Kuma's empty text leaves it to the surroundings.
pub(super) const KINDS: [(&str, AuthnKind); 3] =
    [("", AuthnKind::Auto), ("dpToken", AuthnKind::DpToken), ("none", AuthnKind::None)];

impl DpAuthn {
    /// What tokens are checked by; nothing: nobody needs one.
    pub(super) fn in_force(&self, ip: IpAddr) -> Option<&TokenCheck> {
        let needed = match self.kind {
            AuthnKind::Auto => !ip.is_loopback(),
            AuthnKind::DpToken => true,
            AuthnKind::None => false,
        };
        needed.then_some(&self.tokens)
    }
}

/// `dpServer.authn`
pub(super) fn dp_proxy(reader: &mut Reader<'_>, node: Option<&Node>, path: &FieldPath<'_>) -> DpAuthn {
    let mut authn = DpAuthn::default();
    let path = path.field("authn");
    let Some(object) = node.and_then(|node| reader.object(node, &path, &keys::names("dpServer.authn")))
    else {
        return authn;
    };
    let path = path.field("dpProxy");
    let node = object.get("dpProxy");
    let known = keys::names("dpServer.authn.dpProxy");
    let Some(object) = node.and_then(|node| reader.object(node, &path, &known)) else { return authn };
    authn.kind = kind(reader, &object, &path).unwrap_or_default();
    let path = path.field("dpToken");
    let known = keys::names("dpServer.authn.dpProxy.dpToken");
    let object = object.get("dpToken").and_then(|node| reader.object(node, &path, &known));
    authn.tokens = validator(reader, object.as_ref(), &path, Meshes::Named);
    authn
}

/// Is a public key for the tokens of one mesh?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Meshes {
    Named,
    None,
}

/// `validator` below a part that says what tokens are checked by.
pub(super) fn validator(
    reader: &mut Reader<'_>,
    above: Option<&Object<'_>>,
    path: &FieldPath<'_>,
    meshes: Meshes,
) -> TokenCheck {
    let mut check = TokenCheck::default();
    let path = path.field("validator");
    let node = above.and_then(|object| object.get("validator"));
    let Some(object) = node.and_then(|node| reader.object(node, &path, &["useSecrets", "publicKeys"])) else {
        return check;
    };
    if let Some(node) = object.get("useSecrets") {
        check.use_secrets = reader.boolean(node, &path.field("useSecrets")).unwrap_or(true);
    }
    if let Some(node) = object.get("publicKeys") {
        let path = path.field("publicKeys");
        for (at, node) in reader.list(node, &path).iter().enumerate() {
            check.public_keys.extend(public_key(reader, node, &path.index(at), meshes));
        }
    }
    check
}

fn public_key(
    reader: &mut Reader<'_>,
    node: &Node,
    path: &FieldPath<'_>,
    meshes: Meshes,
) -> Option<PublicKey> {
    let known: &[&str] = match meshes {
        Meshes::Named => &["mesh", "kid", "key", "keyFile"],
        Meshes::None => &["kid", "key", "keyFile"],
    };
    let object = reader.object(node, path, known)?;
    let mut text = |name: &'static str| match object.get(name) {
        Some(node) => reader.text(node, &path.field(name)),
        None => None,
    };
    let (mesh, kid) = (text("mesh"), text("kid"));
    let (inline, file) = (text("key"), text("keyFile"));
    for (name, missing) in [("kid", kid.is_none()), ("mesh", mesh.is_none() && meshes == Meshes::Named)] {
        if missing && object.get(name).is_none() {
            reader.report(node.line, &path.field(name), "must be given");
        }
    }
    let (name, pem) = match (inline, file) {
        (Some(inline), None) => ("key", inline.to_owned()),
        (None, Some(file)) => match std::fs::read_to_string(file) {
            Ok(text) => ("keyFile", text),
            Err(error) => {
                let line = object.get("keyFile").map_or(node.line, |node| node.line);
                reader.report(line, &path.field("keyFile"), format!("{file:?} cannot be read: {error}"));
                return None;
            }
        },
        _ => {
            reader.report(node.line, path, "give one of key (PEM) and keyFile");
            return None;
        }
    };
    let parsed = PublicKey::parse(mesh.unwrap_or_default(), kid?, &pem);
    let line = object.get(name).map_or(node.line, |node| node.line);
    parsed.map_err(|error| reader.report(line, &path.field(name), error.to_string())).ok()
}

fn kind(reader: &mut Reader<'_>, object: &Object<'_>, path: &FieldPath<'_>) -> Option<AuthnKind> {
    let (node, path) = (object.get("type")?, path.field("type"));
    let text = match &node.value {
        Value::Text(text) => text.as_str(),
        _ => reader.text(node, &path)?,
    };
    let known = KINDS.iter().find(|(word, _)| *word == text);
    if known.is_none() {
        let problem =
            format!("{text:?} is no way to tell who a proxy is: {}", advice(text, &["dpToken", "none"]));
        reader.report(node.line, &path, problem);
    }
    known.map(|(_, kind)| *kind)
}
