//! One client's delta stream as a state machine: requests in, answers out. Pure. Keeps: a cluster's endpoints follow every
//! change of the cluster; a type that we do not serve is answered too, so that nothing waits for it. Called by stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Sent,
};
use envoy_types::pb::google::protobuf::Any;
use ipnetwork::IpNetwork;

use super::clients::Progress;
use super::content::Resource;
use super::dialogue::{Dialogue, MAX_FOREIGN, News, Summary, TooManyForeign, entrances};
use super::name::Name;
use super::per_type::PerType;
use super::published::Published;
use super::subscription::{Answer, Scope, Source, Subscription};
use crate::model::view::Port;
use crate::wire::node::{Introduction, Role};
use crate::wire::resource::ResourceType;

/// What one client asked for and has.
#[derive(Debug)]
pub(super) struct Session {
    subscriptions: PerType<Option<Subscription>>,
    view: String,
    /// The port of a proxy's entrances, the listeners that depend on the client.
    outbound_port: Option<Port>,
    entrances: Vec<(Name, Resource)>,
    /// What the entrances were made for.
    ranges: Vec<IpNetwork>,
    /// Answers about types that we do not serve, waiting to be sent.
    foreign: VecDeque<DeltaDiscoveryResponse>,
    nonces: u64,
}

impl Dialogue for Session {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn summary(response: &DeltaDiscoveryResponse) -> Summary<'_> {
        let (changed, removed) = (response.resources.len(), response.removed_resources.len());
        Summary { type_url: &response.type_url, changed, removed }
    }

    fn new(introduction: &Introduction) -> Self {
        let is_proxy = introduction.role == Role::Proxy;
        Self {
            subscriptions: PerType::default(),
            view: introduction.view.clone(),
            outbound_port: is_proxy.then_some(introduction.outbound_port),
            entrances: Vec::new(),
            ranges: Vec::new(),
            foreign: VecDeque::new(),
            nonces: 0,
        }
    }

    fn take(
        &mut self,
        mut request: DeltaDiscoveryRequest,
        now: Instant,
    ) -> Result<Vec<News>, TooManyForeign> {
        let Some(kind) = ResourceType::of_url(&request.type_url) else {
            self.take_foreign(request)?;
            return Ok(Vec::new());
        };
        match &mut self.subscriptions[kind] {
            none @ None => {
                let scope = match kind {
                    ResourceType::MeshView => Scope::View(self.view.clone()),
                    _ => Scope::Names,
                };
                *none = Some(Subscription::open(scope, &mut request));
                Ok(Vec::new())
            }
            Some(subscription) => {
                let news = subscription.take(request, now);
                let written = |name| subscription.scope().write(&name);
                let news = news.into_iter().map(|(name, refusal)| (written(name), refusal));
                Ok(news.map(|(name, refusal)| News { kind, name, refusal }).collect())
            }
        }
    }

    fn next(&mut self, published: &Published, now: Instant) -> Option<DeltaDiscoveryResponse> {
        if let Some(foreign) = self.foreign.pop_front() {
            return Some(foreign);
        }
        ResourceType::ALL.into_iter().find_map(|kind| self.next_of(kind, published, now))
    }

    fn wake(&self) -> Option<Instant> {
        let subscriptions =
            ResourceType::ALL.into_iter().filter_map(|kind| self.subscriptions[kind].as_ref());
        subscriptions.filter_map(Subscription::wake).min()
    }

    fn progress(&self) -> Progress {
        let (mut progress, mut refused) = (Progress::default(), BTreeMap::new());
        for kind in ResourceType::ALL {
            let Some(subscription) = &self.subscriptions[kind] else { continue };
            progress.acked[kind] = subscription.acked();
            refused.extend(subscription.refused().map(|(name, refusal)| ((kind, name), refusal.clone())));
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
    ) -> Option<DeltaDiscoveryResponse> {
        if kind == ResourceType::Listener {
            self.set_entrances(published);
        }
        let own = if kind == ResourceType::Listener { self.entrances.as_slice() } else { &[] };
        // Agents must not route longer by what they have than proxies can follow.
        let strangers_may_go = published.strangers_may_go || kind == ResourceType::MeshView;
        let source = Source { set: &published.sets[kind], own, strangers_may_go };
        let subscription = self.subscriptions[kind].as_mut()?;
        let answer = subscription.next(&source, self.nonces + 1, now)?;
        self.nonces += 1;
        let mut response = response(kind, self.nonces, subscription.scope(), &answer);
        response.system_version_info = published.sets[kind].resources.version();
        if kind == ResourceType::Cluster {
            // Envoy does not ask again for endpoints that it follows already, and a changed cluster waits for them
            // 15 seconds (envoyproxy/envoy issues 13009 and 47302).
            if let Some(endpoints) = &mut self.subscriptions[ResourceType::Endpoints] {
                let services = answer.changed.iter().filter_map(|(_, cluster)| cluster.content.endpoints());
                endpoints.forget(services.map(Name::from));
            }
        }
        Some(response)
    }

    fn set_entrances(&mut self, published: &Published) {
        let Some(port) = self.outbound_port else { return };
        if self.entrances.is_empty() || self.ranges != published.ranges {
            self.ranges.clone_from(&published.ranges);
            self.entrances = entrances(port, &self.ranges);
        }
    }

    fn take_foreign(&mut self, request: DeltaDiscoveryRequest) -> Result<(), TooManyForeign> {
        let names = request.resource_names_subscribe;
        let is_acknowledgement = names.is_empty() && !request.response_nonce.is_empty();
        if is_acknowledgement {
            return Ok(());
        }
        let type_url = request.type_url;
        if self.foreign.len() == MAX_FOREIGN {
            return Err(TooManyForeign { type_url });
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let absent =
            DeltaDiscoveryResponse { type_url, removed_resources: names, nonce, ..Default::default() };
        self.foreign.push_back(absent);
        Ok(())
    }
}

fn response(kind: ResourceType, nonce: u64, scope: &Scope, answer: &Answer) -> DeltaDiscoveryResponse {
    let sent = |(name, resource): &(Name, Resource)| Sent {
        name: scope.write(name),
        version: resource.version.to_string(),
        resource: Some(Any { type_url: kind.url().into(), value: resource.content.encode(name) }),
        ..Sent::default()
    };
    DeltaDiscoveryResponse {
        type_url: kind.url().into(),
        nonce: nonce.to_string(),
        resources: answer.changed.iter().map(sent).collect(),
        removed_resources: answer.removed.iter().map(|name| scope.write(name)).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}
