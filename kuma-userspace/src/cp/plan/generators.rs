//! Host names that HostnameGenerators make. Keeps: generators go in the order of zone-made first, then oldest, then name;
//! resources of each in the order of kind, oldest, name; the first to want a name has it, and the others are told who.
//! Called by plan.

use std::rc::Rc;

use super::claims::Claims;
use crate::cp::template::Parsed;
use crate::model::kind::{HostnameGenerator, Meta, Tags};
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

pub(super) fn claim(
    claims: &mut Claims<'_>,
    zone: &str,
    generators: &[&HostnameGenerator],
    mut named: Vec<Named<'_>>,
) {
    named.sort_by(|a, b| {
        (a.kind, a.meta.created_secs, &a.meta.name).cmp(&(b.kind, b.meta.created_secs, &b.meta.name))
    });
    let mut ordered: Vec<&HostnameGenerator> = generators.to_vec();
    let from_zone = |meta: &Meta| meta.labels.get(ORIGIN).is_none_or(|origin| origin == "zone");
    ordered.sort_by_key(|generator| {
        (!from_zone(&generator.meta), generator.meta.created_secs, generator.meta.name.clone())
    });
    for generator in ordered {
        let who = format!("HostnameGenerator {}", generator.meta.name);
        let template = Parsed::new(&generator.template);
        for resource in named.iter().filter(|resource| selects(generator, resource)) {
            let made =
                template.as_ref().map_err(Clone::clone).and_then(|template| make(template, zone, resource));
            give(claims, resource, &who, made);
        }
    }
}

fn selects(generator: &HostnameGenerator, resource: &Named<'_>) -> bool {
    let selector = match resource.kind {
        Kind::MeshService => &generator.mesh_service,
        Kind::MeshExternalService => &generator.mesh_external_service,
        Kind::MeshMultiZoneService => &generator.mesh_multi_zone_service,
        Kind::Service | Kind::Host | Kind::Fqdn => &None,
    };
    selector.as_ref().is_some_and(|wanted| resource.labels.has(wanted))
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
    let name = match made {
        Ok(name) => name,
        Err(message) => return claims.condition(&who, generator, "TemplateError", message),
    };
    let key = claims.key(resource.kind, &resource.meta.name);
    if let Err(winner) = claims.name(name.clone(), &key, &who) {
        claims.conflict(&name, &winner, &who);
        claims.condition(&who, generator, "Collision", format!("Hostname collision on {name} with {winner}"));
    }
}
