//! Host names that HostnameGenerators make. Keeps: generators go in the order of zone-made first, then oldest, then name;
//! resources of each in the order of kind, oldest, name; the first to want a name has it, and the others are told who.
//! Called by plan, and by rest for what is shown of one resource.

use std::rc::Rc;
use std::sync::Arc;

use super::claims::Claims;
use super::rules::Rules;
use super::token;
use crate::cp::resources::Resources;
use crate::cp::template::Parsed;
use crate::model::kind::{HostnameGenerator, Meta, Resource, ResourceKind, Tags};
use crate::model::name::Hostname;
use crate::model::resource::Kind;

const DISPLAY_NAME: &str = "kuma.io/display-name";
const NAMESPACE: &str = "k8s.kuma.io/namespace";
const ORIGIN: &str = "kuma.io/origin";
const ZONE: &str = "kuma.io/zone";

/// A resource that can have names.
pub(super) struct Named<'r> {
    kind: Kind,
    meta: &'r Meta,
    labels: Tags,
}

impl<'r> Named<'r> {
    pub(super) fn new(zone: &str, kind: Kind, meta: &'r Meta) -> Self {
        Self { kind, meta, labels: labels(zone, meta) }
    }
}

/// The labels of a resource, with those that Kuma adds by itself.
pub(super) fn labels(zone: &str, meta: &Meta) -> Tags {
    let own = [
        (DISPLAY_NAME, &*meta.name),
        ("kuma.io/mesh", &meta.mesh),
        (ORIGIN, "zone"),
        (ZONE, zone),
        ("kuma.io/env", "universal"),
    ];
    own.into_iter().chain(meta.labels.iter()).collect()
}

/// All HostnameGenerators, in the order in which they make names.
pub(in crate::cp) struct Generators {
    zone: String,
    ordered: Vec<Generator>,
}

impl Generators {
    pub(in crate::cp) fn of(resources: &Resources) -> Self {
        let generators =
            resources.of(ResourceKind::HostnameGenerator).filter_map(|resource| match resource {
                Resource::HostnameGenerator(generator) => Some(generator),
                _ => None,
            });
        let mut ordered: Vec<&HostnameGenerator> = generators.collect();
        let from_zone = |meta: &Meta| meta.labels.get(ORIGIN).is_none_or(|origin| origin == "zone");
        ordered.sort_by_key(|HostnameGenerator { meta, .. }| {
            (!from_zone(meta), meta.created_secs, meta.name.clone())
        });
        let ordered = ordered.into_iter().map(Generator::new).collect();
        Self { zone: resources.settings.zone.clone(), ordered }
    }

    /// What each generator that is for this resource makes of it, whoever has the name in the end.
    pub(in crate::cp) fn made(&self, kind: Kind, meta: &Meta) -> Vec<(Arc<str>, Result<Hostname, String>)> {
        self.made_for(&Named::new(&self.zone, kind, meta)).collect()
    }

    fn made_for(&self, resource: &Named<'_>) -> impl Iterator<Item = (Arc<str>, Result<Hostname, String>)> {
        self.ordered
            .iter()
            .filter_map(|generator| Some((generator.name.clone(), generator.make(&self.zone, resource)?)))
    }
}

/// A HostnameGenerator, ready to be used.
struct Generator {
    name: Arc<str>,
    mesh_service: Option<Tags>,
    mesh_external_service: Option<Tags>,
    mesh_multi_zone_service: Option<Tags>,
    template: Result<Parsed, String>,
}

impl Generator {
    fn new(generator: &HostnameGenerator) -> Self {
        Self {
            name: generator.meta.name.clone(),
            mesh_service: generator.mesh_service.clone(),
            mesh_external_service: generator.mesh_external_service.clone(),
            mesh_multi_zone_service: generator.mesh_multi_zone_service.clone(),
            template: Parsed::new(&generator.template),
        }
    }

    /// The name that it makes for a resource; nothing if the resource is none of its.
    fn make(&self, zone: &str, resource: &Named<'_>) -> Option<Result<Hostname, String>> {
        let selector = match resource.kind {
            Kind::MeshService => &self.mesh_service,
            Kind::MeshExternalService => &self.mesh_external_service,
            Kind::MeshMultiZoneService => &self.mesh_multi_zone_service,
            Kind::Service | Kind::Host | Kind::Fqdn => &None,
        };
        if !selector.as_ref().is_some_and(|wanted| resource.labels.has(wanted)) {
            return None;
        }
        Some(self.template.as_ref().map_err(Clone::clone).and_then(|template| make(template, zone, resource)))
    }
}

pub(super) fn claim(claims: &mut Claims<'_>, rules: &Rules, mut named: Vec<Named<'_>>) {
    named.sort_by(|a, b| {
        (a.kind, a.meta.created_secs, &a.meta.name).cmp(&(b.kind, b.meta.created_secs, &b.meta.name))
    });
    let Generators { zone, ordered } = &rules.generators;
    for generator in ordered {
        let who = format!("HostnameGenerator {}", generator.name);
        for resource in &named {
            if let Some(made) = generator.make(zone, resource) {
                give(claims, resource, &who, made);
            }
        }
    }
}

fn make(template: &Parsed, zone: &str, resource: &Named<'_>) -> Result<Hostname, String> {
    let label = |key: &str| resource.labels.get(key).unwrap_or_default();
    let fields = [
        ("Name", &*resource.meta.name),
        ("DisplayName", label(DISPLAY_NAME)),
        ("Namespace", label(NAMESPACE)),
        ("Mesh", &resource.meta.mesh),
        ("Zone", resource.labels.get(ZONE).unwrap_or(zone)),
    ];
    let text = template.with_fields(&fields, &resource.labels)?;
    let strict = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    match Hostname::parse(&text) {
        Ok(_) if !text.bytes().all(strict) => {
            Err(format!("{text:?} is no host name: use only a-z, 0-9, '-' and '.' (RFC 1123)"))
        }
        Ok(name) => Ok(name),
        Err(error) => Err(error.to_string()),
    }
}

fn give(claims: &mut Claims<'_>, resource: &Named<'_>, generator: &str, made: Result<Hostname, String>) {
    let who: Rc<str> = format!("{} {}", resource.kind.word(), resource.meta.name).into();
    let key = claims.key(resource.kind, &resource.meta.name);
    let own = token::of_key(&key);
    let name = match made {
        Ok(name) => name,
        Err(message) => return claims.condition(own, &who, generator, "TemplateError", message),
    };
    if let Err(winner) = claims.name(name.clone(), &key, &who) {
        claims.conflict(&name, &winner, &who);
        let message = format!("Hostname collision on {name} with {winner}");
        claims.condition(own, &who, generator, "Collision", message);
    }
}
