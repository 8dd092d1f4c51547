//! Where every view and client of the xDS server stands, in words for operators. Called by cli through cp.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::admission::{Admission, LoginRefused};
use super::board::{Board, Glance};
use super::clients::Client;
use super::shape::Spread;
use crate::wire::node::Role;
use crate::wire::resource::ResourceType;

/// The server at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Status {
    pub views: Vec<ViewStatus>,
    /// Streams that were refused, for want of a good token.
    pub logins_refused: u64,
    /// The last different ones of them.
    pub refused_logins: Vec<LoginRefused>,
}

/// One view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ViewStatus {
    pub view: String,
    /// VIPs and ports that agents may use.
    pub listeners_working: usize,
    /// VIPs and ports that the mesh has.
    pub listeners_wanted: usize,
    /// In which shape Envoy is given them.
    pub outbounds: Spread,
    /// VIPs and ports that are still there in the other shape too.
    pub changing_shape: usize,
    /// Why agents do not have everything; empty when they do.
    pub waiting: Vec<String>,
    pub clients: Vec<ClientStatus>,
}

/// One proxy or agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ClientStatus {
    pub node: String,
    pub role: Role,
    /// The program and its version, if it says so.
    pub software: Option<String>,
    pub connected_secs: u64,
    /// Types whose newest state it has not acknowledged.
    pub pending: Vec<&'static str>,
    pub refused: Vec<RefusedStatus>,
}

/// A resource that a client does not take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RefusedStatus {
    pub kind: &'static str,
    pub name: String,
    pub version: String,
    /// The client's own words.
    pub reason: String,
}

/// Reads the status of a server at any time, also while it runs.
#[derive(Clone, Debug)]
pub struct StatusReader {
    pub(super) board: Arc<Board>,
    pub(super) admission: Admission,
}

impl StatusReader {
    /// The status now.
    pub fn read(&self) -> Status {
        let now = Instant::now();
        let (logins_refused, refused_logins) = self.admission.refused();
        let views = self.board.glance().into_iter().map(|glance| view_status(glance, now)).collect();
        Status { views, logins_refused, refused_logins }
    }
}

fn view_status(glance: Glance, now: Instant) -> ViewStatus {
    let clients = glance.clients.iter().map(|client| client_status(client, &glance, now)).collect();
    let note = glance.note;
    ViewStatus {
        view: glance.view,
        listeners_working: note.working,
        listeners_wanted: note.wanted,
        outbounds: note.spread,
        changing_shape: note.changing,
        waiting: note.waiting,
        clients,
    }
}

fn client_status(client: &Client, glance: &Glance, now: Instant) -> ClientStatus {
    let pending = of_interest(client.role).iter().filter(|&&kind| {
        let set = &glance.published.sets[kind];
        set.decided && client.acked(kind) < set.generation
    });
    let refused = client.progress.refused.iter().map(|((kind, name), refusal)| RefusedStatus {
        kind: kind.word(),
        name: name.clone(),
        version: refusal.version.to_string(),
        reason: refusal.reason.to_string(),
    });
    ClientStatus {
        node: client.node.to_string(),
        role: client.role,
        software: client.software.as_deref().map(str::to_owned),
        connected_secs: now.saturating_duration_since(client.connected).as_secs(),
        pending: pending.map(|kind| kind.word()).collect(),
        refused: refused.collect(),
    }
}

fn of_interest(role: Role) -> &'static [ResourceType] {
    match role {
        Role::Proxy => &[ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener],
        Role::Agent => &[ResourceType::MeshView],
    }
}
