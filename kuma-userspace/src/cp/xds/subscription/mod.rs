//! One resource type on one stream: what the client asked for, what it has, what it must be told next. Pure.
//! Keeps: one answer at a time, made from the newest state, so a slow client costs one pending answer and no queue;
//! every name that was asked for is answered. Called by session.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::clients::Refusal;
use super::nack;
use super::published::Set;
use super::resources::Resources;
use crate::wire::resource::Resource;

/// The subscription to everything.
const WILDCARD: &str = "*";

/// What the client is told next.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) changed: Vec<Arc<Resource>>,
    pub(super) removed: Vec<String>,
}

/// An answer that the client has not acknowledged yet.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    generation: u64,
    changed: Vec<Arc<Resource>>,
    removed: Vec<String>,
}

/// What the names in a client's requests mean.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Scope {
    /// Each name is that of a resource.
    #[default]
    Names,
    /// The resources of this view belong together: who asks for the view by its name follows all of them, and takes a
    /// message as a whole or not at all.
    View(String),
}

/// A type that the client has asked for.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    scope: Scope,
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client has, name to version.
    held: HashMap<String, String>,
    /// Those of `held` that an earlier stream gave it.
    strangers: BTreeSet<String>,
    /// Names that it asked for and was told do not exist.
    told_absent: BTreeSet<String>,
    refused: BTreeMap<String, Refusal>,
    /// Resources of a refused message that named none: each goes alone until the bad one is found.
    suspects: BTreeSet<String>,
    /// The generation of a message that was refused as a whole: the same is not tried again.
    stalled: Option<u64>,
    in_flight: Option<InFlight>,
    /// Up to which generation the client has been answered, and has acknowledged.
    acked: u64,
    /// Even an empty answer counts: the first one ends the client's initial fetch.
    greeted: bool,
    /// What was looked at last, and need not be looked at again; `None`: everything must be.
    seen: Option<Seen>,
    /// Names to look at again all the same.
    again: BTreeSet<String>,
}

/// A state that the client has been told of, as far as it had to be.
#[derive(Debug)]
struct Seen {
    generation: u64,
    strangers_may_go: bool,
    resources: Resources,
}

/// What is to be told from, besides the subscription itself.
pub(super) struct Source<'a> {
    pub(super) set: &'a Set,
    /// Resources of this client alone.
    pub(super) own: &'a [Arc<Resource>],
    pub(super) strangers_may_go: bool,
}

impl Source<'_> {
    fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.own.iter().find(|resource| resource.name == name).or_else(|| self.set.resources.get(name))
    }
}

impl Subscription {
    /// Takes in the first request of this type: it may say what the client still has from an earlier stream.
    pub(super) fn open(scope: Scope, request: &mut DeltaDiscoveryRequest) -> Self {
        let wildcard = request.resource_names_subscribe.is_empty();
        let mut subscription = Self { scope, wildcard, ..Self::default() };
        subscription.subscribe(std::mem::take(&mut request.resource_names_subscribe));
        subscription.held = std::mem::take(&mut request.initial_resource_versions);
        subscription.strangers = subscription.held.keys().cloned().collect();
        subscription
    }

    /// Takes in a later request. Returns the refusals that are new.
    pub(super) fn take(&mut self, request: DeltaDiscoveryRequest) -> Vec<(String, Refusal)> {
        let mut news = Vec::new();
        if let Some(answered) = self.in_flight.take_if(|in_flight| in_flight.nonce == request.response_nonce)
        {
            match request.error_detail {
                None => {
                    self.acked = answered.generation;
                    self.start_again();
                }
                Some(error) => {
                    self.seen = None;
                    news = self.refuse(answered, &error.message);
                }
            }
        }
        self.unsubscribe(&request.resource_names_unsubscribe);
        self.subscribe(request.resource_names_subscribe);
        news
    }

    /// Whatever these names are, they are sent again.
    pub(super) fn forget<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            if self.held.remove(name).is_some() {
                self.again.insert(name.clone());
            }
        }
    }

    /// The next answer, if there is something to tell and the last one is acknowledged.
    pub(super) fn next(
        &mut self,
        source: &Source<'_>,
        nonce: impl FnOnce() -> String,
    ) -> Option<(String, Answer)> {
        let stalled = self.stalled == Some(source.set.generation);
        if self.in_flight.is_some() || !source.set.decided || stalled || self.has_seen(source) {
            return None;
        }
        let suspect = self.next_suspect(source);
        // A suspect goes alone and completes nothing.
        let (generation, Answer { changed, removed }) = match suspect {
            Some(suspect) => (self.acked, Answer { changed: vec![suspect], removed: Vec::new() }),
            None => (source.set.generation, self.look(source)),
        };
        if changed.is_empty() && removed.is_empty() && self.greeted {
            self.acked = generation;
            return None;
        }
        self.greeted = true;
        self.record(&changed, &removed);
        let nonce = nonce();
        let (sent, gone) = (changed.clone(), removed.clone());
        self.in_flight = Some(InFlight { nonce: nonce.clone(), generation, changed: sent, removed: gone });
        Some((nonce, Answer { changed, removed }))
    }

    /// Up to which generation the client has everything.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// What the client does not take.
    pub(super) fn refused(&self) -> &BTreeMap<String, Refusal> {
        &self.refused
    }

    fn subscribe(&mut self, names: Vec<String>) {
        for name in names {
            if name == WILDCARD || self.scope == Scope::View(name.clone()) {
                (self.wildcard, self.seen) = (true, None);
                continue;
            }
            // Asking again means: send it again (xDS protocol, "subscribing to resources").
            self.held.remove(&name);
            self.told_absent.remove(&name);
            self.again.insert(name.clone());
            self.names.insert(name);
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == WILDCARD {
                (self.wildcard, self.seen) = (false, None);
                self.held.retain(|held, _| self.names.contains(held));
                continue;
            }
            self.names.remove(name);
            self.told_absent.remove(name);
            self.again.insert(name.clone());
            if !self.wildcard {
                self.held.remove(name);
            }
        }
    }

    fn refuse(&mut self, answered: InFlight, text: &str) -> Vec<(String, Refusal)> {
        let names = answered.changed.iter().map(|resource| resource.name.as_str());
        let verdict = match &self.scope {
            Scope::Names => nack::read(text, names),
            Scope::View(view) => nack::read_view(text, view, names),
        };
        let mut news = Vec::new();
        self.start_again();
        if let (Some(reason), Scope::View(view)) = (verdict.whole, &self.scope) {
            self.stalled = Some(answered.generation);
            let refusal = Refusal { version: String::new(), reason };
            self.refused.insert(view.clone(), refusal.clone());
            news.push((view.clone(), refusal));
        }
        for resource in &answered.changed {
            if let Some(reason) = verdict.refused.get(&resource.name) {
                let refusal = Refusal { version: resource.version.clone(), reason: reason.clone() };
                self.refused.insert(resource.name.clone(), refusal.clone());
                news.push((resource.name.clone(), refusal));
            } else if !verdict.others_taken {
                // It may have the one before it, which must go if this one does.
                self.held.insert(resource.name.clone(), String::new());
                if verdict.refused.is_empty() && self.stalled.is_none() {
                    self.suspects.insert(resource.name.clone());
                }
            }
        }
        // Removals alone cannot be refused for a reason that another try would cure.
        if verdict.others_taken || answered.changed.is_empty() {
            self.acked = answered.generation;
        } else {
            // Their removal was not taken either; an unknown version says that the client has them.
            self.held.extend(answered.removed.into_iter().map(|name| (name, String::new())));
        }
        news
    }

    /// Nothing is known any more against a view as a whole.
    fn start_again(&mut self) {
        if let (Some(_), Scope::View(view)) = (self.stalled.take(), &self.scope) {
            self.refused.remove(view);
        }
    }

    fn has_seen(&self, source: &Source<'_>) -> bool {
        let is_same = |seen: &Seen| {
            (seen.generation, seen.strangers_may_go) == (source.set.generation, source.strangers_may_go)
        };
        self.again.is_empty() && self.suspects.is_empty() && self.seen.as_ref().is_some_and(is_same)
    }

    /// Looks at what may have changed since the last time.
    fn look(&mut self, source: &Source<'_>) -> Answer {
        let Source { set: &Set { generation, ref resources, .. }, strangers_may_go, .. } = *source;
        let seen = Seen { generation, strangers_may_go, resources: resources.clone() };
        let seen = self.seen.replace(seen).filter(|seen| seen.strangers_may_go == strangers_may_go);
        let again = std::mem::take(&mut self.again);
        let mut names: BTreeSet<&str> = again.iter().map(String::as_str).collect();
        match &seen {
            Some(seen) => names.extend(resources.differing(&seen.resources)),
            None => {
                names.extend(resources.names());
                names.extend(self.held.keys().chain(&self.names).map(String::as_str));
            }
        }
        // The client's own come first: when another has the address of one of them, it is the other that is refused.
        for resource in source.own {
            names.remove(&*resource.name);
        }
        let own = source.own.iter().map(|resource| &*resource.name);
        let mut answer = Answer::default();
        for name in own.chain(names) {
            match source.get(name) {
                Some(resource) if self.wants(name) && self.lacks(resource) => {
                    answer.changed.push(resource.clone());
                }
                None if self.believes(name, source) => answer.removed.push(name.to_owned()),
                _ => {}
            }
        }
        answer
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Must the client be told that there is no such resource?
    fn believes(&self, name: &str, source: &Source<'_>) -> bool {
        let is_kept = !source.strangers_may_go && self.strangers.contains(name);
        let waits = self.names.contains(name) && !self.told_absent.contains(name);
        !is_kept && (self.held.contains_key(name) || waits)
    }

    fn next_suspect(&mut self, source: &Source<'_>) -> Option<Arc<Resource>> {
        while let Some(name) = self.suspects.pop_first() {
            if let Some(resource) = source.get(&name) {
                return Some(resource.clone());
            }
        }
        None
    }

    fn lacks(&self, resource: &Resource) -> bool {
        let holds = self.held.get(&resource.name).is_some_and(|version| *version == resource.version);
        let refuses =
            self.refused.get(&resource.name).is_some_and(|refusal| refusal.version == resource.version);
        !holds && !refuses
    }

    fn record(&mut self, changed: &[Arc<Resource>], removed: &[String]) {
        for resource in changed {
            self.held.insert(resource.name.clone(), resource.version.clone());
            self.strangers.remove(&resource.name);
            self.told_absent.remove(&resource.name);
            self.refused.remove(&resource.name);
        }
        for name in removed {
            self.held.remove(name);
            self.strangers.remove(name);
            self.refused.remove(name);
            if self.names.contains(name) {
                self.told_absent.insert(name.clone());
            }
        }
    }
}
