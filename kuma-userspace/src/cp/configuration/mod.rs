//! The configuration of a control plane of its own: one YAML file with Kuma's keys, over it Kuma's names in the
//! environment, over both the flags.
//! Keeps: a value that was given is either in force or reported, all mistakes at once, each where it was made: by file and
//! line, by the name in the environment, by the flag. Called by cli (control_plane, up).

mod authn;
mod keys;
mod postgres;
mod print;
mod servers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::authn::{AuthnKind, DpAuthn};
use self::keys::{KEYS, Key, PREFIXES, SECTIONS};
pub use self::servers::{ApiServer, DpServer, TlsMode};
use super::dns::DEFAULT_PORT;
use super::resources::files;
use super::settings::{self, Settings};
use super::store::StoreConfig;
use super::tls::{Files, Transport};
use super::tokens::TokenCheck;
use super::violation::{FieldPath, Invalid, Place, Reader, Violation, advice};
use super::yaml::{self, Entry, Node, Value};

/// What `store.type` may say.
const STORES: [&str; 3] = ["memory", "embedded", "postgres"];
/// How mistakes name a configuration that no file holds.
const NO_FILE: &str = "configuration";

/// Everything that a control plane of its own is told beside its resources.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration {
    pub settings: Settings,
    pub store: StoreConfig,
    pub dp_server: DpServer,
    pub api_server: ApiServer,
    /// Metrics and readiness; `None`: not served.
    pub diagnostics: Option<SocketAddr>,
    /// `general`: the certificate of servers that have none of their own.
    pub certificate: Option<Files>,
}

/// Where values come from, the later over the earlier.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// All `KUMA_…` names of the environment; strangers to us are left out here.
    pub environment: Vec<(String, String)>,
    pub flags: Vec<Flag>,
    /// Where the embedded store lies unless `store.path` says otherwise.
    pub data: PathBuf,
}

/// A value from the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// `store.type`
    pub key: &'static str,
    /// `--store-type`
    pub flag: &'static str,
    pub value: String,
}

impl Configuration {
    /// What a control plane beside an agent amounts to: everything on loopback, settings from the resource files.
    pub fn beside_agent(
        settings: Settings,
        store: StoreConfig,
        xds: SocketAddr,
        api: Option<SocketAddr>,
    ) -> Self {
        let transport = Transport::Plain;
        Self {
            settings,
            store,
            dp_server: DpServer {
                addr: xds,
                tls_mode: TlsMode::default(),
                transport,
                authn: DpAuthn::default(),
            },
            api_server: ApiServer {
                http: api,
                https: None,
                localhost_is_admin: true,
                tokens: TokenCheck::default(),
            },
            diagnostics: None,
            certificate: None,
        }
    }

    /// What an operator may not have meant, each in a sentence.
    pub fn warnings(&self) -> Vec<String> {
        let DpServer { addr, transport, .. } = &self.dp_server;
        let plain = *transport == Transport::Plain && !addr.ip().is_loopback();
        let said = format!(
            "xDS on {addr} is not encrypted, as dpServer.tlsMode says: whoever is on the way reads and changes it"
        );
        let open = self.dp_server.tokens().is_none() && !addr.ip().is_loopback();
        let asked = format!(
            "xDS on {addr} asks for no token, as dpServer.authn.dpProxy.type says: whoever reaches it gets every mesh"
        );
        [plain.then_some(said), open.then_some(asked)].into_iter().flatten().collect()
    }
}

/// Reads and checks.
///
/// # Errors
/// Every mistake in every source.
pub fn load(sources: &Sources) -> Result<Configuration, Invalid> {
    let mut violations = Vec::new();
    let file: Arc<Path> = sources.file.as_deref().unwrap_or(Path::new(NO_FILE)).into();
    let mut reader = Reader { file, violations: &mut violations };
    let mut sections = if sources.file.is_some() { from_file(&mut reader) } else { BTreeMap::new() };
    let mut origins = BTreeMap::new();
    for (key, origin, value) in overrides(&mut reader, sources) {
        set(&mut sections, key, value);
        origins.insert(key.path(), origin);
    }
    let configuration = read(&mut reader, &mut sections, &sources.data);
    for violation in &mut violations {
        if let Some(origin) = origins.get(&violation.place.field) {
            violation.place = outside(origin);
        }
    }
    Invalid::check(violations)?;
    Ok(configuration)
}

/// The sections of the file; unknown ones are reported.
fn from_file(reader: &mut Reader<'_>) -> BTreeMap<String, Node> {
    let root = FieldPath::Document;
    let Some(text) = files::read(reader) else { return BTreeMap::new() };
    let mut documents = match yaml::parse(&text) {
        Ok(documents) => documents,
        Err(error) => {
            reader.report(error.line, &root, format!("not readable as YAML: {}", error.problem));
            return BTreeMap::new();
        }
    };
    if let [_, second, ..] = &documents[..] {
        reader.report(second.line, &root, "a second document: the configuration is one, resources go to -f");
    }
    if documents.is_empty() {
        return BTreeMap::new();
    }
    let document = documents.swap_remove(0);
    // Reports what is no section, and sections that are given twice.
    reader.object(&document, &root, &SECTIONS);
    let Value::Map(entries) = document.value else { return BTreeMap::new() };
    let given = entries.into_iter().filter(|entry| !matches!(entry.node.value, Value::Null));
    given.map(|entry| (entry.key, entry.node)).collect()
}

/// The values of the environment, then those of the flags: each with its key and where it was said.
fn overrides<'s>(reader: &mut Reader<'_>, sources: &'s Sources) -> Vec<(&'static Key, &'s str, &'s str)> {
    let mut found = Vec::new();
    for (name, value) in &sources.environment {
        match KEYS.iter().find(|key| !key.env.is_empty() && key.env == name) {
            Some(key) => found.push((key, name.as_str(), value.as_str())),
            None if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
                let known: Vec<&str> = KEYS.iter().map(|key| key.env).filter(|env| !env.is_empty()).collect();
                let problem =
                    format!("no setting has this name in the environment: {}", advice(name, &known));
                reader.violations.push(Violation { place: outside(name), problem });
            }
            None => {}
        }
    }
    for Flag { key, flag, value } in &sources.flags {
        let key = KEYS.iter().find(|known| known.path() == *key).expect("flags name keys of the table");
        found.push((key, flag, value));
    }
    found
}

/// Somewhere that has a name and no lines.
fn outside(name: &str) -> Place {
    Place { file: Path::new(name).into(), line: 0, field: String::new() }
}

/// Puts a value in the place of what the sources before said.
fn set(sections: &mut BTreeMap<String, Node>, key: &Key, value: &str) {
    let empty = || Node { line: 0, at: 0, value: Value::Map(Vec::new()) };
    let mut node = sections.entry(key.section.to_owned()).or_insert_with(empty);
    let (parts, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
    for part in parts.split('.').filter(|part| !part.is_empty()) {
        let Value::Map(entries) = &mut node.value else { return };
        let at = entries.iter().position(|entry| entry.key == part).unwrap_or_else(|| {
            entries.push(Entry { line: 0, key: part.to_owned(), node: empty() });
            entries.len() - 1
        });
        node = &mut entries[at].node;
        if matches!(node.value, Value::Null) {
            *node = empty();
        }
    }
    // What is no map is reported when it is read.
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|entry| entry.key != name);
        let node = Node { line: 0, at: 0, value: key.value(value) };
        entries.push(Entry { line: 0, key: name.to_owned(), node });
    }
}

fn read(reader: &mut Reader<'_>, sections: &mut BTreeMap<String, Node>, data: &Path) -> Configuration {
    let root = FieldPath::Document;
    let is_set = |node: &Node, name: &str| match &node.value {
        Value::Map(entries) => {
            entries.iter().any(|entry| entry.key == name && !matches!(entry.node.value, Value::Null))
        }
        _ => true,
    };
    let port = KEYS.iter().find(|key| key.path() == "dnsServer.port").expect("it stands in the table");
    if sections.get(port.section).is_none_or(|section| !is_set(section, port.name)) {
        set(sections, port, &DEFAULT_PORT.to_string());
    }
    let dns_server = &sections[port.section];
    let (settings, _) = settings::read(reader, dns_server, &root.field(port.section));
    let store = match sections.get("store") {
        Some(node) => store(reader, node, &root.field("store"), data),
        None => StoreConfig::Embedded(data.to_owned()),
    };
    let certificate = servers::general(reader, sections.get("general"));
    let dp_server = servers::dp_server(reader, sections.get("dpServer"), certificate.as_ref());
    let api_server = servers::api_server(reader, sections.get("apiServer"), &dp_server, certificate.as_ref());
    let diagnostics = servers::diagnostics(reader, sections.get("diagnostics"));
    Configuration { settings, store, dp_server, api_server, diagnostics, certificate }
}

fn store(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>, data: &Path) -> StoreConfig {
    let embedded = || StoreConfig::Embedded(data.to_owned());
    let Some(object) = reader.object(node, path, &keys::names("store")) else { return embedded() };
    let kind = object.get("type").and_then(|node| {
        let path = path.field("type");
        let text = reader.text(node, &path)?;
        let known = STORES.into_iter().find(|known| *known == text);
        if known.is_none() {
            reader.report(node.line, &path, format!("{text:?} is no store: {}", advice(text, &STORES)));
        }
        known
    });
    let place = object.get("path").map(|node| (node.line, reader.text(node, &path.field("path"))));
    let database = object.get("postgres");
    if kind == Some("postgres") {
        if let Some((line, _)) = place {
            reader.report(line, &path.field("path"), "a store of type postgres has no path: leave it out");
        }
        let read = database.map(|node| postgres::read(reader, node, &path.field("postgres")));
        return StoreConfig::Postgres(read.unwrap_or_default());
    }
    // With a type that is none, nobody knows what was meant.
    if let Some(node) = database.filter(|_| kind.is_some() || object.get("type").is_none()) {
        postgres::refuse(reader, node, &path.field("postgres"));
    }
    match (kind, place) {
        (Some("memory"), None) => StoreConfig::Memory,
        (Some("memory"), Some((line, _))) => {
            reader.report(line, &path.field("path"), "a store of type memory has no path: leave it out");
            StoreConfig::Memory
        }
        (_, Some((_, Some(place)))) => StoreConfig::Embedded(place.into()),
        _ => embedded(),
    }
}

#[cfg(test)]
mod tests;
