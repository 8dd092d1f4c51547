//! Who may open a stream. Keeps: who is refused is told why, and so is the operator; a stream ends when its token does.
//! Called by service and stream.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde::Serialize;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tracing::{debug, warn};

use crate::cp::resources::Resources;
use crate::cp::tokens::{DataplaneIdentity, Refusal, Verified, Verifier};
use crate::model::kind::{Resource, ResourceKey, ResourceKind};
use crate::wire::access::AUTHORIZATION;
use crate::wire::node::Introduction;

/// Different refusals that are remembered.
const MAX_REMEMBERED: usize = 32;
/// What a client says of itself is cut to this many characters.
const MAX_SHOWN: usize = 128;
const BEARER: &str = "bearer ";

/// The rule.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    tokens: Option<Tokens>,
    refused: Arc<Mutex<Refused>>,
}

#[derive(Clone, Debug)]
struct Tokens {
    verifier: Verifier,
    /// Where Dataplanes are looked up whose tags a token limits.
    resources: watch::Receiver<Arc<Resources>>,
}

/// What came with a stream's first bytes.
#[derive(Debug, Default)]
pub(super) struct Pass {
    token: Option<String>,
    peer: Option<SocketAddr>,
}

/// Why somebody may not.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAdmitted {
    #[error(
        "a dataplane token is needed: `kuma-dns generate dataplane-token --mesh {mesh}` makes one; the agent takes it by \
         --token-file, Envoy as initial metadata \"authorization\""
    )]
    NoToken { mesh: String },
    #[error("the dataplane token is not accepted: {0}")]
    Token(Refusal),
    #[error("the dataplane token is not accepted: it is for proxy {wanted:?}, and node id {id:?} is not its")]
    OtherName { wanted: String, id: String },
    #[error(
        "the dataplane token is not accepted: it is for certain tags, and mesh {mesh:?} has no Dataplane that node id {id:?} names"
    )]
    NoDataplane { mesh: String, id: String },
    #[error("the dataplane token is not accepted: Dataplane {name:?} has {tag}={value}, which it is not for")]
    OtherTags { name: String, tag: String, value: String },
}

/// Those who were refused lately.
#[derive(Debug, Default)]
struct Refused {
    total: u64,
    lately: VecDeque<Remembered>,
}

#[derive(Debug)]
struct Remembered {
    node: String,
    peer: String,
    reason: String,
    times: u64,
    last: Instant,
}

/// Somebody who was refused, for the status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LoginRefused {
    pub node: String,
    /// Where it came from.
    pub peer: String,
    pub reason: String,
    pub times: u64,
    /// Since the last time.
    pub secs_ago: u64,
}

impl Admission {
    /// With a dataplane token only.
    pub fn by_token(verifier: Verifier, resources: watch::Receiver<Arc<Resources>>) -> Self {
        Self { tokens: Some(Tokens { verifier, resources }), refused: Arc::default() }
    }

    /// Until when this client may stay; nothing: for ever.
    pub(super) fn admit(
        &self,
        pass: &Pass,
        introduction: &Introduction,
    ) -> Result<Option<SystemTime>, NotAdmitted> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        let admitted = tokens.admit(pass, introduction);
        if let Err(refusal) = &admitted {
            self.remember(pass, introduction, refusal.to_string());
        }
        admitted.map(Some)
    }

    /// How many were refused, and the last of them.
    pub(super) fn refused(&self) -> (u64, Vec<LoginRefused>) {
        let refused = self.lock();
        let shown = |remembered: &Remembered| LoginRefused {
            node: remembered.node.clone(),
            peer: remembered.peer.clone(),
            reason: remembered.reason.clone(),
            times: remembered.times,
            secs_ago: remembered.last.elapsed().as_secs(),
        };
        (refused.total, refused.lately.iter().map(shown).collect())
    }

    fn remember(&self, pass: &Pass, introduction: &Introduction, reason: String) {
        let node: String = introduction.id.chars().take(MAX_SHOWN).collect();
        let peer = pass.peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
        let mut refused = self.lock();
        refused.total += 1;
        let same = |known: &Remembered| known.node == node && known.peer == peer && known.reason == reason;
        let known = refused.lately.iter().position(same).and_then(|at| refused.lately.remove(at));
        let times = known.map_or(1, |known| known.times + 1);
        // Clients come again and again: each reason is said once.
        if times == 1 {
            warn!(node, peer, reason, "an xDS client is refused");
        } else {
            debug!(node, peer, reason, times, "an xDS client is refused again");
        }
        if refused.lately.len() == MAX_REMEMBERED {
            refused.lately.pop_front();
        }
        refused.lately.push_back(Remembered { node, peer, reason, times, last: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Refused> {
        // A panic while holding the lock leaves at worst one refusal out.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Kuma's clients send the bare token, others write `Bearer` before it.
    pub(super) fn new(metadata: &MetadataMap, peer: Option<SocketAddr>) -> Self {
        let said = metadata.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = said.map(|said| {
            let prefix = said.get(..BEARER.len()).filter(|prefix| prefix.eq_ignore_ascii_case(BEARER));
            said[prefix.map_or(0, str::len)..].trim().to_owned()
        });
        Self { token, peer }
    }
}

impl Tokens {
    fn admit(&self, pass: &Pass, introduction: &Introduction) -> Result<SystemTime, NotAdmitted> {
        let Introduction { id, view: mesh, .. } = introduction;
        let token = pass.token.as_ref().ok_or_else(|| NotAdmitted::NoToken { mesh: mesh.clone() })?;
        let Verified { identity, expires } =
            self.verifier.dataplane(token, mesh).map_err(NotAdmitted::Token)?;
        let names = names(id, mesh);
        let DataplaneIdentity { name: wanted, tags, .. } = &identity;
        if !wanted.is_empty() && !names.contains(&wanted.as_str()) {
            return Err(NotAdmitted::OtherName { wanted: wanted.clone(), id: id.clone() });
        }
        if !tags.is_empty() {
            let resources = self.resources.borrow().clone();
            let find =
                |name: &&str| resources.all.get(&ResourceKey::new(ResourceKind::Dataplane, mesh, name));
            let found = names.iter().find_map(find);
            let absent = || NotAdmitted::NoDataplane { mesh: mesh.clone(), id: id.clone() };
            check_tags(found.ok_or_else(absent)?, &identity)?;
        }
        Ok(expires)
    }
}

/// The names that a node id can stand for: itself; Kuma's `<mesh>.<name>`; our `agent-<instance>-<pid>` and `proxy-…`.
fn names<'i>(id: &'i str, mesh: &str) -> Vec<&'i str> {
    let of_kuma = id.strip_prefix(mesh).and_then(|rest| rest.strip_prefix('.'));
    let ours = id.strip_prefix("agent-").or_else(|| id.strip_prefix("proxy-"));
    let ours = ours.and_then(|rest| rest.rsplit_once('-')).filter(|(_, pid)| pid.parse::<u32>().is_ok());
    [Some(id), of_kuma, ours.map(|(instance, _)| instance)].into_iter().flatten().collect()
}

/// Every tag that the token limits has one of its values, on every inbound that has the tag.
fn check_tags(resource: &Resource, identity: &DataplaneIdentity) -> Result<(), NotAdmitted> {
    let Resource::Dataplane(dataplane) = resource else { return Ok(()) };
    for inbound in &dataplane.inbounds {
        for (tag, value) in inbound.tags.iter() {
            let Some(allowed) = identity.tags.get(tag) else { continue };
            if !allowed.iter().any(|allowed| allowed == value) {
                let (name, tag, value) = (dataplane.meta.name.to_string(), tag.to_owned(), value.to_owned());
                return Err(NotAdmitted::OtherTags { name, tag, value });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::Port;
    use crate::wire::node::Role;

    #[test]
    fn a_node_id_stands_for_its_own_name_kumas_and_ours() {
        assert_eq!(names("web-1", "default"), ["web-1"]);
        assert_eq!(names("default.web-1", "default"), ["default.web-1", "web-1"]);
        assert_eq!(names("agent-blue-4711", "default"), ["agent-blue-4711", "blue"]);
        assert_eq!(names("proxy-blue-red-4711", "default"), ["proxy-blue-red-4711", "blue-red"]);
        assert_eq!(names("proxy-blue", "default"), ["proxy-blue"]);
    }

    #[test]
    fn a_token_is_read_with_and_without_bearer() {
        for (said, token) in [("abc", "abc"), ("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("be", "be")] {
            let mut metadata = MetadataMap::new();
            metadata.insert(AUTHORIZATION, said.parse().unwrap());
            assert_eq!(Pass::new(&metadata, None).token.as_deref(), Some(token), "{said:?}");
        }
        assert_eq!(Pass::new(&MetadataMap::new(), None).token, None);
    }

    #[test]
    fn refusals_are_counted_said_once_and_bounded() {
        let admission = Admission::default();
        let node = |id: String| {
            let (role, view, outbound_port) = (Role::Proxy, "default".into(), Port::new(15001));
            Introduction { id, role, view, outbound_port }
        };
        for _ in 0..3 {
            admission.remember(&Pass::default(), &node("same".into()), "because".into());
        }
        assert_eq!(admission.refused().1[0].times, 3);
        for number in 0..100 {
            admission.remember(
                &Pass::default(),
                &node(format!("{number}{}", "x".repeat(1_000))),
                "because".into(),
            );
        }
        let (total, lately) = admission.refused();
        assert_eq!((total, lately.len()), (103, MAX_REMEMBERED));
        assert!(lately.iter().all(|refused| refused.node.len() == MAX_SHOWN));
    }
}
