//! What agents see of a view, and when what an earlier control plane left may go. Part of order.

use std::sync::Arc;
use std::time::Instant;

use super::lines::{entrance_refused_by, refused_by};
use super::{AGENT_LIMIT, Action, Key, Line, Order, Step, Strangers};
use crate::cp::xds::clients::Client;
use crate::cp::xds::flat::MeshSnapshot;
use crate::cp::xds::targets;
use crate::wire::node::Role;
use crate::wire::resource::ResourceType;

impl Order {
    /// Gives agents a new view when what works has changed. The first one waits until everything has had its chance:
    /// an agent that comes from an earlier control plane would take a part for the whole.
    pub(super) fn publish(&mut self, step: &mut Step, mesh: &MeshSnapshot, now: Instant) {
        if self.view.is_none() && self.lines.iter().any(|(key, line)| self.holds_back(*key, line)) {
            return;
        }
        match targets::view(&self.name, mesh, &self.working().collect()) {
            Ok(view) if self.view.as_deref() == Some(&view) => self.refused = None,
            Ok(view) => {
                self.refused = None;
                let view = Arc::new(view);
                let first = self.view.is_none();
                self.view = Some(view.clone());
                let generation = self.emit(step, ResourceType::MeshView, Action::PublishView(view));
                step.wake_at(now + AGENT_LIMIT);
                if first {
                    self.strangers = Strangers::LeftView { since: now, generation };
                }
            }
            Err(error) => {
                let reason = error.to_string();
                if self.refused.as_ref() != Some(&reason) {
                    step.actions.push(Action::Refuse { reason: reason.clone() });
                }
                self.refused = Some(reason);
            }
        }
    }

    /// Might this line still come to work soon? What is refused will not, nor IPv6 where the machine has none. A taken
    /// IPv4 port is no reason to tell agents that the mesh is empty.
    fn holds_back(&self, Key { route, .. }: Key, line: &Line) -> bool {
        let hopeless = |proxy: &Client| {
            refused_by(proxy, route, &line.target).is_some()
                || (route.vip.is_ipv6() && entrance_refused_by(proxy, route).is_some())
        };
        line.stage.is_before_works() && !self.proxies().any(hopeless)
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
