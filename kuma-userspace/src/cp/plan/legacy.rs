//! Services by their tag, and the hosts of ExternalServices: Kuma's rules for VIPs up to 2.14. Called by plan.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Backend;
use super::claims::{Claim, Claims};
use super::drawing::Share;
use crate::cp::names;
use crate::cp::settings::Settings;
use crate::model::kind::SERVICE_TAG;
use crate::model::name::Hostname;
use crate::model::resource::{Endpoint, Kind};
use crate::model::view::Port;

/// The port that the name of an external host answers on beside its own.
const HTTP_PORT: Port = Port::new(80);

/// Where each service tag leads: to its instances, and to the external services that have the tag as well. A service that
/// only another zone has leads nowhere yet.
pub(super) fn backends<'r>(share: &Share<'r>) -> BTreeMap<&'r str, Backend> {
    let mut backends: BTreeMap<&str, Backend> = BTreeMap::new();
    for (name, service) in &share.services {
        let endpoints = service.endpoints.iter().copied().map(Endpoint::from).collect();
        backends.insert(name, Backend { protocol: service.protocol, endpoints });
    }
    for external in &share.external_services {
        let first = !backends.contains_key(&*external.service);
        let backend = backends.entry(&external.service).or_default();
        backend.add(first, external.protocol, [external.endpoint.clone()]);
    }
    for available in &share.available {
        backends.entry(&available.service).or_default();
    }
    backends
}

pub(super) fn claim(
    claims: &mut Claims<'_>,
    settings: &Settings,
    share: &Share<'_>,
    backends: &BTreeMap<&str, Backend>,
) {
    if settings.service_vip_enabled {
        claim_services(claims, settings, share, backends);
    }
    claim_hosts(claims, share, backends);
}

/// What a claim to a service as a whole is for.
pub(super) fn whole(service: &str) -> Rc<str> {
    format!("{SERVICE_TAG}={service}").into()
}

/// Every service has a VIP with the service VIP port, and beside it the port of an external service.
fn claim_services(
    claims: &mut Claims<'_>,
    settings: &Settings,
    share: &Share<'_>,
    backends: &BTreeMap<&str, Backend>,
) {
    let mut own_ports: BTreeMap<&str, BTreeSet<Port>> = BTreeMap::new();
    for external in &share.external_services {
        own_ports.entry(&external.service).or_default().insert(external.port);
    }
    let names = names::of_mesh(&settings.domain, backends.keys().copied());
    for (&service, backend) in backends {
        let key = claims.key(Kind::Service, service);
        let who: Rc<str> = service.into();
        for name in names.by_service.get(service).into_iter().flatten() {
            claims.name(name.clone(), &key, &who).expect("of_mesh gives a name to one service only");
        }
        let own = own_ports.remove(service).unwrap_or_default();
        for port in own.into_iter().chain([settings.service_vip_port]) {
            let (who, what) = (who.clone(), whole(service));
            let (cluster, backend) = (service.to_owned(), backend.clone());
            claims.port(&key, Claim { port, who, what, shown: None, cluster, backend });
        }
    }
    for conflict in names.conflicts {
        claims.conflict(&conflict.name, &conflict.winner, &conflict.loser);
    }
}

/// The host of an external service has a VIP too, one for all its ports, in order of resource name. A host that is an IP
/// address has none: it is reached as it is.
fn claim_hosts(claims: &mut Claims<'_>, share: &Share<'_>, backends: &BTreeMap<&str, Backend>) {
    let mut hosts: BTreeMap<&Hostname, (Port, &str, Rc<str>)> = BTreeMap::new();
    for external in share.external_services.iter().filter(|external| external.host_entry) {
        let Endpoint::Host(host, port) = &external.endpoint else { continue };
        let who: Rc<str> = format!("ExternalService {}", external.meta.name).into();
        claim_host_port(claims, (host, *port, *port), &external.service, &who, backends);
        let first = hosts.entry(host).or_insert_with(|| (*port, &external.service, who.clone()));
        if *port < first.0 {
            *first = (*port, &external.service, who);
        }
    }
    for (host, (port, service, who)) in hosts {
        let key = claims.owner(host).cloned();
        if key.is_some_and(|key| key.kind == Kind::Host && !claims.has_port(&key, HTTP_PORT)) {
            claim_host_port(claims, (host, HTTP_PORT, port), service, &who, backends);
        }
    }
}

/// `port` of the host leads where `leads_to` of it leads.
fn claim_host_port(
    claims: &mut Claims<'_>,
    (host, port, leads_to): (&Hostname, Port, Port),
    service: &str,
    who: &Rc<str>,
    backends: &BTreeMap<&str, Backend>,
) {
    let key = match claims.owner(host) {
        Some(key) => key.clone(),
        None => {
            let key = claims.key(Kind::Host, host.as_str());
            claims.name(host.clone(), &key, who).expect("nobody has the name");
            key
        }
    };
    let Some(backend) = backends.get(service).cloned() else { return };
    let cluster = format!("{}:{host}:{}", Kind::Host.word(), leads_to.get());
    let (who, what, shown) = (who.clone(), whole(service), Some(host.clone()));
    claims.port(&key, Claim { port, who, what, shown, cluster, backend });
}
