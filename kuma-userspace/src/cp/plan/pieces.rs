//! What each resource has to do with others: the VIPs that it is a part of, and the names, tags and labels by which it
//! meets other resources there.
//! Keeps: pieces without a token in common, directly or over others, have no effect on each other's VIPs.
//! Called by follow.

use std::sync::Arc;

use super::generators;
use super::rules::Rules;
use super::selection::{self, Handles, Selected};
use super::token::{self, Token};
use super::virtual_outbounds::{external_tags, plain_tags};
use crate::cp::names;
use crate::model::kind::{
    Dataplane, ExternalService, MeshService, Meta, Resource, SERVICE_TAG, Selector, Tags, ZoneIngress,
};
use crate::model::resource::{Endpoint, Kind, ServiceKey};

/// A part of a resource whose effects belong together.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// VIPs that it may be a part of.
    pub(super) keys: Vec<ServiceKey>,
    pub(super) tokens: Vec<Token>,
}

/// All pieces of a resource.
pub(super) fn of(rules: &Rules, handles: &Handles, resource: &Resource) -> Vec<Piece> {
    match resource {
        Resource::Dataplane(dataplane) => of_dataplane(rules, handles, dataplane),
        Resource::Service(service) => {
            let tags = plain_tags(&service.meta.name, service.protocol);
            vec![Piece::of_service(rules, &service.meta.mesh, &service.meta.name, &tags)]
        }
        Resource::ZoneIngress(ingress) => of_ingress(rules, ingress),
        Resource::ExternalService(service) => vec![of_external(rules, service)],
        Resource::MeshService(service) => vec![of_mesh_service(rules, handles, service)],
        Resource::MeshExternalService(service) => {
            vec![Piece::named(rules, Kind::MeshExternalService, &service.meta)]
        }
        Resource::MeshMultiZoneService(service) => {
            let mut piece = Piece::named(rules, Kind::MeshMultiZoneService, &service.meta);
            piece.tokens.push(selection::of_multi_zone(service));
            vec![piece]
        }
        Resource::Mesh(_) | Resource::VirtualOutbound(_) | Resource::HostnameGenerator(_) => Vec::new(),
    }
}

fn of_dataplane(rules: &Rules, handles: &Handles, Dataplane { meta, inbounds }: &Dataplane) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(inbounds.len());
    let selected =
        |selected, tags: &Tags| handles.found(selected, &meta.mesh, tags).into_iter().map(Piece::selected);
    for inbound in inbounds {
        pieces.push(Piece::of_service(rules, &meta.mesh, &inbound.service, &inbound.tags));
        pieces.extend(selected(Selected::InboundTags, &inbound.tags));
    }
    pieces.extend(selected(Selected::DataplaneLabels, &meta.labels));
    pieces.extend(handles.found_by_name(&meta.mesh, &meta.name).map(Piece::selected));
    pieces
}

fn of_ingress(rules: &Rules, ingress: &ZoneIngress) -> Vec<Piece> {
    let offered = ingress.offers_to(&rules.settings.zone);
    offered.map(|offer| Piece::of_service(rules, &offer.mesh, &offer.service, &offer.tags)).collect()
}

fn of_external(rules: &Rules, external: &ExternalService) -> Piece {
    let mesh = &external.meta.mesh;
    let mut piece = Piece::of_service(rules, mesh, &external.service, &external_tags(&external.service));
    if let Endpoint::Host(host, _) = &external.endpoint
        && external.host_entry
    {
        piece.tokens.push(token::of_name(mesh, host));
        piece.keys.push(ServiceKey { mesh: mesh.clone(), kind: Kind::Host, service: host.as_str().into() });
    }
    piece
}

fn of_mesh_service(rules: &Rules, handles: &Handles, service: &MeshService) -> Piece {
    let MeshService { meta, selector, .. } = service;
    let mut piece = Piece::named(rules, Kind::MeshService, meta);
    if let Selector::Tags(tags) = selector
        && let Some(tag) = tags.get(SERVICE_TAG)
    {
        piece.tokens.push(token::of_tag(&meta.mesh, tag, &rules.settings.domain));
    }
    piece.tokens.extend(selection::of_service(service));
    let labels = generators::labels(&rules.settings.zone, meta);
    piece.tokens.extend(handles.found(Selected::MeshServiceLabels, &meta.mesh, &labels));
    piece
}

impl Piece {
    /// Something that has a service tag: the VIP of the service, and what VirtualOutbounds make of it.
    fn of_service(rules: &Rules, mesh: &Arc<str>, service: &Arc<str>, tags: &Tags) -> Self {
        let domain = &rules.settings.domain;
        let key = |kind, service| ServiceKey { mesh: mesh.clone(), kind, service };
        let mut piece = Self::default();
        piece.tokens.push(token::of_tag(mesh, service, domain));
        piece.tokens.extend(names::dotted(service, domain).map(|name| token::of_name(mesh, &name)));
        piece.keys.push(key(Kind::Service, service.clone()));
        for (token, host) in rules.outbounds(mesh).iter().filter_map(|outbound| outbound.touched(mesh, tags))
        {
            piece.tokens.push(token);
            piece.keys.extend(host.map(|host| key(Kind::Fqdn, host.as_str().into())));
        }
        piece
    }

    /// Something with a VIP of its own, whatever its tags, and generated names.
    fn named(rules: &Rules, kind: Kind, meta: &Meta) -> Self {
        let made = rules.generators.made(kind, meta).into_iter();
        let tokens = made.filter_map(|(_, name)| Some(token::of_name(&meta.mesh, &name.ok()?))).collect();
        Self { keys: vec![ServiceKey { mesh: meta.mesh.clone(), kind, service: meta.name.clone() }], tokens }
    }

    fn selected(token: Token) -> Self {
        Self { keys: Vec::new(), tokens: vec![token] }
    }
}
