//! The part `store.postgres` of the configuration: which database, and how it is spoken to. Kuma's keys and defaults.
//! Called by configuration.

use super::keys;
use crate::cp::store::postgres::{Settings, Tls, TlsMode};
use crate::cp::violation::{FieldPath, Reader, advice};
use crate::cp::yaml::Node;
use crate::model::view::Port;

/// Kuma's words.
pub(super) const MODES: [(&str, TlsMode); 4] = [
    ("disable", TlsMode::Disable),
    ("verifyNone", TlsMode::VerifyNone),
    ("verifyCa", TlsMode::VerifyCa),
    ("verifyFull", TlsMode::VerifyFull),
];

pub(super) fn read(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Settings {
    let mut settings = Settings::default();
    let Some(object) = reader.object(node, path, &keys::names("store.postgres")) else { return settings };
    let texts = [
        ("host", &mut settings.host),
        ("user", &mut settings.user),
        ("password", &mut settings.password),
        ("dbName", &mut settings.db_name),
    ];
    for (name, place) in texts {
        let given = object.get(name).and_then(|node| reader.text(node, &path.field(name)));
        if let Some(text) = given {
            text.clone_into(place);
        }
    }
    let port = object
        .get("port")
        .and_then(|node| reader.integer(node, &path.field("port"), 1, u64::from(u16::MAX)))
        .and_then(|port| u16::try_from(port).ok());
    settings.port = port.map_or(settings.port, Port::new);
    if let Some(node) = object.get("tls") {
        settings.tls = tls(reader, node, &path.field("tls"));
    }
    settings
}

/// Says that nothing of it is in force, since the store is another.
pub(super) fn refuse(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) {
    let names = keys::names("store.postgres");
    let Some(object) = reader.object(node, path, &names) else { return };
    for name in names {
        if let Some(node) = object.get(name) {
            let problem = "this is for a store of type postgres: set `type: postgres`, or leave it out";
            reader.report(node.line, &path.field(name), problem);
        }
    }
}

fn tls(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Tls {
    let Some(object) = reader.object(node, path, &keys::names("store.postgres.tls")) else {
        return Tls::default();
    };
    let mode = object.get("mode").and_then(|node| {
        let path = path.field("mode");
        let text = reader.text(node, &path)?;
        let known = MODES.iter().find(|(word, _)| *word == text);
        if known.is_none() {
            let words = MODES.map(|(word, _)| word);
            reader.report(node.line, &path, format!("{text:?} is no TLS mode: {}", advice(text, &words)));
        }
        known.map(|(_, mode)| *mode)
    });
    let mut file = |name| {
        let node = object.get(name)?;
        Some((node.line, name, reader.text(node, &path.field(name))?))
    };
    let (ca, certificate, key) = (file("caPath"), file("certPath"), file("keyPath"));
    if let (Some((line, name, _)), None) | (None, Some((line, name, _))) = (certificate, key) {
        reader.report(
            line,
            &path.field(name),
            "a certificate and its key go together: give certPath and keyPath",
        );
    }
    let certificate = certificate.zip(key).map(|((.., file), (.., key))| (file.into(), key.into()));
    Tls { mode: mode.unwrap_or_default(), ca: ca.map(|(.., file)| file.into()), certificate }
}
