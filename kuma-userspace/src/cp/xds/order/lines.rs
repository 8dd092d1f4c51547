//! The life of each line of a view (a VIP and port in one shape): one stage after the other, as far as ACKs and clock allow. Part of order.

use std::time::{Duration, Instant};

use super::book::Seen;
use super::{AGENT_LIMIT, Action, Due, Key, Line, Order, Stage, Step, TTLS};
use crate::cp::xds::clients::{Client, ClientId};
use crate::cp::xds::shape::Shape;
use crate::cp::xds::targets::Target;
use crate::model::view::Route;
use crate::wire::envoy::{entrance_name, outbound_name};
use crate::wire::node::Role;
use crate::wire::resource::ResourceType;

/// How long a listener waits for its cluster's ACK, and a cluster's end for its listener's: Envoy holds the first back
/// while any cluster at all warms.
pub(super) const CLUSTER_LIMIT: Duration = Duration::from_secs(2);
/// From the ACK of a listener until every worker of Envoy has it; 9 ms were the most seen under load.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
/// The same for a cluster that the shared listener finds. A worker that does not have it yet asks for it, and the
/// connection waits: this only saves it the wait.
pub(super) const SETTLE_COMPACT: Duration = Duration::from_millis(10);
/// How long one proxy without an ACK may hold back what the others have.
pub(super) const PROXY_LIMIT: Duration = Duration::from_secs(30);

/// What becomes of a line that is not wanted as it is.
enum Fate {
    /// Its VIP is no longer this service's.
    Retire,
    /// The other shape works, or this one never did.
    Leave,
    /// Until the other shape works.
    Stay,
}

impl Order {
    /// Where something has changed: starts what is new, turns what is no longer wanted towards its end.
    pub(super) fn set_lines(&mut self, step: &mut Step, now: Instant) {
        for route in std::mem::take(&mut self.touched) {
            for shape in [Shape::Listener, Shape::Compact] {
                let key = Key { route, shape };
                match self.fate(key) {
                    Some(Fate::Retire) => self.retire(step, key, now),
                    Some(Fate::Leave) => self.leave(step, key, now),
                    Some(Fate::Stay) => self.revive(key),
                    None => {}
                }
            }
            if let Some(target) = self.book.wanted(route).cloned() {
                self.set_line(step, Key { route, shape: target.shape }, &target, now);
            }
        }
    }

    fn set_line(&mut self, step: &mut Step, key: Key, target: &Target, now: Instant) {
        match self.book.line(key) {
            Some(line) if line.target.service() == target.service() => self.renew(step, key, target, now),
            None if self.is_free(key.route, target) => {
                let cluster = self.hold_cluster(step, key, target);
                let stage = Stage::AwaitsCluster { since: now };
                self.book.set(key, Some(Line { target: target.clone(), stage, cluster }));
            }
            // Another service has the VIP: its lines leave first, and this one comes later.
            _ => {}
        }
    }

    /// Has no other service a line of this VIP and port?
    fn is_free(&self, route: Route, target: &Target) -> bool {
        let of_another = |shape| {
            let line = self.book.line(Key { route, shape });
            line.is_some_and(|line| line.target.service() != target.service())
        };
        ![Shape::Listener, Shape::Compact].into_iter().any(of_another)
    }

    /// `None`: there is no such line, or it is wanted as it is.
    fn fate(&self, key: Key) -> Option<Fate> {
        let line = self.book.line(key)?;
        let target = self.book.wanted(key.route);
        let Some(target) = target.filter(|target| target.service() == line.target.service()) else {
            return Some(Fate::Retire);
        };
        if target.shape == key.shape {
            return None;
        }
        let is_of_no_use = self.book.works(key.other()) || line.stage.is_before_works();
        Some(if is_of_no_use { Fate::Leave } else { Fate::Stay })
    }

    /// A line whose VIP is no longer this service's. Its name has a view to leave first, if there is one.
    fn retire(&mut self, step: &mut Step, key: Key, now: Instant) {
        match self.book.line(key).map(|line| line.stage) {
            Some(Stage::Works) if self.view.is_some() => {
                let generation = self.generations[ResourceType::MeshView] + 1;
                self.enter(key, Stage::LeftView { since: now, generation });
            }
            None | Some(Stage::LeftView { .. } | Stage::Rests { .. }) => {}
            Some(_) => self.leave(step, key, now),
        }
    }

    /// A line that no agent needs leaves the proxies.
    fn leave(&mut self, step: &mut Step, key: Key, now: Instant) {
        let Some(line) = self.book.line(key) else { return };
        match (key.shape, line.stage) {
            (_, Stage::LeftProxies { .. }) => {}
            (Shape::Compact, _) | (_, Stage::AwaitsCluster { .. }) => self.remove(step, key, now),
            (Shape::Listener, _) => {
                let drop = Action::DropListener { route: key.route };
                let generation = self.emit(step, ResourceType::Listener, drop);
                step.wake_at(now + CLUSTER_LIMIT);
                self.enter(key, Stage::LeftProxies { since: now, generation });
            }
        }
    }

    fn remove(&mut self, step: &mut Step, key: Key, now: Instant) {
        let Some(line) = self.book.set(key, None) else { return };
        if line.stage == Stage::Works {
            self.stale.insert(line.target.vip.clone());
        }
        self.ranges_may_go = true;
        self.release_cluster(step, key, &line.target);
        // It may be wanted again: by another service, or since it left.
        self.touched.insert(key.route);
        step.wake_at(now);
    }

    /// A line that was about to leave stays.
    fn revive(&mut self, key: Key) {
        let Some(line) = self.book.line(key) else { return };
        if matches!(line.stage, Stage::LeftView { .. } | Stage::Rests { .. }) {
            self.enter(key, Stage::Works);
        }
    }

    /// A line that is still wanted: follows a changed target, comes back when it was about to leave.
    fn renew(&mut self, step: &mut Step, key: Key, target: &Target, now: Instant) {
        self.revive(key);
        let Some(Seen { target: before, stage, .. }) = self.book.line(key) else { return };
        let (is_same, codec) = (before.is(target), before.codec);
        if is_same {
            return;
        }
        self.book.update(key, |line| line.target = target.clone());
        if codec == target.codec {
            return;
        }
        match (key.shape, stage) {
            (Shape::Compact, _) | (_, Stage::AwaitsCluster { .. } | Stage::LeftProxies { .. }) => {}
            (Shape::Listener, Stage::AwaitsProxies { .. }) => self.listen(step, key, now),
            (Shape::Listener, _) => {
                self.emit(step, ResourceType::Listener, set_listener(key.route, target));
            }
        }
    }

    /// Moves lines as far as the ACKs and the clock allow: those whose moment has come or whose clients have news, and those
    /// that are new in their stage.
    pub(super) fn advance_lines(&mut self, step: &mut Step, now: Instant) {
        let mut keys = std::mem::take(&mut self.book.fresh);
        if self.due.proxies.take_if(|due| *due <= now).is_some() {
            keys.extend(&self.book.await_proxies);
        }
        if self.due.agents.take_if(|due| *due <= now).is_some() {
            keys.extend(&self.book.await_agents);
        }
        let timed = self.book.await_time.iter().take_while(|(moment, _)| *moment <= now);
        keys.extend(timed.map(|(_, key)| *key));
        for key in keys {
            self.advance(step, key, now);
        }
    }

    fn advance(&mut self, step: &mut Step, key: Key, now: Instant) {
        let Some(line) = self.book.line(key) else { return };
        match line.stage {
            Stage::AwaitsCluster { since } => {
                if self.cluster_is_there(step, key, since, now) {
                    self.listen(step, key, now);
                }
            }
            Stage::AwaitsProxies { since, generation } => {
                if self.every_proxy_has(step, key, generation, since, now) {
                    let settle = match key.shape {
                        Shape::Listener => SETTLE,
                        Shape::Compact => SETTLE_COMPACT,
                    };
                    self.enter(key, Stage::Settles { until: now + settle });
                }
            }
            Stage::Settles { until } if now >= until => {
                self.enter(key, Stage::Works);
                // The other shape of the same VIP has nothing to do any more.
                self.leave(step, key.other(), now);
            }
            Stage::Works => {}
            Stage::LeftView { since, generation } => {
                let views = (ResourceType::MeshView, generation);
                if self.acknowledged(step, Role::Agent, views, since + AGENT_LIMIT, now) {
                    let until = now + self.rest();
                    self.enter(key, Stage::Rests { until });
                }
            }
            Stage::Rests { until } if now >= until => self.leave(step, key, now),
            Stage::Settles { .. } | Stage::Rests { .. } => {}
            Stage::LeftProxies { since, generation } => {
                let listeners = (ResourceType::Listener, generation);
                if self.acknowledged(step, Role::Proxy, listeners, since + CLUSTER_LIMIT, now) {
                    self.remove(step, key, now);
                }
            }
        }
    }

    fn enter(&mut self, key: Key, stage: Stage) {
        let Some(Seen { target, stage: left, cluster }) = self.book.line(key) else { return };
        if left == Stage::Works || stage == Stage::Works {
            self.stale.insert(target.vip.clone());
        }
        let line = Line { target: target.clone(), stage, cluster };
        self.book.set(key, Some(line));
    }

    /// May the line go on to what needs its cluster?
    fn cluster_is_there(&mut self, step: &mut Step, key: Key, since: Instant, now: Instant) -> bool {
        let Some(line) = self.book.line(key) else { return false };
        if key.shape == Shape::Compact {
            // It needs nothing else.
            return true;
        }
        if self.book.works(Key { shape: Shape::Compact, ..key }) {
            // Its listener takes the connections of what works, so its cluster must really be there.
            return self.every_proxy_has(step, key, 0, since, now);
        }
        let clusters = (ResourceType::Cluster, self.clusters.generation(key, line.target, line.cluster));
        self.acknowledged(step, Role::Proxy, clusters, since + CLUSTER_LIMIT, now)
    }

    /// Gives proxies what connections of the line find it by.
    fn listen(&mut self, step: &mut Step, key: Key, now: Instant) {
        let Some(line) = self.book.line(key) else { return };
        let generation = match key.shape {
            Shape::Listener => {
                let set = set_listener(key.route, line.target);
                self.emit(step, ResourceType::Listener, set)
            }
            Shape::Compact => self.entrance.generation,
        };
        self.enter(key, Stage::AwaitsProxies { since: now, generation });
    }

    pub(super) fn rest(&self) -> Duration {
        let ttl_secs = self.wanted.as_ref().map_or(0, |mesh| mesh.header.ttl_secs);
        Duration::from_secs(ttl_secs.into()) * TTLS
    }

    /// Has everybody of `role` acknowledged that generation, or had its time? True when nobody is there.
    pub(super) fn acknowledged(
        &mut self,
        step: &mut Step,
        role: Role,
        (kind, generation): (ResourceType, u64),
        limit: Instant,
        now: Instant,
    ) -> bool {
        if self.crowd.has(role, kind, generation) {
            return true;
        }
        if now < limit {
            self.due.at(role, limit);
            return false;
        }
        for client in self.crowd.late(role, kind, generation) {
            self.say_overdue(step, client, kind);
        }
        true
    }

    /// Like [`Self::acknowledged`], but at least one proxy must really have the line's cluster and its listeners up to
    /// this generation, and none refuse them.
    fn every_proxy_has(
        &mut self,
        step: &mut Step,
        key: Key,
        listeners: u64,
        since: Instant,
        now: Instant,
    ) -> bool {
        let Some(line) = self.book.line(key) else { return false };
        let clusters = self.clusters.generation(key, line.target, line.cluster);
        if self.crowd.proxies_have([(ResourceType::Listener, listeners), (ResourceType::Cluster, clusters)]) {
            return true;
        }
        let (mut one, mut late) = (false, Vec::new());
        for proxy in self.crowd.proxies() {
            if refused_by(proxy, key, line.target).is_some()
                || entrance_refused_by(proxy, key.route).is_some()
            {
                return false;
            }
            if proxy.acked(ResourceType::Listener) >= listeners
                && proxy.acked(ResourceType::Cluster) >= clusters
            {
                one = true;
                continue;
            }
            let limit = since.max(proxy.connected) + PROXY_LIMIT;
            if now < limit {
                self.due.at(Role::Proxy, limit);
                return false;
            }
            late.push(proxy.id);
        }
        let kind = match key.shape {
            Shape::Listener => ResourceType::Listener,
            Shape::Compact => ResourceType::Cluster,
        };
        for client in late {
            self.say_overdue(step, client, kind);
        }
        one
    }

    fn say_overdue(&mut self, step: &mut Step, client: ClientId, kind: ResourceType) {
        if self.overdue.insert((client, kind)) {
            step.actions.push(Action::Overdue { client, kind });
        }
    }
}

impl Due {
    fn at(&mut self, role: Role, limit: Instant) {
        let due = match role {
            Role::Proxy => &mut self.proxies,
            Role::Agent => &mut self.agents,
        };
        *due = Some(due.map_or(limit, |due| due.min(limit)));
    }
}

fn set_listener(route: Route, target: &Target) -> Action {
    Action::SetListener { route, service: target.service().clone(), codec: target.codec }
}

/// What the proxy refuses of that which the line alone needs.
pub(super) fn refused_by(proxy: &Client, key: Key, target: &Target) -> Option<String> {
    if proxy.progress.refused.is_empty() {
        return None;
    }
    let listener = Some(outbound_name(key.route))
        .filter(|name| key.shape == Shape::Listener && proxy.refuses(ResourceType::Listener, name));
    let cluster = || {
        Some(target.cluster(key.route, key.shape).to_string())
            .filter(|name| proxy.refuses(ResourceType::Cluster, name))
    };
    listener.or_else(cluster)
}

/// The listener with a socket, if the proxy refuses it: its port is taken, or the machine lacks the family.
pub(super) fn entrance_refused_by(proxy: &Client, route: Route) -> Option<String> {
    Some(entrance_name(route.vip)).filter(|name| proxy.refuses(ResourceType::Listener, name))
}
