//! What became of a resource that has a VIP: its addresses, its names with the generators that made them, and why others made
//! none; in the places where Kuma 2.9 and later have them. Called by rest::item.

use serde::Serialize;

use super::listing::{View, kind_with_vip};
use crate::cp::registry::Listed;
use crate::model::kind::ResourceKey;
use crate::model::name::Hostname;
use crate::model::resource::Kind;

/// Kuma's word for names that generators make.
const GENERATOR: &str = "HostnameGenerator";

/// The field `status`. A VIP or a name that is missing is left out, as in Kuma.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status<'v> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Address<'v>>,
    /// MeshService and MeshMultiZoneService.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vips: Vec<Vip>,
    /// MeshExternalService, which has room for one: the IPv4 address if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    vip: Option<Vip>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hostname_generators: Vec<Generator>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Address<'v> {
    hostname: &'v str,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname_generator_ref: Option<Reference>,
}

#[derive(Serialize)]
struct Vip {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Generator {
    hostname_generator_ref: Reference,
    conditions: [Condition; 1],
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    core_name: String,
}

#[derive(Serialize)]
struct Condition {
    r#type: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl<'v> Status<'v> {
    /// Nothing for kinds that have no VIP.
    pub(super) fn of(key: &ResourceKey, listed: &Listed, view: &'v View) -> Option<Self> {
        let kind = kind_with_vip(key.kind)?;
        let published = view.published(key);
        let names = published.map_or(&[][..], |published| &published.entry.hostnames);
        let made = view.generators().made(kind, listed.resource.meta());
        let made_by = |name: &Hostname| {
            let generator = made.iter().find(|(_, made)| made.as_ref() == Ok(name));
            generator.map(|(generator, _)| Reference { core_name: generator.to_string() })
        };
        let address = |name: &'v Hostname| Address {
            hostname: name.as_str(),
            origin: GENERATOR,
            hostname_generator_ref: made_by(name),
        };
        let addresses = names.iter().map(address).collect();
        let generators = made.iter().filter_map(|(generator, made)| {
            let condition = match made {
                Ok(name) if names.contains(name) => Condition::made(),
                // Whose it is shows only with the VIP.
                Ok(_) if published.is_none() => return None,
                Ok(name) => Condition::failed("Collision", collision(view, key, generator, name)),
                Err(message) => Condition::failed("TemplateError", message.clone()),
            };
            let hostname_generator_ref = Reference { core_name: generator.to_string() };
            Some(Generator { hostname_generator_ref, conditions: [condition] })
        });
        let hostname_generators = generators.collect();
        let ips = published.map(|published| {
            let addresses = published.addresses;
            addresses.v4.map(|ip| ip.to_string()).into_iter().chain(addresses.v6.map(|ip| ip.to_string()))
        });
        let mut ips = ips.into_iter().flatten().map(|ip| Vip { ip: Some(ip) });
        let (vips, vip) = match kind {
            Kind::MeshExternalService => (Vec::new(), Some(ips.next().unwrap_or(Vip { ip: None }))),
            _ => (ips.collect(), None),
        };
        Some(Self { addresses, vips, vip, hostname_generators })
    }
}

impl Condition {
    fn made() -> Self {
        Self { r#type: "Generated", status: "True", reason: "Generated", message: String::new() }
    }

    fn failed(reason: &'static str, message: String) -> Self {
        Self { r#type: "Generated", status: "False", reason, message }
    }
}

/// Who has the name, as far as the control plane's status says it.
fn collision(view: &View, key: &ResourceKey, generator: &str, name: &Hostname) -> String {
    let (resource, generator) = (format!("{} {}", key.kind, key.name), format!("{GENERATOR} {generator}"));
    let status = view.status.borrow();
    let told = status.conditions.iter().find(|condition| {
        condition.mesh == *key.mesh && condition.resource == resource && condition.generator == generator
    });
    told.map_or_else(|| format!("Hostname collision on {name}"), |told| told.message.clone())
}
