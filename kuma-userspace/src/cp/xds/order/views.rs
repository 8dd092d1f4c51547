//! What agents see of a view, and when what an earlier control plane left may go. Part of order.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::lines::{entrance_refused_by, refused_by};
use super::{AGENT_LIMIT, Action, Key, Order, Step, Strangers, View};
use crate::cp::snapshot::{MeshHeader, MeshSnapshot};
use crate::cp::xds::clients::Client;
use crate::cp::xds::shape::Shape;
use crate::cp::xds::targets;
use crate::model::view::{Addresses, Changes, Header, Part, Route};
use crate::wire::node::Role;
use crate::wire::resource::ResourceType;

impl Order {
    /// Tells agents what has changed of what works. The first time waits until everything has had its chance: an agent
    /// that comes from an earlier control plane would take a part for the whole.
    pub(super) fn publish(&mut self, step: &mut Step, mesh: &MeshSnapshot, now: Instant) {
        if self.view.is_none() && self.book.before_works().any(|key| self.holds_back(key)) {
            return;
        }
        let first = self.view.is_none();
        let mut changes = Changes::default();
        if std::mem::take(&mut self.other_header) || first {
            changes.header = self.take_header(mesh);
        }
        let mut refused = None;
        for vip in std::mem::take(&mut self.stale) {
            let part = match self.part(mesh, &vip) {
                Ok(part) => part,
                Err(reason) => {
                    refused = refused.or(Some(reason));
                    None
                }
            };
            if let Some(changed) = self.take_part(&vip, part) {
                changes.parts.insert(vip, changed);
            }
        }
        self.refuse(step, refused);
        if changes == Changes::default() {
            return;
        }
        let generation = self.emit(step, ResourceType::MeshView, Action::PublishView(changes));
        if first {
            self.strangers = Strangers::LeftView { since: now, generation };
        }
    }

    /// The header, if it is another than agents have.
    fn take_header(&mut self, mesh: &MeshSnapshot) -> Option<Arc<Header>> {
        let MeshHeader { domain, ttl_secs, ranges, .. } = (*mesh.header).clone();
        let header = Arc::new(Header { domain, ttl_secs, ranges });
        match &mut self.view {
            Some(view) if view.header == header => return None,
            Some(view) => view.header = header.clone(),
            None => self.view = Some(View { header: header.clone(), parts: HashMap::default() }),
        }
        Some(header)
    }

    /// The part, if it is another than agents have; `Some(None)`: it is gone.
    fn take_part(&mut self, vip: &Arc<str>, part: Option<Part>) -> Option<Option<Arc<Part>>> {
        let parts = &mut self.view.as_mut()?.parts;
        if parts.get(vip).map(|part| &**part) == part.as_ref() {
            return None;
        }
        let part = part.map(Arc::new);
        match &part {
            Some(part) => parts.insert(vip.clone(), part.clone()),
            None => parts.remove(vip),
        };
        Some(part)
    }

    /// A VIP as agents may see it now: its names show the addresses that work.
    ///
    /// # Errors
    /// In words: the mesh contradicts itself.
    fn part(&self, mesh: &MeshSnapshot, vip: &Arc<str>) -> Result<Option<Part>, String> {
        let Some(published) = mesh.vips.get(vip) else { return Ok(None) };
        let works = |route: &Route| {
            self.book.wanted(*route).is_some_and(|target| target.vip == *vip)
                && [Shape::Listener, Shape::Compact]
                    .into_iter()
                    .any(|shape| self.book.works(Key { route: *route, shape }))
        };
        let routes: Vec<Route> = targets::routes(published).filter(works).collect();
        let outside = |route: &&Route| !mesh.header.ranges.iter().any(|range| range.contains(route.vip));
        if let Some(Route { vip: address, .. }) = routes.iter().find(outside) {
            return Err(format!("{address} of {vip:?} lies outside the VIP ranges of the mesh"));
        }
        let reachable = |vip: IpAddr| routes.iter().any(|route| route.vip == vip);
        // An address that takes the place of a former one resolves as soon as it works, and the former one until then.
        let resolves = |new: IpAddr| {
            let former = published.former.iter().copied().filter(|former| former.is_ipv4() == new.is_ipv4());
            std::iter::once(new).chain(former).find(|&vip| reachable(vip))
        };
        let Addresses { v4, v6 } = published.addresses;
        let mut addresses = Addresses::default();
        for vip in [v4.map(IpAddr::V4), v6.map(IpAddr::V6)].into_iter().flatten().filter_map(resolves) {
            match vip {
                IpAddr::V4(vip) => addresses.v4 = Some(vip),
                IpAddr::V6(vip) => addresses.v6 = Some(vip),
            }
        }
        if routes.is_empty() {
            return Ok(None);
        }
        let hostnames =
            if addresses != Addresses::default() { published.entry.hostnames.to_vec() } else { Vec::new() };
        Part::new(hostnames, addresses, routes).map(Some).map_err(|error| format!("{vip:?}: {error}"))
    }

    fn refuse(&mut self, step: &mut Step, refused: Option<String>) {
        if let Some(reason) = refused.as_ref().filter(|reason| self.refused.as_ref() != Some(reason)) {
            step.actions.push(Action::Refuse { reason: reason.clone() });
        }
        self.refused = refused;
    }

    /// Might this line still come to work soon? What is refused will not, nor IPv6 where the machine has none. A taken
    /// IPv4 port is no reason to tell agents that the mesh is empty.
    fn holds_back(&self, key: Key) -> bool {
        let Some(line) = self.book.line(key) else { return false };
        let hopeless = |proxy: &Client| {
            refused_by(proxy, key, line.target).is_some()
                || (key.route.vip.is_ipv6() && entrance_refused_by(proxy, key.route).is_some())
        };
        !self.crowd.proxies().any(hopeless)
    }

    pub(super) fn advance_strangers(&mut self, step: &mut Step, now: Instant) {
        match self.strangers {
            Strangers::Unknown | Strangers::Released => {}
            Strangers::LeftView { since, generation } => {
                let views = (ResourceType::MeshView, generation);
                if self.acknowledged(step, Role::Agent, views, since + AGENT_LIMIT, now) {
                    let until = now + self.rest();
                    step.wake_at(until);
                    self.strangers = Strangers::Rest { until };
                }
            }
            Strangers::Rest { until } if now >= until => {
                self.strangers = Strangers::Released;
                step.actions.push(Action::ReleaseStrangers);
            }
            Strangers::Rest { until } => step.wake_at(until),
        }
    }
}
