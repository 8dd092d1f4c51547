//! One client's stream of the state of the world: a change of one listener or cluster sends all of them, and costs Envoy
//! some hundred times what it costs by delta. Pure. Keeps: the same order, the same blame for refusals, and one answer at a
//! time as with delta; a version is the same on every replica. Called by stream.

mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use ipnetwork::IpNetwork;

use self::watch::{Answer, Watch};
use super::clients::Progress;
use super::content::Resource;
use super::dialogue::{Dialogue, MAX_FOREIGN, News, Summary, TooManyForeign, entrances};
use super::name::Name;
use super::per_type::PerType;
use super::published::Published;
use crate::model::view::Port;
use crate::wire::node::{Introduction, Role};
use crate::wire::resource::ResourceType;

/// What Envoy understands; a mesh view is for agents, which speak delta.
const SERVED: [ResourceType; 3] = [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener];

/// What one client asked for and has.
#[derive(Debug)]
pub(super) struct Session {
    watches: PerType<Option<Watch>>,
    outbound_port: Option<Port>,
    entrances: Vec<(Name, Resource)>,
    /// What the entrances were made for.
    ranges: Vec<IpNetwork>,
    /// Types that we do not serve and that were asked for; `true`: the answer waits to be sent.
    foreign: BTreeMap<String, bool>,
    nonces: u64,
}

impl Dialogue for Session {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &DiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn summary(response: &DiscoveryResponse) -> Summary<'_> {
        Summary { type_url: &response.type_url, changed: response.resources.len(), removed: 0 }
    }

    fn new(introduction: &Introduction) -> Self {
        let is_proxy = introduction.role == Role::Proxy;
        Self {
            watches: PerType::default(),
            outbound_port: is_proxy.then_some(introduction.outbound_port),
            entrances: Vec::new(),
            ranges: Vec::new(),
            foreign: BTreeMap::new(),
            nonces: 0,
        }
    }

    fn take(&mut self, request: DiscoveryRequest, now: Instant) -> Result<Vec<News>, TooManyForeign> {
        let Some(kind) = ResourceType::of_url(&request.type_url).filter(|kind| SERVED.contains(kind)) else {
            self.take_foreign(request.type_url)?;
            return Ok(Vec::new());
        };
        match &mut self.watches[kind] {
            none @ None => {
                *none = Some(Watch::open(kind, request));
                Ok(Vec::new())
            }
            Some(watch) => {
                let news = watch.take(request, now).into_iter();
                Ok(news.map(|(name, refusal)| News { kind, name: name.to_string(), refusal }).collect())
            }
        }
    }

    fn next(&mut self, published: &Published, now: Instant) -> Option<DiscoveryResponse> {
        if let Some((type_url, waits)) = self.foreign.iter_mut().find(|(_, waits)| **waits) {
            *waits = false;
            self.nonces += 1;
            let (type_url, nonce) = (type_url.clone(), self.nonces.to_string());
            return Some(DiscoveryResponse { type_url, nonce, ..DiscoveryResponse::default() });
        }
        SERVED.into_iter().find_map(|kind| self.next_of(kind, published, now))
    }

    fn wake(&self) -> Option<Instant> {
        SERVED.into_iter().filter_map(|kind| self.watches[kind].as_ref()).filter_map(Watch::wake).min()
    }

    fn progress(&self) -> Progress {
        let (mut progress, mut refused) = (Progress::default(), BTreeMap::new());
        for kind in SERVED {
            let Some(watch) = &self.watches[kind] else { continue };
            progress.acked[kind] = watch.acked();
            let of_kind = watch.refused();
            refused.extend(of_kind.map(|(name, refusal)| ((kind, name.to_string()), refusal.clone())));
        }
        if !refused.is_empty() {
            progress.refused = Arc::new(refused);
        }
        progress
    }
}

impl Session {
    fn next_of(
        &mut self,
        kind: ResourceType,
        published: &Published,
        now: Instant,
    ) -> Option<DiscoveryResponse> {
        if kind == ResourceType::Listener {
            self.set_entrances(published);
        }
        let own = if kind == ResourceType::Listener { self.entrances.as_slice() } else { &[] };
        let answer = self.watches[kind].as_mut()?.next(&published.sets[kind], own, self.nonces + 1, now)?;
        self.nonces += 1;
        if let (ResourceType::Cluster, Some(endpoints)) = (kind, &mut self.watches[ResourceType::Endpoints]) {
            // As with delta: a changed cluster waits for endpoints that Envoy does not ask for again.
            let services = answer.news.iter().filter_map(|(_, cluster)| cluster.content.endpoints());
            endpoints.forget(services.map(Name::from));
        }
        Some(response(kind, self.nonces, &answer))
    }

    fn set_entrances(&mut self, published: &Published) {
        let Some(port) = self.outbound_port else { return };
        if self.entrances.is_empty() || self.ranges != published.ranges {
            self.ranges.clone_from(&published.ranges);
            self.entrances = entrances(port, &self.ranges);
        }
    }

    /// Each such type is answered once: there is nothing of it.
    fn take_foreign(&mut self, type_url: String) -> Result<(), TooManyForeign> {
        if self.foreign.len() == MAX_FOREIGN && !self.foreign.contains_key(&type_url) {
            return Err(TooManyForeign { type_url });
        }
        self.foreign.entry(type_url).or_insert(true);
        Ok(())
    }
}

fn response(kind: ResourceType, nonce: u64, answer: &Answer) -> DiscoveryResponse {
    let body = |(name, resource): &(Name, Resource)| Any {
        type_url: kind.url().into(),
        value: resource.content.encode(name),
    };
    DiscoveryResponse {
        version_info: answer.version.clone(),
        type_url: kind.url().into(),
        nonce: nonce.to_string(),
        resources: answer.resources.iter().map(body).collect(),
        ..DiscoveryResponse::default()
    }
}
