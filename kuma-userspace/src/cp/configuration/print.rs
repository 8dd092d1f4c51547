//! A configuration as the YAML that it could have been read from: every key, with the value in force.
//! Called by cli/control_plane.

use std::fmt;

use super::Configuration;
use super::postgres::MODES;
use crate::cp::store::StoreConfig;
use crate::cp::store::postgres::Settings;

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
        writeln!(f, "dpServer:\n  port: {}", self.dp_server_port)
    }
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
