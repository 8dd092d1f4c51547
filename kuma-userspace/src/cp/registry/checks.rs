//! What a write must not do to what is there. Keeps: these look up, they never walk over everything, but where a kind or a
//! mesh comes or goes. Called by registry::writer.

use std::sync::Arc;

use super::document::Parsed;
use super::state::{State, endpoints_in};
use super::{Change, Refusal};
use crate::cp::resources::draft::{Used, described_already, used_pools};
use crate::cp::violation::{Invalid, Place, Violation};
use crate::model::kind::{MeshServices, Resource, ResourceKey, ResourceKind};

/// May this write be made on top of this state?
pub(super) fn check(state: &State, key: &ResourceKey, change: &mut Change) -> Result<(), Refusal> {
    if let Some(file) = state.file_of(key) {
        return Err(Refusal::InFile { key: key.clone(), file: file.into() });
    }
    match change {
        Change::Put(parsed) => Ok(check_put(state, key, parsed)?),
        Change::Delete if state.stored(key).is_none() => {
            let key = key.clone();
            let is_there = state.catalog.entries.contains_key(&key);
            Err(if is_there { Refusal::NotGiven { key } } else { Refusal::NotFound { key } })
        }
        Change::Delete if key.kind == ResourceKind::Mesh => Ok(check_mesh_is_empty(state, key)?),
        Change::Delete => Ok(()),
    }
}

fn check_put(state: &State, key: &ResourceKey, parsed: &mut Parsed) -> Result<(), Invalid> {
    let mut violations = Vec::new();
    if !key.mesh.is_empty() && !has_mesh(state, &key.mesh) {
        violations.push(violation("mesh", format!("mesh of name {} is not found", key.mesh)));
    }
    let used = used_with(state.used(), parsed);
    let pools = used_pools(state.settings(), &used);
    parsed.draft.check_under(state.settings(), &pools, &mut violations);
    for described in &parsed.draft.described {
        if let Some(file) = state.is_short(&described.mesh, &described.service) {
            let problem = described_already(&described.mesh, &described.service, file.display());
            violations.push(Violation { place: described.place.clone(), problem });
        }
    }
    if used != state.used() {
        // The first of a kind brings the kind's pools into use: rare, so everything is looked at.
        let before = used_pools(state.settings(), &state.used());
        let new: Vec<_> = pools.into_iter().filter(|pool| !before.contains(pool)).collect();
        if let Some((whose, endpoint)) = endpoints_in(&state.resources.all, &new).next() {
            let problem = format!(
                "its pool would hold {endpoint}, where an instance of {whose} listens: give the kind another pool (ipam)"
            );
            violations.push(violation("type", problem));
        }
    }
    Invalid::check(violations)
}

/// Kuma deletes a mesh's policies with it and refuses where Dataplanes are left; here nothing goes unasked but key material.
fn check_mesh_is_empty(state: &State, key: &ResourceKey) -> Result<(), Invalid> {
    // The default mesh goes on without its document.
    if state.is_builtin(key) {
        return Ok(());
    }
    let left = state.catalog.kinds_in(&key.name).into_iter();
    let still = |kind: ResourceKind| {
        format!("unable to delete mesh, there are still some {} attached", kind.path().replace('-', " "))
    };
    Invalid::check(left.map(|kind| violation("mesh", still(kind))).collect())
}

fn has_mesh(state: &State, mesh: &Arc<str>) -> bool {
    let key = ResourceKey { kind: ResourceKind::Mesh, mesh: "".into(), name: mesh.clone() };
    state.catalog.entries.contains_key(&key)
}

fn used_with(mut used: Used, parsed: &Parsed) -> Used {
    for found in &parsed.draft.found {
        match &*found.resource {
            Resource::Mesh(mesh) if mesh.mode != MeshServices::Disabled => used.mesh_services = true,
            Resource::MeshService(_) => used.mesh_services = true,
            Resource::MeshExternalService(_) => used.mesh_external_services = true,
            Resource::MeshMultiZoneService(_) => used.mesh_multi_zone_services = true,
            _ => {}
        }
    }
    used
}

fn violation(field: &str, problem: String) -> Violation {
    let file = std::path::Path::new("").into();
    Violation { place: Place { file, line: 0, field: field.into() }, problem }
}
