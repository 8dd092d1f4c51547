//! One resource type on one stream of the state of the world. Pure. Keeps: listeners and clusters are sent all or none;
//! endpoints only as they change, and empty for a name that nobody has, so that nothing waits for it; what is refused is sent
//! as it was before it was refused. Called by sotw.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use foldhash::fast::RandomState;

use crate::cp::xds::clients::Refusal;
use crate::cp::xds::content::{Content, Resource};
use crate::cp::xds::nack;
use crate::cp::xds::name::Name;
use crate::cp::xds::published::Set;
use crate::cp::xds::refused::Refused;
use crate::cp::xds::resources::Resources;
use crate::wire::resource::ResourceType;

/// The subscription to everything.
const WILDCARD: &str = "*";

/// What the client is told next.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) version: String,
    pub(super) resources: Vec<(Name, Resource)>,
    /// Those of `resources` that are new to the client.
    pub(super) news: Vec<(Name, Resource)>,
    /// Those that are sent as they were before, if at all.
    held_back: BTreeSet<Name>,
}

#[derive(Debug)]
struct InFlight {
    nonce: u64,
    generation: u64,
    sent: Vec<(Name, Resource)>,
    news: Vec<Name>,
    held_back: BTreeSet<Name>,
}

/// A type that the client has asked for.
#[derive(Debug)]
pub(super) struct Watch {
    kind: ResourceType,
    /// `None`: everything.
    names: Option<HashSet<Name, RandomState>>,
    /// The version that the client had before this stream; of no meaning once something was sent.
    before: Option<String>,
    /// What the client has taken on this stream.
    taken: HashMap<Name, Resource, RandomState>,
    refused: Refused,
    /// Of `refused`, those that took a whole message with them: they are not sent again before their time.
    withheld: BTreeSet<Name>,
    /// Of a refused message that named none: each comes alone beside what is good until the bad one is found.
    suspects: BTreeSet<Name>,
    in_flight: Option<InFlight>,
    acked: u64,
    greeted: bool,
    seen: Option<(u64, Resources)>,
    /// Names to send again all the same.
    again: BTreeSet<Name>,
}

impl Watch {
    /// Takes in the first request of this type.
    pub(super) fn open(kind: ResourceType, request: DiscoveryRequest) -> Self {
        let mut watch = Self {
            kind,
            names: None,
            before: Some(request.version_info).filter(|version| !version.is_empty()),
            taken: HashMap::default(),
            refused: Refused::default(),
            withheld: BTreeSet::new(),
            suspects: BTreeSet::new(),
            in_flight: None,
            acked: 0,
            greeted: false,
            seen: None,
            again: BTreeSet::new(),
        };
        watch.ask(&request.resource_names);
        watch
    }

    /// Takes in a later request. Returns the refusals that are new.
    pub(super) fn take(&mut self, request: DiscoveryRequest, now: Instant) -> Vec<(Name, Refusal)> {
        let nonce = request.response_nonce.parse();
        let newest = self.in_flight.as_ref().map(|in_flight| in_flight.nonce);
        if newest.is_some_and(|newest| nonce != Ok(newest)) {
            // Said before our last answer was read; another request follows that one.
            return Vec::new();
        }
        self.ask(&request.resource_names);
        let Some(answered) = self.in_flight.take() else { return Vec::new() };
        match request.error_detail {
            None => {
                self.accept(answered, &BTreeMap::new());
                Vec::new()
            }
            Some(error) => self.refuse(answered, &error.message, now),
        }
    }

    /// Whatever these names are, they are sent again.
    pub(super) fn forget(&mut self, names: impl Iterator<Item = Name>) {
        let followed = names.filter(|name| self.taken.contains_key(name));
        self.again.extend(followed);
    }

    /// The next answer, if there is something to tell and the last one is acknowledged.
    pub(super) fn next(
        &mut self,
        set: &Set,
        own: &[(Name, Resource)],
        nonce: u64,
        now: Instant,
    ) -> Option<Answer> {
        if self.in_flight.is_some() || !set.decided {
            return None;
        }
        let exists =
            |name: &Name| set.resources.get(name).is_some() || own.iter().any(|(own, _)| own == name);
        self.refused.retain(exists);
        self.withheld.retain(exists);
        self.suspects.retain(exists);
        let due = self.refused.due(now);
        for name in &due {
            self.withheld.remove(name);
        }
        let has_seen = self.seen.as_ref().is_some_and(|(generation, _)| *generation == set.generation);
        if has_seen && due.is_empty() && self.again.is_empty() && self.suspects.is_empty() {
            return None;
        }
        let answer = match self.kind {
            ResourceType::Endpoints => self.some(set, &due),
            _ => self.all(set, own, &due),
        };
        let seen = self.seen.replace((set.generation, set.resources.clone()));
        if self.suspects.is_empty() || self.kind != ResourceType::Endpoints {
            self.again.clear();
        }
        // Suspects that are still to come leave the answer incomplete.
        let generation = if self.suspects.len() > 1 { self.acked } else { set.generation };
        // An Envoy that comes from another replica, or from this one before it was started again, has it all.
        let is_same =
            self.kind != ResourceType::Endpoints && self.before.take() == Some(answer.version.clone());
        if is_same && seen.is_none() {
            let InFlight { sent, .. } = Self::in_flight(nonce, generation, &answer);
            self.taken.extend(sent);
            self.greeted = true;
        }
        if is_same || (answer.news.is_empty() && !self.is_shorter(&answer) && self.greeted) {
            self.acked = generation;
            return None;
        }
        self.greeted = true;
        self.in_flight = Some(Self::in_flight(nonce, generation, &answer));
        Some(answer)
    }

    /// When there is something to tell though nothing has changed.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.refused.next_due().filter(|_| self.in_flight.is_none())
    }

    /// Up to which generation the client has everything.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// What the client does not take.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&Name, &Refusal)> {
        self.refused.iter()
    }

    fn ask(&mut self, names: &[String]) {
        let everything = names.is_empty() || names.iter().any(|name| name == WILDCARD);
        let may_ask_for_everything = self.kind != ResourceType::Endpoints;
        if everything && may_ask_for_everything {
            if self.names.take().is_some() {
                self.seen = None;
            }
            return;
        }
        let before = self.names.take().unwrap_or_default();
        let names: HashSet<Name, RandomState> = names.iter().map(|name| Name::of(name)).collect();
        self.again.extend(names.difference(&before).cloned());
        self.taken.retain(|name, _| names.contains(name));
        self.names = Some(names);
    }

    /// Everything that the client may have, in the one order.
    fn all(&self, set: &Set, own: &[(Name, Resource)], due: &[Name]) -> Answer {
        let trial = self.suspects.first().cloned();
        let wanted = |name: &Name| self.names.as_ref().is_none_or(|names| names.contains(name));
        let current = own.iter().map(|(name, resource)| (name, resource)).chain(set.resources.iter());
        let (mut resources, mut news, mut version) = (Vec::new(), Vec::new(), 0);
        let mut all_held_back = BTreeSet::new();
        for (name, resource) in current.filter(|(name, _)| wanted(name)) {
            let held_back = self.is_withheld(name, resource)
                || (self.suspects.contains(name) && trial.as_ref() != Some(name));
            let resource = if held_back { self.taken.get(name) } else { Some(resource) };
            if held_back {
                all_held_back.insert(name.clone());
            }
            let Some(resource) = resource else { continue };
            version ^= resource.version.get();
            let is_refused = self.refused.is_refused(name, resource.version) && !due.contains(name);
            if self.taken.get(name) != Some(resource) && !is_refused {
                news.push((name.clone(), resource.clone()));
            }
            resources.push((name.clone(), resource.clone()));
        }
        Answer { version: format!("{version:016x}"), resources, news, held_back: all_held_back }
    }

    /// The endpoints that are others than the client has.
    fn some(&self, set: &Set, due: &[Name]) -> Answer {
        let mut names: BTreeSet<&Name> = self.again.iter().chain(due).collect();
        if let Some((_, seen)) = &self.seen {
            names.extend(set.resources.differing(seen));
        }
        names.extend(self.names.iter().flatten().filter(|name| !self.taken.contains_key(name)));
        if let Some(suspect) = self.suspects.first() {
            names = BTreeSet::from([suspect]);
        }
        names.retain(|name| self.names.as_ref().is_some_and(|names| names.contains(name)));
        let resource = |name: &Name| {
            let absent = || Resource::new(name, Content::Endpoints([].into()));
            (name.clone(), set.resources.get(name).cloned().unwrap_or_else(absent))
        };
        let lacks = |(name, resource): &(Name, Resource)| {
            self.again.contains(name)
                || due.contains(name)
                || (self.taken.get(name) != Some(resource)
                    && !self.refused.is_refused(name, resource.version))
        };
        let resources: Vec<_> = names.into_iter().map(resource).filter(lacks).collect();
        let (version, held_back) = (set.resources.version(), BTreeSet::new());
        Answer { version, news: resources.clone(), resources, held_back }
    }

    /// Is something gone that the client has?
    fn is_shorter(&self, answer: &Answer) -> bool {
        if self.kind == ResourceType::Endpoints {
            return false;
        }
        let sent: HashSet<&Name> = answer.resources.iter().map(|(name, _)| name).collect();
        self.taken.keys().any(|name| !sent.contains(name))
    }

    fn is_withheld(&self, name: &Name, resource: &Resource) -> bool {
        self.withheld.contains(name) && self.refused.is_refused(name, resource.version)
    }

    fn in_flight(nonce: u64, generation: u64, answer: &Answer) -> InFlight {
        let news = answer.news.iter().map(|(name, _)| name.clone()).collect();
        let (sent, held_back) = (answer.resources.clone(), answer.held_back.clone());
        InFlight { nonce, generation, sent, news, held_back }
    }

    /// The client has all of it but what it refused.
    fn accept(&mut self, answered: InFlight, refused: &BTreeMap<String, String>) {
        self.acked = answered.generation;
        if self.kind != ResourceType::Endpoints {
            let sent: HashSet<&Name> = answered.sent.iter().map(|(name, _)| name).collect();
            self.taken.retain(|name, _| sent.contains(name));
        }
        for (name, resource) in answered.sent {
            let is_refused = !refused.is_empty() && refused.contains_key(&name.to_string());
            if is_refused || answered.held_back.contains(&name) {
                continue;
            }
            self.suspects.remove(&name);
            self.withheld.remove(&name);
            self.refused.forgive(&name);
            self.taken.insert(name, resource);
        }
    }

    fn refuse(&mut self, answered: InFlight, text: &str, now: Instant) -> Vec<(Name, Refusal)> {
        let texts: Vec<String> = answered.sent.iter().map(|(name, _)| name.to_string()).collect();
        let mut verdict = nack::read(text, texts.iter().map(String::as_str));
        if let ([only], true) = (&answered.news[..], verdict.refused.is_empty()) {
            // All the others were taken before.
            verdict = nack::read(text, std::iter::once(&*only.to_string()));
        }
        let mut news = Vec::new();
        for (name, resource) in &answered.sent {
            let Some(reason) = verdict.refused.get(&name.to_string()) else { continue };
            let refusal = Refusal { version: resource.version, reason: reason.as_str().into() };
            self.suspects.remove(name);
            if self.refused.refuse(name.clone(), refusal.clone(), now) {
                news.push((name.clone(), refusal));
            }
            if !verdict.others_taken {
                self.withheld.insert(name.clone());
            }
        }
        if verdict.others_taken {
            self.accept(answered, &verdict.refused);
        } else {
            self.seen = None;
            if verdict.refused.is_empty() {
                self.suspects.extend(answered.news);
            }
        }
        news
    }
}

#[cfg(test)]
mod tests;
