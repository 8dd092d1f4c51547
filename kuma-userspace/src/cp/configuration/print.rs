//! A configuration as the YAML that it could have been read from: every key, with the value in force.
//! Called by cli (control_plane, up).

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use super::authn::KINDS;
use super::postgres::MODES;
use super::servers::TLS_MODES;
use super::{ApiServer, Configuration, DpServer};
use crate::cp::store::StoreConfig;
use crate::cp::store::postgres::Settings;
use crate::cp::tls::{Files, Transport};
use crate::cp::tokens::{PublicKey, TokenCheck};

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        let networks: Vec<String> = settings.pools.ranges().iter().map(ToString::to_string).collect();
        let (first, second) = (&networks[0], networks.get(1).map_or("", String::as_str));
        let port = settings.dns_server.port.map_or(0, |port| port.get());
        let address = settings.dns_server.address.map(|address| address.to_string()).unwrap_or_default();
        writeln!(f, "dnsServer:")?;
        writeln!(f, "  domain: {}", quoted(settings.domain.as_str()))?;
        writeln!(f, "  CIDR: {}", quoted(first))?;
        writeln!(f, "  CIDR6: {}", quoted(second))?;
        writeln!(f, "  ttl: {}", settings.ttl_secs)?;
        writeln!(f, "  rest: {}", settings.rest_secs)?;
        writeln!(f, "  serviceVipEnabled: {}", settings.service_vip_enabled)?;
        writeln!(f, "  serviceVipPort: {}", settings.service_vip_port)?;
        writeln!(f, "  # 0: no DNS server; no address: loopback")?;
        writeln!(f, "  port: {port}")?;
        writeln!(f, "  address: {}", quoted(&address))?;
        writeln!(f, "store:")?;
        match &self.store {
            StoreConfig::Memory => writeln!(f, "  type: memory")?,
            StoreConfig::Embedded(path) => {
                writeln!(f, "  type: embedded\n  path: {}", quoted(&path.to_string_lossy()))?;
            }
            StoreConfig::Postgres(settings) => postgres(f, settings)?,
        }
        writeln!(f, "general:")?;
        files(f, "  ", self.certificate.as_ref())?;
        self.dp_server(f)?;
        self.api_server(f)?;
        writeln!(f, "diagnostics:")?;
        match self.diagnostics {
            None => writeln!(f, "  serverPort: 0"),
            Some(addr) => {
                writeln!(f, "  serverPort: {}\n  address: {}", addr.port(), quoted(&addr.ip().to_string()))
            }
        }
    }
}

impl Configuration {
    /// The same as JSON.
    ///
    /// # Panics
    /// Never: what it writes it can read.
    pub fn to_json(&self) -> serde_json::Value {
        serde_saphyr::from_str(&self.to_string()).expect("a configuration prints as YAML")
    }

    fn dp_server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DpServer { addr, tls_mode, transport, authn } = &self.dp_server;
        let mode = TLS_MODES.iter().find(|(_, mode)| mode == tls_mode).map_or("", |(word, _)| word);
        writeln!(f, "dpServer:\n  port: {}\n  address: {}", addr.port(), quoted(&addr.ip().to_string()))?;
        let said = match transport {
            Transport::Plain => "plain",
            Transport::Tls(_) => "TLS",
            Transport::Issued => "TLS, with a certificate of our own authority",
        };
        writeln!(f, "  # in force: {said}\n  tlsMode: {mode}")?;
        files(f, "  ", own(transport, "dpServer"))?;
        let said = if self.dp_server.tokens().is_some() { "dpToken" } else { "none" };
        let kind = KINDS.iter().find(|(_, kind)| *kind == authn.kind).map_or("", |(word, _)| word);
        writeln!(f, "  authn:\n    dpProxy:\n      # in force: {said}\n      type: {}", quoted(kind))?;
        writeln!(f, "      dpToken:")?;
        validator(f, "        ", &authn.tokens)
    }

    fn api_server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ApiServer { http, https, localhost_is_admin, tokens } = &self.api_server;
        writeln!(f, "apiServer:\n  http:")?;
        listen(f, *http)?;
        writeln!(f, "  https:")?;
        listen(f, https.as_ref().map(|(addr, _)| *addr))?;
        let own = https.as_ref().and_then(|(_, transport)| own(transport, "apiServer.https"));
        files(f, "    ", own)?;
        writeln!(f, "  authn:\n    localhostIsAdmin: {localhost_is_admin}\n    tokens:")?;
        validator(f, "      ", tokens)
    }
}

fn validator(f: &mut fmt::Formatter<'_>, indent: &str, check: &TokenCheck) -> fmt::Result {
    writeln!(f, "{indent}validator:\n{indent}  useSecrets: {}", check.use_secrets)?;
    if check.public_keys.is_empty() {
        return writeln!(f, "{indent}  publicKeys: []");
    }
    writeln!(f, "{indent}  publicKeys:")?;
    for PublicKey { mesh, kid, pem } in &check.public_keys {
        let mesh = if mesh.is_empty() { String::new() } else { format!("mesh: {}, ", quoted(mesh)) };
        writeln!(f, "{indent}  - {{{mesh}kid: {}, key: {}}}", quoted(kid), quoted(pem))?;
    }
    Ok(())
}

/// The files of a section itself, not those of `general`.
fn own<'t>(transport: &'t Transport, section: &str) -> Option<&'t Files> {
    match transport {
        Transport::Tls(files) if files.section == section => Some(files),
        _ => None,
    }
}

fn listen(f: &mut fmt::Formatter<'_>, addr: Option<SocketAddr>) -> fmt::Result {
    writeln!(f, "    enabled: {}", addr.is_some())?;
    let Some(addr) = addr else { return Ok(()) };
    writeln!(f, "    interface: {}\n    port: {}", quoted(&addr.ip().to_string()), addr.port())
}

fn files(f: &mut fmt::Formatter<'_>, indent: &str, files: Option<&Files>) -> fmt::Result {
    let shown = |path: fn(&Files) -> &Path| files.map(path).unwrap_or(Path::new("")).to_string_lossy();
    writeln!(f, "{indent}tlsCertFile: {}", quoted(&shown(|files| &files.certificate)))?;
    writeln!(f, "{indent}tlsKeyFile: {}", quoted(&shown(|files| &files.key)))
}

fn postgres(f: &mut fmt::Formatter<'_>, settings: &Settings) -> fmt::Result {
    let Settings { host, port, user, password: _, db_name, tls } = settings;
    writeln!(f, "  type: postgres\n  postgres:\n    host: {}\n    port: {port}", quoted(host))?;
    writeln!(f, "    user: {}\n    # password: not shown\n    dbName: {}", quoted(user), quoted(db_name))?;
    let mode = MODES.iter().find(|(_, mode)| *mode == tls.mode).map_or("", |(word, _)| word);
    writeln!(f, "    tls:\n      mode: {mode}")?;
    let certificate = tls.certificate.as_ref();
    let files = [
        ("caPath", tls.ca.as_ref()),
        ("certPath", certificate.map(|(file, _)| file)),
        ("keyPath", certificate.map(|(_, key)| key)),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            writeln!(f, "      {name}: {}", quoted(&file.to_string_lossy()))?;
        }
    }
    Ok(())
}

/// JSON's quotes are YAML's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
