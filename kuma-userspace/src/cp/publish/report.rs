//! What an operator may want to know of the last step. Keeps: costs the same however many services there are: counts are
//! exact, lists are cut. Part of publish.

use tracing::warn;

use super::Publisher;
use crate::cp::allocator::Family;
use crate::cp::status::{self, LISTED_MAX, Status, StatusCell};

impl Publisher {
    /// Everything about the last change that an operator may want to know.
    pub(super) fn report(&self, cell: &StatusCell) {
        let (conflicts, conditions) = (self.planner.conflicts(), self.planner.conditions());
        let starving = self.allocator.starving().map(|starving| status::Starving {
            mesh: starving.service.mesh.to_string(),
            service: starving.service.local(),
            family: family_name(starving.family),
        });
        let pools = self.allocator.fill().map(|fill| status::Pool {
            range: match fill.family {
                Family::V4 => self.pools.of(fill.source).v4.map(|pool| pool.to_string()),
                Family::V6 => self.pools.of(fill.source).v6.map(|pool| pool.to_string()),
            }
            .unwrap_or_default(),
            of: fill.source.key(),
            size: fill.size.to_string(),
            held: fill.held,
            resting: fill.resting,
        });
        let quarantined = self.quarantined.iter().take(LISTED_MAX).map(|record| status::Quarantined {
            key: record.key.clone(),
            since_secs: record.since_secs,
            reason: record.reason.clone(),
        });
        let now = Status {
            services: self.planner.keys().len(),
            published: self.shown.count(),
            starving_count: self.allocator.count_starving(),
            starving: starving.take(LISTED_MAX).collect(),
            conflict_count: conflicts.len(),
            conflicts: conflicts.iter().take(LISTED_MAX).cloned().map(Into::into).collect(),
            condition_count: conditions.len(),
            conditions: conditions.iter().take(LISTED_MAX).cloned().map(Into::into).collect(),
            quarantined_count: self.quarantined.len(),
            quarantined: quarantined.collect(),
            pools: pools.collect(),
            replica: status::replica(&self.role),
            ..Status::default()
        };
        cell.update(|status| {
            warn_of_news(status, &now);
            let (files, mistakes) = (std::mem::take(&mut status.files), std::mem::take(&mut status.mistakes));
            *status = Status { files, mistakes, ..now };
        });
    }
}

/// Says what has become worse since the last report; once, not with every change of something else.
fn warn_of_news(before: &Status, now: &Status) {
    if now.starving_count > before.starving_count {
        let services = now.starving_count;
        warn!(
            services,
            "a VIP pool is used up, services wait for an address: use a larger CIDR, see `kuma-dns status`"
        );
    }
    if now.conflict_count > before.conflict_count {
        let names = now.conflict_count;
        warn!(names, "services want the same names, the first by name has them: see `kuma-dns status`");
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
