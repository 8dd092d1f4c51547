//! One resource type on one stream: what the client asked for, what it has, what it must be told next. Pure.
//! Keeps: one answer at a time, made from the newest state, so a slow client costs one pending answer and no queue;
//! every name that was asked for is answered. Called by session.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use foldhash::fast::RandomState;

use super::clients::Refusal;
use super::content::Resource;
use super::nack;
use super::name::Name;
use super::published::Set;
use super::refused::Refused;
use super::resources::Resources;
use crate::wire::resource::Version;
use crate::wire::view::{Named, part_name};

/// The subscription to everything.
const WILDCARD: &str = "*";

/// What the client is told next.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) changed: Vec<(Name, Resource)>,
    pub(super) removed: Vec<Name>,
}

/// An answer that the client has not acknowledged yet.
#[derive(Debug)]
struct InFlight {
    nonce: u64,
    generation: u64,
    changed: Vec<(Name, Version)>,
    removed: Vec<Name>,
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

impl Scope {
    /// The name of a resource as it stands in messages.
    pub(super) fn write(&self, name: &Name) -> String {
        match (self, name) {
            (Self::View(view), Name::Text(key)) if key.is_empty() => view.clone(),
            (Self::View(view), key) => part_name(view, &key.to_string()),
            (Self::Names, name) => name.to_string(),
        }
    }

    /// `None`: nothing of the view has this name.
    fn read(&self, text: &str) -> Option<Name> {
        match self {
            Self::Names => Some(Name::of(text)),
            Self::View(view) => match Named::read(view, text).ok()? {
                Named::Header => Some(Name::of("")),
                Named::Part(key) => Some(Name::of(key)),
            },
        }
    }
}

/// A type that the client has asked for.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    scope: Scope,
    wildcard: bool,
    names: HashSet<Name, RandomState>,
    /// What the client has.
    held: HashMap<Name, Version, RandomState>,
    /// Those of `held` that an earlier stream gave it, until they may go.
    strangers: HashSet<Name, RandomState>,
    /// Names that it asked for and was told do not exist.
    told_absent: HashSet<Name, RandomState>,
    refused: Refused,
    /// Resources that go alone: of a refused message that named none, until the bad one is found; and refused ones that are
    /// tried again.
    suspects: BTreeSet<Name>,
    in_flight: Option<InFlight>,
    /// Up to which generation the client has been answered, and has acknowledged.
    acked: u64,
    /// Even an empty answer counts: the first one ends the client's initial fetch.
    greeted: bool,
    /// What was looked at last, and need not be looked at again; `None`: everything must be.
    seen: Option<Seen>,
    /// Names to look at again all the same.
    again: BTreeSet<Name>,
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
    pub(super) own: &'a [(Name, Resource)],
    pub(super) strangers_may_go: bool,
}

impl Source<'_> {
    fn get(&self, name: &Name) -> Option<&Resource> {
        let own = self.own.iter().find(|(own, _)| own == name).map(|(_, resource)| resource);
        own.or_else(|| self.set.resources.get(name))
    }

    /// The name as it is shared by everybody who has it.
    fn shared(&self, name: Name) -> Name {
        self.set.resources.entry(&name).map_or(name, |(shared, _)| shared.clone())
    }
}

impl Subscription {
    /// Takes in the first request of this type: it may say what the client still has from an earlier stream.
    pub(super) fn open(scope: Scope, request: &mut DeltaDiscoveryRequest) -> Self {
        let wildcard = request.resource_names_subscribe.is_empty();
        let mut subscription = Self { scope, wildcard, ..Self::default() };
        subscription.subscribe(std::mem::take(&mut request.resource_names_subscribe));
        for (text, version) in std::mem::take(&mut request.initial_resource_versions) {
            let Some(name) = subscription.scope.read(&text) else { continue };
            subscription.strangers.insert(name.clone());
            subscription.held.insert(name, version.parse().unwrap_or(Version::UNKNOWN));
        }
        subscription
    }

    /// Takes in a later request. Returns the refusals that are new.
    pub(super) fn take(&mut self, request: DeltaDiscoveryRequest, now: Instant) -> Vec<(Name, Refusal)> {
        let mut news = Vec::new();
        let nonce = request.response_nonce.parse();
        if let Some(answered) = self.in_flight.take_if(|in_flight| nonce == Ok(in_flight.nonce)) {
            match request.error_detail {
                None => {
                    self.acked = answered.generation;
                    self.refused.clear_whole();
                    for (name, _) in &answered.changed {
                        self.refused.forgive(name);
                    }
                }
                Some(error) => {
                    self.seen = None;
                    news = self.refuse(answered, &error.message, now);
                }
            }
        }
        self.unsubscribe(&request.resource_names_unsubscribe);
        self.subscribe(request.resource_names_subscribe);
        news
    }

    /// Whatever these names are, they are sent again.
    pub(super) fn forget(&mut self, names: impl Iterator<Item = Name>) {
        for name in names {
            if self.held.remove(&name).is_some() {
                self.again.insert(name);
            }
        }
    }

    /// The next answer, if there is something to tell and the last one is acknowledged.
    pub(super) fn next(&mut self, source: &Source<'_>, nonce: u64, now: Instant) -> Option<Answer> {
        if self.in_flight.is_some() || !source.set.decided {
            return None;
        }
        if self.refused.whole_is_due(source.set.generation, now) {
            self.seen = None;
        } else if self.refused.is_stalled(source.set.generation) {
            return None;
        }
        self.suspects.extend(self.refused.due(now));
        if self.has_seen(source) {
            return None;
        }
        // A suspect goes alone and completes nothing.
        let (generation, answer) = match self.next_suspect(source) {
            Some(suspect) => (self.acked, Answer { changed: vec![suspect], removed: Vec::new() }),
            None => (source.set.generation, self.look(source)),
        };
        if answer.changed.is_empty() && answer.removed.is_empty() && self.greeted {
            self.acked = generation;
            self.refused.clear_whole();
            return None;
        }
        self.greeted = true;
        self.record(&answer, source);
        let changed = answer.changed.iter().map(|(name, resource)| (name.clone(), resource.version));
        let (changed, removed) = (changed.collect(), answer.removed.clone());
        self.in_flight = Some(InFlight { nonce, generation, changed, removed });
        Some(answer)
    }

    /// When there is something to tell though nothing has changed: a refused resource is tried again.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.refused.next_due().filter(|_| self.in_flight.is_none())
    }

    /// Up to which generation the client has everything.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// What the client does not take, by the names in messages.
    pub(super) fn refused(&self) -> impl Iterator<Item = (String, &Refusal)> {
        let whole = self.refused.whole().map(|refusal| (self.scope.write(&Name::of("")), refusal));
        whole.into_iter().chain(self.refused.iter().map(|(name, refusal)| (self.scope.write(name), refusal)))
    }

    /// What the names in messages mean.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    fn subscribe(&mut self, names: Vec<String>) {
        for text in names {
            if text == WILDCARD || self.scope == Scope::View(text.clone()) {
                (self.wildcard, self.seen) = (true, None);
                continue;
            }
            let Some(name) = self.scope.read(&text) else { continue };
            // Asking again means: send it again (xDS protocol, "subscribing to resources").
            self.held.remove(&name);
            self.told_absent.remove(&name);
            self.again.insert(name.clone());
            self.names.insert(name);
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for text in names {
            if text == WILDCARD {
                (self.wildcard, self.seen) = (false, None);
                self.held.retain(|held, _| self.names.contains(held));
                continue;
            }
            let Some(name) = self.scope.read(text) else { continue };
            self.names.remove(&name);
            self.told_absent.remove(&name);
            if !self.wildcard {
                self.held.remove(&name);
            }
            self.again.insert(name);
        }
    }

    fn refuse(&mut self, answered: InFlight, text: &str, now: Instant) -> Vec<(Name, Refusal)> {
        let texts: Vec<String> = answered.changed.iter().map(|(name, _)| self.scope.write(name)).collect();
        let names = texts.iter().map(String::as_str);
        let verdict = match &self.scope {
            Scope::Names => nack::read(text, names),
            Scope::View(view) => nack::read_view(text, view, names),
        };
        let mut news = Vec::new();
        match &verdict.whole {
            Some(reason) => {
                let refusal = Refusal { version: Version::UNKNOWN, reason: reason.as_str().into() };
                if self.refused.refuse_whole(answered.generation, refusal.clone(), now) {
                    news.push((Name::of(""), refusal));
                }
            }
            None => self.refused.clear_whole(),
        }
        for ((name, version), text) in answered.changed.iter().zip(&texts) {
            if let Some(reason) = verdict.refused.get(text) {
                let refusal = Refusal { version: *version, reason: reason.as_str().into() };
                if self.refused.refuse(name.clone(), refusal.clone(), now) {
                    news.push((name.clone(), refusal));
                }
            } else if verdict.others_taken {
                self.refused.forgive(name);
            } else {
                // It may have the one before it, which must go if this one does.
                self.held.insert(name.clone(), Version::UNKNOWN);
                if verdict.refused.is_empty() && verdict.whole.is_none() {
                    self.suspects.insert(name.clone());
                }
            }
        }
        // Removals alone cannot be refused for a reason that another try would cure.
        if verdict.others_taken || answered.changed.is_empty() {
            self.acked = answered.generation;
        } else {
            // Their removal was not taken either.
            self.held.extend(answered.removed.into_iter().map(|name| (name, Version::UNKNOWN)));
        }
        news
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
        let seen = self.seen.replace(seen);
        let freed = if strangers_may_go { std::mem::take(&mut self.strangers) } else { HashSet::default() };
        let again = std::mem::take(&mut self.again);
        let mut names: BTreeSet<&Name> = again.iter().chain(&freed).collect();
        match &seen {
            Some(seen) => names.extend(resources.differing(&seen.resources)),
            None => {
                names.extend(resources.iter().map(|(name, _)| name));
                names.extend(self.held.keys().chain(&self.names));
            }
        }
        // The client's own come first: when another has the address of one of them, it is the other that is refused.
        for (name, _) in source.own {
            names.remove(name);
        }
        let own = source.own.iter().map(|(name, _)| name);
        let mut answer = Answer::default();
        for name in own.chain(names) {
            match source.get(name) {
                Some(resource) if self.wants(name) && self.lacks(name, resource.version) => {
                    answer.changed.push((source.shared(name.clone()), resource.clone()));
                }
                None if self.believes(name, source) => answer.removed.push(name.clone()),
                _ => {}
            }
        }
        answer
    }

    fn wants(&self, name: &Name) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Must the client be told that there is no such resource?
    fn believes(&self, name: &Name, source: &Source<'_>) -> bool {
        let is_kept = !source.strangers_may_go && self.strangers.contains(name);
        let waits = self.names.contains(name) && !self.told_absent.contains(name);
        !is_kept && (self.held.contains_key(name) || waits)
    }

    fn next_suspect(&mut self, source: &Source<'_>) -> Option<(Name, Resource)> {
        while let Some(name) = self.suspects.pop_first() {
            if let Some(resource) = source.get(&name) {
                return Some((name, resource.clone()));
            }
        }
        None
    }

    fn lacks(&self, name: &Name, version: Version) -> bool {
        self.held.get(name) != Some(&version) && !self.refused.is_refused(name, version)
    }

    fn record(&mut self, Answer { changed, removed }: &Answer, source: &Source<'_>) {
        for (name, resource) in changed {
            if self.names.contains(name) {
                // One copy of the text for all.
                self.names.replace(source.shared(name.clone()));
            }
            self.held.insert(name.clone(), resource.version);
            self.strangers.remove(name);
            self.told_absent.remove(name);
        }
        for name in removed {
            self.held.remove(name);
            self.strangers.remove(name);
            self.refused.forgive(name);
            if self.names.contains(name) {
                self.told_absent.insert(name.clone());
            }
        }
    }
}
