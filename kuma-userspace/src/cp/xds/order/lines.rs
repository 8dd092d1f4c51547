//! The life of each listener of a view: one stage after the other, as far as ACKs and clock allow. Part of order.

use std::time::{Duration, Instant};

use super::{AGENT_LIMIT, Action, Line, Order, Stage, Step, TTLS};
use crate::cp::xds::clients::{Client, ClientId};
use crate::cp::xds::targets::Target;
use crate::model::view::Route;
use crate::wire::envoy::{entrance_name, listener_name};
use crate::wire::node::Role;
use crate::wire::resource::ResourceType;

/// How long a listener waits for its cluster's ACK, and a cluster's end for its listener's: Envoy holds the first back
/// while any cluster at all warms.
pub(super) const CLUSTER_LIMIT: Duration = Duration::from_secs(2);
/// From the ACK of a listener until every worker of Envoy has it; 9 ms were the most seen under load.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
/// How long one proxy without an ACK may hold back what the others have.
pub(super) const PROXY_LIMIT: Duration = Duration::from_secs(30);

impl Order {
    /// Starts what is new, turns what is no longer wanted towards its end.
    pub(super) fn set_lines(&mut self, step: &mut Step, now: Instant) {
        for route in self.unwanted() {
            self.retire(step, route, now);
        }
        let targets = std::mem::take(&mut self.targets);
        for (&route, target) in &targets {
            let Some(line) = self.lines.get(&route) else {
                let stage = Stage::AwaitsCluster { since: now };
                self.lines.insert(route, Line { target: target.clone(), stage });
                continue;
            };
            if line.target.service == target.service {
                self.renew(step, route, target, now);
            }
        }
        self.targets = targets;
    }

    /// A line whose VIP now belongs to another service leaves first and comes back later.
    fn unwanted(&self) -> Vec<Route> {
        let wanted = |route: &Route, line: &Line| {
            self.targets.get(route).is_some_and(|target| target.service == line.target.service)
        };
        self.lines.iter().filter(|(route, line)| !wanted(route, line)).map(|(route, _)| *route).collect()
    }

    fn retire(&mut self, step: &mut Step, route: Route, now: Instant) {
        let Some(line) = self.lines.get(&route) else { return };
        match line.stage {
            Stage::AwaitsCluster { .. } => {
                self.lines.remove(&route);
            }
            // Its name has a view to leave first, if there is one.
            Stage::Works if self.view.is_some() => {
                let generation = self.generations[ResourceType::MeshView] + 1;
                self.enter(route, Stage::LeftView { since: now, generation });
            }
            Stage::AwaitsProxies { .. } | Stage::Settles { .. } | Stage::Works => {
                self.unlisten(step, route, now)
            }
            Stage::LeftView { .. } | Stage::Rests { .. } | Stage::LeftProxies { .. } => {}
        }
    }

    /// A line that is still wanted: follows a changed target, comes back when it was about to leave.
    fn renew(&mut self, step: &mut Step, route: Route, target: &Target, now: Instant) {
        let Some(line) = self.lines.get_mut(&route) else { return };
        if matches!(line.stage, Stage::LeftView { .. } | Stage::Rests { .. }) {
            line.stage = Stage::Works;
            self.stale = true;
        }
        if line.target == *target {
            return;
        }
        line.target = target.clone();
        let stage = line.stage;
        match stage {
            Stage::AwaitsCluster { .. } | Stage::LeftProxies { .. } => {}
            Stage::AwaitsProxies { .. } => self.listen(step, route, now),
            _ => {
                let Target { service, codec } = target.clone();
                self.emit(step, ResourceType::Listener, Action::SetListener { route, service, codec });
            }
        }
    }

    /// Moves every line as far as the ACKs and the clock allow.
    pub(super) fn advance_lines(&mut self, step: &mut Step, now: Instant) {
        let routes: Vec<Route> =
            self.lines.iter().filter(|(_, l)| l.stage != Stage::Works).map(|(r, _)| *r).collect();
        for route in routes {
            self.advance(step, route, now);
        }
    }

    fn advance(&mut self, step: &mut Step, route: Route, now: Instant) {
        let Some(line) = self.lines.get(&route) else { return };
        match line.stage {
            Stage::AwaitsCluster { since } => {
                let generation =
                    self.clusters.get(&line.target.service).map_or(0, |cluster| cluster.generation);
                let clusters = (ResourceType::Cluster, generation);
                if self.acknowledged(step, Role::Proxy, clusters, since + CLUSTER_LIMIT, now) {
                    self.listen(step, route, now);
                }
            }
            Stage::AwaitsProxies { since, generation } => {
                if self.every_proxy_listens(step, route, generation, since, now) {
                    step.wake_at(now + SETTLE);
                    self.enter(route, Stage::Settles { until: now + SETTLE });
                }
            }
            Stage::Settles { until } if now >= until => self.enter(route, Stage::Works),
            Stage::Works => {}
            Stage::LeftView { since, generation } => {
                let views = (ResourceType::MeshView, generation);
                if self.acknowledged(step, Role::Agent, views, since + AGENT_LIMIT, now) {
                    let until = now + self.rest();
                    step.wake_at(until);
                    self.enter(route, Stage::Rests { until });
                }
            }
            Stage::Rests { until } if now >= until => self.unlisten(step, route, now),
            Stage::Settles { until } | Stage::Rests { until } => step.wake_at(until),
            Stage::LeftProxies { since, generation } => {
                let listeners = (ResourceType::Listener, generation);
                if self.acknowledged(step, Role::Proxy, listeners, since + CLUSTER_LIMIT, now) {
                    self.lines.remove(&route);
                    // It may be wanted again: by another service, or since it left.
                    self.unmatched = true;
                    step.wake_at(now);
                }
            }
        }
    }

    fn enter(&mut self, route: Route, stage: Stage) {
        self.stale = true;
        if let Some(line) = self.lines.get_mut(&route) {
            line.stage = stage;
        }
    }

    fn listen(&mut self, step: &mut Step, route: Route, now: Instant) {
        let Some(line) = self.lines.get(&route) else { return };
        let Target { service, codec } = line.target.clone();
        let generation =
            self.emit(step, ResourceType::Listener, Action::SetListener { route, service, codec });
        self.enter(route, Stage::AwaitsProxies { since: now, generation });
    }

    fn unlisten(&mut self, step: &mut Step, route: Route, now: Instant) {
        let generation = self.emit(step, ResourceType::Listener, Action::DropListener { route });
        step.wake_at(now + CLUSTER_LIMIT);
        self.enter(route, Stage::LeftProxies { since: now, generation });
    }

    pub(super) fn rest(&self) -> Duration {
        let ttl_secs = self.wanted.as_ref().map_or(0, |mesh| mesh.ttl_secs);
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
        // An agent that refused the view still routes by the one before it.
        let has_not = |client: &&Client| {
            client.role == role
                && (client.acked(kind) < generation
                    || (role == Role::Agent && client.refuses(kind, &self.name)))
        };
        let late = self.clients.iter().filter(has_not);
        let late: Vec<ClientId> = late.map(|client| client.id).collect();
        if now < limit && !late.is_empty() {
            step.wake_at(limit);
            return false;
        }
        for client in late {
            self.say_overdue(step, client, kind);
        }
        true
    }

    /// Like [`Self::acknowledged`], but at least one proxy must really have listener and cluster, and none refuse them.
    fn every_proxy_listens(
        &mut self,
        step: &mut Step,
        route: Route,
        generation: u64,
        since: Instant,
        now: Instant,
    ) -> bool {
        let Some(line) = self.lines.get(&route) else { return false };
        let cluster = self.clusters.get(&line.target.service).map_or(0, |cluster| cluster.generation);
        let (mut one, mut late) = (false, Vec::new());
        for proxy in self.proxies() {
            if refused_by(proxy, route, &line.target).is_some() || entrance_refused_by(proxy, route).is_some()
            {
                return false;
            }
            if proxy.acked(ResourceType::Listener) >= generation
                && proxy.acked(ResourceType::Cluster) >= cluster
            {
                one = true;
                continue;
            }
            let limit = since.max(proxy.connected) + PROXY_LIMIT;
            if now < limit {
                step.wake_at(limit);
                return false;
            }
            late.push(proxy.id);
        }
        for client in late {
            self.say_overdue(step, client, ResourceType::Listener);
        }
        one
    }

    fn say_overdue(&mut self, step: &mut Step, client: ClientId, kind: ResourceType) {
        if self.overdue.insert((client, kind)) {
            step.actions.push(Action::Overdue { client, kind });
        }
    }
}

/// What the proxy refuses of that which `route` alone needs.
pub(super) fn refused_by(proxy: &Client, route: Route, target: &Target) -> Option<String> {
    let listener = Some(listener_name(route)).filter(|name| proxy.refuses(ResourceType::Listener, name));
    let cluster = || Some(&target.service).filter(|name| proxy.refuses(ResourceType::Cluster, name)).cloned();
    listener.or_else(cluster)
}

/// The listener with a socket, if the proxy refuses it: its port is taken, or the machine lacks the family.
pub(super) fn entrance_refused_by(proxy: &Client, route: Route) -> Option<String> {
    Some(entrance_name(route.vip)).filter(|name| proxy.refuses(ResourceType::Listener, name))
}
