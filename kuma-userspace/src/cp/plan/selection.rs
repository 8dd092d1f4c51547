//! Who selects whom by tags, labels or a name. One pair of each selector is its handle: whoever is selected has it.
//! Keeps: only names of labels that some selector uses cost anything. Called by pieces and follow.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::token::{self, Token};
use crate::model::kind::{MeshMultiZoneService, MeshService, Resource, SERVICE_TAG, Selector, Tags};

/// What a selector looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Selected {
    InboundTags,
    DataplaneLabels,
    DataplaneName,
    MeshServiceLabels,
}

/// Labels that nearly everything has with the same value: bad handles.
const COMMON: [&str; 4] = ["kuma.io/env", "kuma.io/mesh", "kuma.io/origin", "kuma.io/zone"];
/// The name of a label that everything has.
const EVERYTHING: &str = "";

/// Names of labels that are handles.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Handles(BTreeSet<(Selected, Arc<str>)>);

impl Handles {
    /// Takes in how a resource selects; says whether nobody did so before.
    pub(super) fn note(&mut self, resource: &Resource) -> bool {
        let (selected, labels) = match resource {
            Resource::MeshService(service) => match selector(service) {
                Some(selector) => selector,
                None => return false,
            },
            Resource::MeshMultiZoneService(service) => {
                (Selected::MeshServiceLabels, Labels::These(&service.selector))
            }
            _ => return false,
        };
        let name = match labels {
            Labels::These(labels) => handle(labels).map_or(EVERYTHING, |(name, _)| name),
            Labels::Name(_) => EVERYTHING,
        };
        self.0.insert((selected, name.into()))
    }

    /// By which handles these labels are found.
    pub(super) fn found(&self, selected: Selected, mesh: &str, labels: &Tags) -> Vec<Token> {
        let of_kind = self.0.iter().filter(|(of, _)| *of == selected);
        let found = of_kind.filter_map(|(_, name)| {
            let value = if **name == *EVERYTHING { Some("") } else { labels.get(name) };
            Some(token(mesh, selected, name, value?))
        });
        found.collect()
    }

    /// Is a Dataplane found by its name?
    pub(super) fn found_by_name(&self, mesh: &str, name: &str) -> Option<Token> {
        let any = self.0.iter().any(|(selected, _)| *selected == Selected::DataplaneName);
        any.then(|| token(mesh, Selected::DataplaneName, EVERYTHING, name))
    }
}

/// What a selector wants.
enum Labels<'r> {
    These(&'r Tags),
    Name(&'r str),
}

/// How a MeshService selects; a service tag needs no handle, it is one for everybody.
fn selector(service: &MeshService) -> Option<(Selected, Labels<'_>)> {
    match &service.selector {
        Selector::Nobody => None,
        Selector::Tags(tags) if tags.get(SERVICE_TAG).is_some() => None,
        Selector::Tags(tags) => Some((Selected::InboundTags, Labels::These(tags))),
        Selector::Labels(labels) => Some((Selected::DataplaneLabels, Labels::These(labels))),
        Selector::Name(name) => Some((Selected::DataplaneName, Labels::Name(name))),
    }
}

/// The token of those whom a MeshService may select.
pub(super) fn of_service(service: &MeshService) -> Option<Token> {
    let (selected, labels) = selector(service)?;
    Some(of_labels(&service.meta.mesh, selected, labels))
}

/// The token of those whom a MeshMultiZoneService may select.
pub(super) fn of_multi_zone(service: &MeshMultiZoneService) -> Token {
    of_labels(&service.meta.mesh, Selected::MeshServiceLabels, Labels::These(&service.selector))
}

fn of_labels(mesh: &str, selected: Selected, labels: Labels<'_>) -> Token {
    let (name, value) = match labels {
        Labels::These(labels) => handle(labels).unwrap_or((EVERYTHING, "")),
        Labels::Name(name) => (EVERYTHING, name),
    };
    token(mesh, selected, name, value)
}

fn handle(labels: &Tags) -> Option<(&str, &str)> {
    labels.iter().find(|(name, _)| !COMMON.contains(name)).or_else(|| labels.iter().next())
}

fn token(mesh: &str, selected: Selected, name: &str, value: &str) -> Token {
    token::of(mesh, &(selected, name, value))
}
