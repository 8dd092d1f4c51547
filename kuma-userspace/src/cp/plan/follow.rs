//! The plan, kept in step with the resources: a change is followed to everything that it has to do with, and only that is
//! drawn again.
//! Keeps: following gives what drawing everything gives; what did not change keeps its place in memory. Called by
//! cp::publish.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use imbl::ordmap::DiffItem;

use super::drawing::Drawing;
use super::pieces::{self, Piece};
use super::rules::{self, Rules};
use super::selection::Handles;
use super::token::{self, Token};
use super::{Condition, Conflict, Entry};
use crate::cp::resources::Resources;
use crate::cp::snapshot;
use crate::model::kind::{Resource, ResourceKey};
use crate::model::resource::{DEFAULT_MESH, ServiceKey};

/// About so many resources are drawn at once: drawing takes much more memory than what comes of it.
const BATCH: usize = 1_024;

/// The plan of the resources that it saw last.
pub struct Planner {
    rules: Rules,
    handles: Handles,
    seen: Resources,
    /// Who has to do with what.
    index: HashMap<Token, Few, RandomState>,
    entries: HashMap<ServiceKey, Arc<snapshot::Entry>, RandomState>,
    notes: HashMap<Token, Notes, RandomState>,
    conflicts: BTreeSet<Conflict>,
    conditions: BTreeSet<Condition>,
    meshes: BTreeSet<Arc<str>>,
}

/// Some resources; mostly one.
#[derive(Debug)]
enum Few {
    One(Arc<Resource>),
    Many(Vec<Arc<Resource>>),
}

/// What is to be said about something.
#[derive(Debug, Default)]
struct Notes {
    conflicts: Vec<Conflict>,
    conditions: Vec<Condition>,
}

/// What is drawn together.
#[derive(Default)]
struct Batch {
    resources: BTreeMap<ResourceKey, Arc<Resource>>,
    keys: HashSet<ServiceKey, RandomState>,
    tokens: HashSet<Token, RandomState>,
}

/// A run through resources that have changed, and what they have to do with.
#[derive(Default)]
struct Round {
    batch: Batch,
    /// Of all batches: what is in here was drawn, or will be with this batch.
    tokens: HashSet<Token, RandomState>,
    /// Every key of the batches that are done.
    keys: HashSet<ServiceKey, RandomState>,
    changed: Vec<ServiceKey>,
}

impl Default for Planner {
    fn default() -> Self {
        let seen = Resources::default();
        Self {
            rules: Rules::of(&seen),
            handles: Handles::default(),
            seen,
            index: HashMap::default(),
            entries: HashMap::default(),
            notes: HashMap::default(),
            conflicts: BTreeSet::new(),
            conditions: BTreeSet::new(),
            meshes: BTreeSet::from([DEFAULT_MESH.into()]),
        }
    }
}

impl Planner {
    /// Follows to the next state. Returns whose VIPs are to be others, to come or to go.
    pub fn follow(&mut self, resources: &Resources) -> Vec<ServiceKey> {
        let seen = std::mem::replace(&mut self.seen, resources.clone());
        let (mut old, mut new): (Vec<Arc<Resource>>, Vec<Arc<Resource>>) = (Vec::new(), Vec::new());
        let mut same_rules = self.rules.settings_hold_for(&resources.settings);
        for change in seen.all.diff(&resources.all) {
            let (before, after) = match change {
                DiffItem::Add(_, after) => (None, Some(after)),
                DiffItem::Update { old: (_, before), new: (_, after) } => (Some(before), Some(after)),
                DiffItem::Remove(_, before) => (Some(before), None),
            };
            same_rules &= !rules::changes_rules(before.map(Arc::as_ref), after.map(Arc::as_ref));
            same_rules &= !after.is_some_and(|after| self.handles.note(after));
            old.extend(before.cloned());
            new.extend(after.cloned());
        }
        for resource in &new {
            self.note_meshes(resource);
        }
        if !same_rules {
            return self.start_again();
        }
        old.iter().for_each(|resource| self.forget(resource));
        new.iter().for_each(|resource| self.learn(resource));
        let mut round = Round::default();
        for resource in &old {
            self.pieces(resource).into_iter().for_each(|piece| self.reach(&mut round, piece));
            self.draw_enough(&mut round);
        }
        new.iter().for_each(|resource| self.visit(&mut round, resource));
        self.draw(&mut round);
        round.changed
    }

    /// The VIP that is to be of somebody, if there is to be one.
    pub fn entry(&self, key: &ServiceKey) -> Option<&Arc<snapshot::Entry>> {
        self.entries.get(key)
    }

    /// Who is to have a VIP, in no order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &ServiceKey> {
        self.entries.keys()
    }

    /// Who wanted what another has.
    pub fn conflicts(&self) -> &BTreeSet<Conflict> {
        &self.conflicts
    }

    /// Who has not got a name, and why.
    pub fn conditions(&self) -> &BTreeSet<Condition> {
        &self.conditions
    }

    /// Every mesh that there is, or was.
    pub fn meshes(&self) -> &BTreeSet<Arc<str>> {
        &self.meshes
    }

    /// Something has changed that counts for all.
    fn start_again(&mut self) -> Vec<ServiceKey> {
        self.rules = Rules::of(&self.seen);
        let all: Vec<Arc<Resource>> = self.seen.all.values().cloned().collect();
        self.handles = Handles::default();
        for resource in &all {
            self.handles.note(resource);
            self.note_meshes(resource);
        }
        self.index = HashMap::default();
        self.notes = HashMap::default();
        self.conflicts.clear();
        self.conditions.clear();
        all.iter().for_each(|resource| self.learn(resource));
        let mut round = Round::default();
        all.iter().for_each(|resource| self.visit(&mut round, resource));
        self.draw(&mut round);
        let Round { keys, mut changed, .. } = round;
        self.entries.retain(|key, _| {
            let stays = keys.contains(key);
            if !stays {
                changed.push(key.clone());
            }
            stays
        });
        changed
    }

    /// A mesh stays, so that whoever has a view of it hears of removals.
    fn note_meshes(&mut self, resource: &Resource) {
        match resource {
            Resource::HostnameGenerator(_) => {}
            Resource::Mesh(mesh) => self.note_mesh(&mesh.meta.name),
            Resource::ZoneIngress(ingress) => {
                for offer in ingress.offers_to(&self.seen.settings.zone.clone()) {
                    self.note_mesh(&offer.mesh);
                }
            }
            _ => self.note_mesh(&resource.meta().mesh),
        }
    }

    fn note_mesh(&mut self, mesh: &Arc<str>) {
        if !self.meshes.contains(mesh) {
            self.meshes.insert(mesh.clone());
        }
    }

    fn pieces(&self, resource: &Resource) -> Vec<Piece> {
        pieces::of(&self.rules, &self.handles, resource)
    }

    fn learn(&mut self, resource: &Arc<Resource>) {
        for token in self.pieces(resource).iter().flat_map(|piece| &piece.tokens) {
            match self.index.get_mut(token) {
                Some(few) => few.add(resource),
                None => {
                    self.index.insert(*token, Few::One(resource.clone()));
                }
            }
        }
    }

    fn forget(&mut self, resource: &Arc<Resource>) {
        for token in self.pieces(resource).iter().flat_map(|piece| &piece.tokens) {
            if self.index.get_mut(token).is_some_and(|few| few.remove(resource)) {
                self.index.remove(token);
            }
        }
    }

    /// Takes in a resource that is there, unless others have led to it already.
    fn visit(&mut self, round: &mut Round, resource: &Arc<Resource>) {
        for piece in self.pieces(resource) {
            if piece.tokens.is_empty() || piece.tokens.iter().any(|token| !round.tokens.contains(token)) {
                round.batch.resources.insert(resource.key(), resource.clone());
                self.reach(round, piece);
            }
        }
        self.draw_enough(round);
    }

    /// Takes in everything that a piece has to do with.
    fn reach(&self, round: &mut Round, piece: Piece) {
        let mut ahead = Vec::new();
        round.take(piece, &mut ahead);
        while let Some(token) = ahead.pop() {
            for met in self.index.get(&token).into_iter().flat_map(Few::iter) {
                round.batch.resources.entry(met.key()).or_insert_with(|| met.clone());
                for piece in self.pieces(met).into_iter().filter(|piece| piece.tokens.contains(&token)) {
                    round.take(piece, &mut ahead);
                }
            }
        }
    }

    fn draw_enough(&mut self, round: &mut Round) {
        if round.batch.resources.len() >= BATCH {
            self.draw(round);
        }
    }

    /// Draws what was taken in, and takes over what has come of it.
    fn draw(&mut self, round: &mut Round) {
        let Batch { resources, keys, mut tokens } = std::mem::take(&mut round.batch);
        let drawing = Drawing::of(&self.rules, resources.values().map(Arc::as_ref));
        let Drawing { mut entries, conflicts, conditions } = drawing;
        for key in keys {
            tokens.insert(token::of_key(&key));
            match entries.remove(&key) {
                Some(entry) => {
                    let entry = publishable(&key, entry);
                    if self.entries.get(&key).is_none_or(|known| **known != entry) {
                        self.entries.insert(key.clone(), Arc::new(entry));
                        round.changed.push(key.clone());
                    }
                    round.keys.insert(key);
                }
                None => {
                    if self.entries.remove(&key).is_some() {
                        round.changed.push(key);
                    }
                }
            }
        }
        self.take_notes(&tokens, conflicts, conditions);
    }

    fn take_notes(
        &mut self,
        tokens: &HashSet<Token, RandomState>,
        conflicts: BTreeSet<(Token, Conflict)>,
        conditions: BTreeSet<(Token, Condition)>,
    ) {
        if !self.notes.is_empty() {
            for Notes { conflicts, conditions } in tokens.iter().filter_map(|token| self.notes.remove(token))
            {
                conflicts.iter().for_each(|conflict| {
                    self.conflicts.remove(conflict);
                });
                conditions.iter().for_each(|condition| {
                    self.conditions.remove(condition);
                });
            }
        }
        for (about, conflict) in conflicts.into_iter().filter(|(about, _)| tokens.contains(about)) {
            self.conflicts.insert(conflict.clone());
            self.notes.entry(about).or_default().conflicts.push(conflict);
        }
        for (about, condition) in conditions.into_iter().filter(|(about, _)| tokens.contains(about)) {
            self.conditions.insert(condition.clone());
            self.notes.entry(about).or_default().conditions.push(condition);
        }
    }
}

impl Round {
    fn take(&mut self, piece: Piece, ahead: &mut Vec<Token>) {
        for token in piece.tokens {
            if self.batch.tokens.insert(token) {
                self.tokens.insert(token);
                ahead.push(token);
            }
        }
        self.batch.keys.extend(piece.keys);
    }
}

impl Few {
    fn iter(&self) -> std::slice::Iter<'_, Arc<Resource>> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::Many(many) => many.iter(),
        }
    }

    fn add(&mut self, resource: &Arc<Resource>) {
        match self {
            // The pieces of one resource come one after the other.
            _ if self.iter().next_back().is_some_and(|last| Arc::ptr_eq(last, resource)) => {}
            Self::One(one) => *self = Self::Many(vec![one.clone(), resource.clone()]),
            Self::Many(many) => many.push(resource.clone()),
        }
    }

    /// Is nothing left?
    fn remove(&mut self, resource: &Arc<Resource>) -> bool {
        match self {
            Self::One(one) => is_same(one, resource),
            Self::Many(many) => {
                many.retain(|known| !is_same(known, resource));
                many.is_empty()
            }
        }
    }
}

/// An equal resource may have come in its place unseen.
fn is_same(a: &Arc<Resource>, b: &Arc<Resource>) -> bool {
    Arc::ptr_eq(a, b)
        || (a.kind() == b.kind() && a.meta().name == b.meta().name && a.meta().mesh == b.meta().mesh)
}

/// An entry as everybody gets it, small, with texts that are there already.
pub(super) fn publishable(key: &ServiceKey, entry: Entry) -> snapshot::Entry {
    let listeners = entry.listeners.into_iter().map(|(cluster, listener)| snapshot::Listener {
        cluster: if *cluster == *key.service { key.service.clone() } else { cluster.into() },
        ports: listener.ports.into_iter().collect(),
        protocol: listener.backend.protocol,
        endpoints: listener.backend.endpoints.into_iter().collect(),
    });
    snapshot::Entry { hostnames: entry.names.into_iter().collect(), listeners: listeners.collect() }
}
