//! What a stream needs of either variant of xDS, delta or state of the world. Called by stream; implemented by session and
//! sotw.

use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use ipnetwork::IpNetwork;

use super::clients::{Progress, Refusal};
use super::content::{Content, Resource};
use super::name::Name;
use super::published::Published;
use crate::model::view::Port;
use crate::wire::envoy;
use crate::wire::node::Introduction;
use crate::wire::resource::ResourceType;

/// Answers about types that we do not serve, waiting to be sent.
pub(super) const MAX_FOREIGN: usize = 16;

/// One client's stream as a state machine: requests in, answers out. No clock, no socket.
pub(super) trait Dialogue: Send {
    type Request: Send;
    type Response: Send;

    /// Who says it; with the first request at least.
    fn node(request: &Self::Request) -> Option<&Node>;

    /// A client that has said nothing yet but who it is.
    fn new(introduction: &Introduction) -> Self;

    /// Takes a request in. Returns the refusals that are new.
    ///
    /// # Errors
    /// A client that floods us with types that we do not serve.
    fn take(&mut self, request: Self::Request, now: Instant) -> Result<Vec<News>, TooManyForeign>;

    /// The next answer, if there is something to tell.
    fn next(&mut self, published: &Published, now: Instant) -> Option<Self::Response>;

    /// When there is something to tell though nothing has changed.
    fn wake(&self) -> Option<Instant>;

    /// What the client has acknowledged and refused.
    fn progress(&self) -> Progress;

    /// What an answer holds.
    fn summary(response: &Self::Response) -> Summary<'_>;
}

/// An answer in a line of the log.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    pub(super) type_url: &'a str,
    pub(super) changed: usize,
    pub(super) removed: usize,
}

/// A client that asks faster for what we do not have than it reads the answers.
#[derive(Debug, thiserror::Error)]
#[error(
    "{MAX_FOREIGN} requests for types that are not served wait for their answer, {type_url:?} is one too many"
)]
pub(super) struct TooManyForeign {
    pub(super) type_url: String,
}

/// A refusal that is new.
#[derive(Debug)]
pub(super) struct News {
    pub(super) kind: ResourceType,
    pub(super) name: String,
    pub(super) refusal: Refusal,
}

/// The listeners that depend on the client: those with a socket, on its port.
pub(super) fn entrances(port: Port, ranges: &[IpNetwork]) -> Vec<(Name, Resource)> {
    let entrance = |(name, body): (String, Vec<u8>)| {
        let name = Name::of(&name);
        let resource = Resource::new(&name, Content::Bytes(body.into()));
        (name, resource)
    };
    envoy::entrances(port, ranges).map(entrance).into()
}
