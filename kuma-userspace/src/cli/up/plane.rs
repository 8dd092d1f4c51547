//! What the control plane says of itself, in the words of the agent's status: in `up` both are one process, and only here are
//! both known. Called by up.

use std::sync::Arc;

use crate::agent::status::Beside;
use crate::cp::{ControlPlane, Status, xds};
use crate::wire::local;

/// Answers for this control plane at any time, also while it runs.
pub(super) fn beside(plane: &ControlPlane) -> Beside {
    let (status, clients, xds) = (plane.status(), plane.xds_status(), plane.xds_addr());
    Beside(Arc::new(move || {
        let (status, views) = (status.borrow().clone(), clients.read().views);
        local::ControlPlane {
            xds: Some(xds),
            files: status.files.clone(),
            services: status.services as u64,
            published: status.published as u64,
            trouble: trouble(&status),
            outbounds: views.iter().map(outbounds).collect(),
            clients: views.iter().flat_map(of_view).collect(),
        }
    }))
}

/// Everything that an operator should do something about, each in a sentence.
fn trouble(status: &Status) -> Vec<String> {
    let mistakes = status.mistakes.iter().map(|mistake| format!("the last edit is not served: {mistake}"));
    let store =
        status.store_error.iter().map(|error| format!("the store cannot be written, trying again: {error}"));
    let starving = status.starving.iter().map(|starving| {
        format!(
            "service {} of mesh {} waits for an {} address: the pool is used up",
            starving.service, starving.mesh, starving.family
        )
    });
    let conflicts = status.conflicts.iter().map(|conflict| {
        format!(
            "{} of mesh {} belongs to {}, {} does not get it",
            conflict.name, conflict.mesh, conflict.winner, conflict.loser
        )
    });
    // A collision is said as a conflict already.
    let conditions =
        status.conditions.iter().filter(|condition| condition.reason != "Collision").map(|condition| {
            format!(
                "{} makes no name for {} of mesh {}: {}",
                condition.generator, condition.resource, condition.mesh, condition.message
            )
        });
    let quarantined = status
        .quarantined
        .iter()
        .map(|record| format!("record {} of the store is set aside: {}", record.key, record.reason));
    let unreadable = status.unreadable.iter().map(|found| {
        format!("{} is stored but cannot be read, so it is left out: {}", found.key, found.reason)
    });
    let shadowed = status
        .shadowed
        .iter()
        .map(|found| format!("{} is stored, but that in {} is served", found.resource, found.file.display()));
    let resources = unreadable.chain(shadowed);
    let names = starving.chain(conflicts).chain(conditions);
    mistakes.chain(store).chain(names).chain(quarantined).chain(resources).collect()
}

fn outbounds(view: &xds::ViewStatus) -> local::Outbounds {
    let spread = &view.outbounds;
    local::Outbounds {
        view: view.view.clone(),
        setting: spread.setting.word().into(),
        shape: spread.word().into(),
        listeners: spread.listeners as u64,
        compact: spread.compact as u64,
        changing: view.changing_shape as u64,
        loss: spread.loss(),
    }
}

fn of_view(view: &xds::ViewStatus) -> Vec<local::XdsClient> {
    let client = |client: &xds::ClientStatus| local::XdsClient {
        node: client.node.clone(),
        role: client.role.word().into(),
        view: view.view.clone(),
        software: client.software.clone(),
        connected_secs: client.connected_secs,
        pending: client.pending.iter().map(ToString::to_string).collect(),
        refused: client
            .refused
            .iter()
            .map(|refused| format!("{} {}: {}", refused.kind, refused.name, refused.reason))
            .collect(),
    };
    view.clients.iter().map(client).collect()
}
