//! The YAML file that a world's control plane reads, as data that tests can change. Called by world.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use crate::backend::Speaks;

/// Settings and services in the short form, and whatever else a test needs.
#[derive(Clone, Debug)]
pub struct Mesh {
    pub cidr: String,
    pub cidr6: String,
    pub ttl_secs: u32,
    /// By service name.
    pub services: BTreeMap<String, Service>,
    /// Further documents, as they are.
    pub more: String,
}

/// One service.
#[derive(Clone, Debug)]
pub struct Service {
    pub speaks: Speaks,
    pub endpoints: Vec<SocketAddr>,
}

impl Default for Mesh {
    fn default() -> Self {
        let (cidr, cidr6) = ("240.0.0.0/4".into(), "fd00:fd00::/64".into());
        Self { cidr, cidr6, ttl_secs: 60, services: BTreeMap::new(), more: String::new() }
    }
}

impl Mesh {
    /// The file's text.
    pub fn to_yaml(&self) -> String {
        format!("{}{}", self.settings(), self.resources())
    }

    /// The settings: the beginning of the file, or a control plane's configuration.
    pub fn settings(&self) -> String {
        let Self { cidr, cidr6, ttl_secs, .. } = self;
        format!("dnsServer: {{domain: mesh, CIDR: {cidr}, CIDR6: \"{cidr6}\", ttl: {ttl_secs}}}\n")
    }

    /// Everything but the settings.
    pub fn resources(&self) -> String {
        let Self { services, more, .. } = self;
        let mut text = String::from(if services.is_empty() { "services: []\n" } else { "services:\n" });
        for (name, Service { speaks, endpoints }) in services {
            let protocol = match speaks {
                Speaks::Http => "http",
                Speaks::Tcp => "tcp",
            };
            let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
            let endpoints = endpoints.join(", ");
            writeln!(
                text,
                "  - {{mesh: default, service: {name}, protocol: {protocol}, endpoints: [{endpoints}]}}"
            )
            .expect("a String takes all text");
        }
        if !more.is_empty() {
            text.push_str("---\n");
            text.push_str(more);
        }
        text
    }
}
