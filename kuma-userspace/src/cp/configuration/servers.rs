//! Where the servers for proxies, agents and operators listen, and how: `dpServer`, `apiServer`, and `general` for both.
//! Keeps: beyond loopback xDS is TLS, unless it is told outright that it is not. Called by configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::authn::{self, DpAuthn, Meshes};
use super::keys;
use crate::cp::tls::{Files, Transport};
use crate::cp::tokens::TokenCheck;
use crate::cp::violation::{FieldPath, Object, Reader, advice};
use crate::cp::yaml::{Node, Value};

/// Kuma's port for proxies.
const DP_SERVER_PORT: u16 = 5678;
/// Kuma's ports for operators.
const HTTP_PORT: u16 = 5681;
const HTTPS_PORT: u16 = 5682;

/// xDS for proxies and agents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DpServer {
    pub addr: SocketAddr,
    pub tls_mode: TlsMode,
    /// What follows from all of it.
    pub transport: Transport,
    pub authn: DpAuthn,
}

impl DpServer {
    /// What the tokens of proxies and agents are checked by; nothing: they need none.
    pub fn tokens(&self) -> Option<&TokenCheck> {
        self.authn.in_force(self.addr.ip())
    }
}

/// When xDS is TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    /// When it is not on loopback, or there is a certificate.
    #[default]
    Auto,
    Always,
    Never,
}

/// `dpServer.tlsMode`
pub(super) const TLS_MODES: [(&str, TlsMode); 3] =
    [("auto", TlsMode::Auto), ("always", TlsMode::Always), ("never", TlsMode::Never)];

/// REST for operators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiServer {
    /// `None`: not served.
    pub http: Option<SocketAddr>,
    /// Served where xDS is TLS too, or where there is a certificate.
    pub https: Option<(SocketAddr, Transport)>,
    /// Is whoever comes over loopback an administrator?
    pub localhost_is_admin: bool,
    /// What the tokens of users are checked by.
    pub tokens: TokenCheck,
}

/// `general`: the certificate of every server that has none of its own.
pub(super) fn general(reader: &mut Reader<'_>, node: Option<&Node>) -> Option<Files> {
    let path = FieldPath::Document.field("general");
    let object = reader.object(node?, &path, &keys::names("general"))?;
    files(reader, &object, &path, "general")
}

pub(super) fn dp_server(reader: &mut Reader<'_>, node: Option<&Node>, general: Option<&Files>) -> DpServer {
    let path = FieldPath::Document.field("dpServer");
    let empty = empty();
    let node = node.unwrap_or(&empty);
    let object = reader.object(node, &path, &keys::names("dpServer"));
    let object = object.as_ref();
    let port = object.and_then(|object| port(reader, object, &path, "port", 1)).unwrap_or(DP_SERVER_PORT);
    let ip = object.and_then(|object| address(reader, object, &path, "address"));
    let addr = SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), port);
    let tls_mode = object.and_then(|object| tls_mode(reader, object, &path)).unwrap_or_default();
    let own = object.and_then(|object| files(reader, object, &path, "dpServer"));
    if let (TlsMode::Never, Some(object), Some(_)) = (tls_mode, object, &own) {
        let problem = "with `tlsMode: never` nobody uses a certificate: leave one of the two out";
        let line = object.get("tlsCertFile").map_or(node.line, |node| node.line);
        reader.report(line, &path.field("tlsCertFile"), problem);
    }
    let certificate = own.or_else(|| general.cloned());
    let transport = match (tls_mode, certificate) {
        (TlsMode::Never, _) => Transport::Plain,
        (TlsMode::Auto, None) if addr.ip().is_loopback() => Transport::Plain,
        (_, Some(files)) => Transport::Tls(files),
        (_, None) => Transport::Issued,
    };
    let authn = authn::dp_proxy(reader, object.and_then(|object| object.get("authn")), &path);
    DpServer { addr, tls_mode, transport, authn }
}

pub(super) fn api_server(
    reader: &mut Reader<'_>,
    node: Option<&Node>,
    dp_server: &DpServer,
    general: Option<&Files>,
) -> ApiServer {
    let path = FieldPath::Document.field("apiServer");
    let empty = empty();
    let object = reader.object(node.unwrap_or(&empty), &path, &keys::names("apiServer"));
    let object = object.as_ref();
    let mut server = |name: &'static str, default: u16| {
        let path = path.field(name);
        let node = object.and_then(|object| object.get(name));
        let known = keys::names(&format!("apiServer.{name}"));
        let object = reader.object(node.unwrap_or(&empty), &path, &known);
        let object = object.as_ref();
        let enabled = object
            .and_then(|object| reader.boolean(object.get("enabled")?, &path.field("enabled")))
            .unwrap_or(true);
        let ip = object.and_then(|object| address(reader, object, &path, "interface"));
        let port = object.and_then(|object| port(reader, object, &path, "port", 0)).unwrap_or(default);
        let files = object
            .filter(|_| name == "https")
            .and_then(|object| files(reader, object, &path, "apiServer.https"));
        let addr = SocketAddr::new(ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
        ((enabled && port != 0).then_some(addr), files)
    };
    let (http, _) = server("http", HTTP_PORT);
    let (https, own) = server("https", HTTPS_PORT);
    let authn = object.and_then(|object| object.get("authn"));
    let path = path.field("authn");
    let authn = authn.and_then(|node| reader.object(node, &path, &keys::names("apiServer.authn")));
    let localhost_is_admin = authn
        .as_ref()
        .and_then(|authn| reader.boolean(authn.get("localhostIsAdmin")?, &path.field("localhostIsAdmin")))
        .unwrap_or(true);
    let path = path.field("tokens");
    let known = keys::names("apiServer.authn.tokens");
    let tokens = authn.as_ref().and_then(|authn| reader.object(authn.get("tokens")?, &path, &known));
    let tokens = authn::validator(reader, tokens.as_ref(), &path, Meshes::None);
    let transport = match own.or_else(|| general.cloned()) {
        Some(files) => Some(Transport::Tls(files)),
        None => (dp_server.transport != Transport::Plain).then_some(Transport::Issued),
    };
    ApiServer { http, https: https.zip(transport), localhost_is_admin, tokens }
}

/// Where metrics and readiness are; nothing for port 0. On loopback unless told otherwise.
pub(super) fn diagnostics(reader: &mut Reader<'_>, node: Option<&Node>) -> Option<SocketAddr> {
    let path = FieldPath::Document.field("diagnostics");
    let empty = empty();
    let object = reader.object(node.unwrap_or(&empty), &path, &keys::names("diagnostics"));
    let object = object.as_ref();
    let port = object.and_then(|object| port(reader, object, &path, "serverPort", 0));
    let ip = object.and_then(|object| address(reader, object, &path, "address"));
    let addr = SocketAddr::new(
        ip.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        port.unwrap_or(crate::cp::diagnostics::DEFAULT_PORT),
    );
    (addr.port() != 0).then_some(addr)
}

fn empty() -> Node {
    Node { line: 0, at: 0, value: Value::Map(Vec::new()) }
}

fn tls_mode(reader: &mut Reader<'_>, object: &Object<'_>, path: &FieldPath<'_>) -> Option<TlsMode> {
    let (node, path) = (object.get("tlsMode")?, path.field("tlsMode"));
    let text = reader.text(node, &path)?;
    let known = TLS_MODES.iter().find(|(word, _)| *word == text);
    if known.is_none() {
        let words = TLS_MODES.map(|(word, _)| word);
        reader.report(node.line, &path, format!("{text:?} is no TLS mode: {}", advice(text, &words)));
    }
    known.map(|(_, mode)| *mode)
}

fn port(
    reader: &mut Reader<'_>,
    object: &Object<'_>,
    path: &FieldPath<'_>,
    name: &'static str,
    min: u64,
) -> Option<u16> {
    let port = reader.integer(object.get(name)?, &path.field(name), min, u64::from(u16::MAX))?;
    u16::try_from(port).ok()
}

/// `--print-config` writes what is not set as an empty text.
fn given<'n>(object: &Object<'n>, name: &str) -> Option<&'n Node> {
    object.get(name).filter(|node| !matches!(&node.value, Value::Text(text) if text.is_empty()))
}

fn address(
    reader: &mut Reader<'_>,
    object: &Object<'_>,
    path: &FieldPath<'_>,
    name: &'static str,
) -> Option<IpAddr> {
    let (node, path) = (given(object, name)?, path.field(name));
    let text = reader.text(node, &path)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let problem =
            format!("{text:?} is no IP address: write it like 127.0.0.1, or 0.0.0.0 for all of them");
        reader.report(node.line, &path, problem);
    }
    parsed
}

/// `tlsCertFile` and `tlsKeyFile`, which go together.
fn files(
    reader: &mut Reader<'_>,
    object: &Object<'_>,
    path: &FieldPath<'_>,
    section: &'static str,
) -> Option<Files> {
    let mut file = |name| {
        let node = given(object, name)?;
        Some((node.line, name, reader.text(node, &path.field(name))?))
    };
    let (certificate, key) = (file("tlsCertFile"), file("tlsKeyFile"));
    if let (Some((line, name, _)), None) | (None, Some((line, name, _))) = (certificate, key) {
        let problem = "a certificate and its key go together: give tlsCertFile and tlsKeyFile";
        reader.report(line, &path.field(name), problem);
    }
    let ((.., certificate), (.., key)) = certificate.zip(key)?;
    Some(Files { certificate: certificate.into(), key: key.into(), section })
}
