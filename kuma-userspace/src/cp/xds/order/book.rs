//! Every VIP and port of a view: where it should lead, and the lines that are out for it, at most one in each shape. Part of
//! order. Keeps: what an operator asks for is counted as it changes; lines that something can move are found without
//! looking at the others. Nearly all of them simply work as they are wanted, and are kept small.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::{Key, Line, Stage};
use crate::cp::xds::shape::Shape;
use crate::cp::xds::targets::Target;
use crate::model::view::Route;
use crate::wire::envoy::Codec;

#[derive(Debug, Default)]
pub(super) struct Book {
    slots: HashMap<Route, Slot, RandomState>,
    counts: Counts,
    /// Lines that wait for ACKs of proxies.
    pub(super) await_proxies: BTreeSet<Key>,
    /// Lines that wait for ACKs of agents.
    pub(super) await_agents: BTreeSet<Key>,
    /// Lines that wait for a moment.
    pub(super) await_time: BTreeSet<(Instant, Key)>,
    /// Lines that came into their stage since somebody looked.
    pub(super) fresh: BTreeSet<Key>,
}

/// How many VIPs and ports, or lines, are in what state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) tcp: usize,
    pub(super) http: usize,
    /// Lines that work and stay.
    pub(super) working: usize,
    /// Lines on their way, of VIPs that do not work otherwise, by family.
    pub(super) pending_v4: usize,
    pub(super) pending_v6: usize,
    /// Lines of VIPs that are in both shapes.
    pub(super) changing: usize,
}

#[derive(Debug)]
enum Slot {
    /// It works where and as it is wanted, and that is all.
    Settled(Target),
    Open(Box<Open>),
}

#[derive(Debug, Default)]
struct Open {
    wanted: Option<Target>,
    lines: [Option<Line>; 2],
}

/// What a line waits for.
enum Queue {
    Proxies,
    Agents,
    Time(Instant),
}

/// A line as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) target: &'a Target,
    pub(super) stage: Stage,
    /// Since when its own cluster is as it is, if it has one.
    pub(super) cluster: u64,
}

impl Book {
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Where this VIP and port should lead.
    pub(super) fn wanted(&self, route: Route) -> Option<&Target> {
        match self.slots.get(&route)? {
            Slot::Settled(target) => Some(target),
            Slot::Open(open) => open.wanted.as_ref(),
        }
    }

    /// A line, if it is out.
    pub(super) fn line(&self, key: Key) -> Option<Seen<'_>> {
        match self.slots.get(&key.route)? {
            Slot::Settled(target) if target.shape == key.shape => {
                Some(Seen { target, stage: Stage::Works, cluster: 0 })
            }
            Slot::Settled(_) => None,
            Slot::Open(open) => {
                let Line { target, stage, cluster } = open.lines[key.shape as usize].as_ref()?;
                Some(Seen { target, stage: *stage, cluster: *cluster })
            }
        }
    }

    /// Do connections find their service by this line?
    pub(super) fn works(&self, key: Key) -> bool {
        self.line(key).is_some_and(|line| line.stage == Stage::Works)
    }

    /// Is there a line of this VIP and port that has not come to work yet, and none that works?
    pub(super) fn is_pending(&self, route: Route) -> bool {
        match self.slots.get(&route) {
            Some(Slot::Open(open)) => open.counts(route).pending() > 0,
            Some(Slot::Settled(_)) | None => false,
        }
    }

    /// When the next line is due that waits for a moment.
    pub(super) fn next_moment(&self) -> Option<Instant> {
        self.await_time.first().map(|(moment, _)| *moment)
    }

    /// Lines that have not come to work yet, in order.
    pub(super) fn before_works(&self) -> impl Iterator<Item = Key> {
        let settling = self.await_time.iter().map(|(_, key)| key);
        let all = self.await_proxies.iter().chain(settling).copied();
        all.filter(|key| self.line(*key).is_some_and(|line| line.stage.is_before_works()))
    }

    /// Every line that something can move.
    pub(super) fn moving(&self) -> impl Iterator<Item = Key> {
        let timed = self.await_time.iter().map(|(_, key)| key);
        self.await_proxies.iter().chain(&self.await_agents).chain(timed).copied()
    }

    /// Is a line out to an address that this is said of?
    pub(super) fn any_line(&self, of: impl Fn(IpAddr) -> bool) -> bool {
        self.slots.iter().any(|(route, slot)| {
            of(route.vip) && !matches!(slot, Slot::Open(open) if open.lines.iter().all(Option::is_none))
        })
    }

    /// Gives each VIP and port its shape. Returns those that get another.
    pub(super) fn reshape(&mut self, shape: impl Fn(Codec) -> Shape) -> Vec<Route> {
        let differs = |(route, slot): (&Route, &Slot)| {
            let wanted = match slot {
                Slot::Settled(target) => target,
                Slot::Open(open) => open.wanted.as_ref()?,
            };
            (wanted.shape != shape(wanted.codec)).then_some(*route)
        };
        let others: Vec<Route> = self.slots.iter().filter_map(differs).collect();
        for &route in &others {
            self.change(route, |open| {
                if let Some(wanted) = &mut open.wanted {
                    wanted.shape = shape(wanted.codec);
                }
            });
        }
        others
    }

    /// Makes a VIP and port lead there, or nowhere.
    pub(super) fn want(&mut self, route: Route, target: Option<Target>) {
        self.change(route, |open| open.wanted = target);
    }

    /// Changes a line, or puts one where none is, or takes it away. Returns the line before.
    pub(super) fn set(&mut self, key: Key, line: Option<Line>) -> Option<Line> {
        let before =
            self.change(key.route, |open| std::mem::replace(&mut open.lines[key.shape as usize], line));
        self.fresh.insert(key);
        before
    }

    /// Changes a line that is out.
    pub(super) fn update(&mut self, key: Key, update: impl FnOnce(&mut Line)) {
        self.change(key.route, |open| open.lines[key.shape as usize].as_mut().map(update));
    }

    fn change<T>(&mut self, route: Route, act: impl FnOnce(&mut Open) -> T) -> T {
        let mut open = self.slots.remove(&route).map(Slot::open).unwrap_or_default();
        self.count(&open, route, usize::wrapping_sub);
        let before = open.stages();
        let outcome = act(&mut open);
        let after = open.stages();
        for shape in [Shape::Listener, Shape::Compact] {
            let (before, after) = (before[shape as usize], after[shape as usize]);
            if before != after {
                self.move_between(
                    before.and_then(Stage::queue),
                    after.and_then(Stage::queue),
                    Key { route, shape },
                );
            }
        }
        self.count(&open, route, usize::wrapping_add);
        if let Some(slot) = open.close() {
            self.slots.insert(route, slot);
        }
        outcome
    }

    fn move_between(&mut self, from: Option<Queue>, to: Option<Queue>, key: Key) {
        match from {
            None => false,
            Some(Queue::Proxies) => self.await_proxies.remove(&key),
            Some(Queue::Agents) => self.await_agents.remove(&key),
            Some(Queue::Time(until)) => self.await_time.remove(&(until, key)),
        };
        match to {
            None => false,
            Some(Queue::Proxies) => self.await_proxies.insert(key),
            Some(Queue::Agents) => self.await_agents.insert(key),
            Some(Queue::Time(until)) => self.await_time.insert((until, key)),
        };
    }

    fn count(&mut self, open: &Open, route: Route, act: impl Fn(usize, usize) -> usize) {
        let (all, one) = (self.counts, open.counts(route));
        self.counts = Counts {
            tcp: act(all.tcp, one.tcp),
            http: act(all.http, one.http),
            working: act(all.working, one.working),
            pending_v4: act(all.pending_v4, one.pending_v4),
            pending_v6: act(all.pending_v6, one.pending_v6),
            changing: act(all.changing, one.changing),
        };
    }
}

impl Counts {
    /// Lines on their way, of VIPs that do not work otherwise.
    pub(super) fn pending(self) -> usize {
        self.pending_v4 + self.pending_v6
    }
}

impl Slot {
    fn open(self) -> Open {
        match self {
            Self::Open(open) => *open,
            Self::Settled(target) => {
                let mut open = Open::default();
                let line = Line { target: target.clone(), stage: Stage::Works, cluster: 0 };
                open.lines[target.shape as usize] = Some(line);
                Open { wanted: Some(target), ..open }
            }
        }
    }
}

impl Open {
    fn stages(&self) -> [Option<Stage>; 2] {
        [0, 1].map(|shape| self.lines[shape].as_ref().map(|line| line.stage))
    }

    fn counts(&self, route: Route) -> Counts {
        let mut counts = Counts::default();
        match self.wanted.as_ref().map(|wanted| wanted.codec) {
            Some(Codec::Tcp) => counts.tcp = 1,
            Some(Codec::Http) => counts.http = 1,
            None => {}
        }
        let stages = self.stages();
        for shape in [Shape::Listener, Shape::Compact] {
            let Some(stage) = stages[shape as usize] else { continue };
            let other_works = stages[shape.other() as usize] == Some(Stage::Works);
            if stage == Stage::Works {
                counts.working += 1;
                continue;
            }
            let pending = usize::from(stage.is_before_works() && !other_works);
            match route.vip {
                IpAddr::V4(_) => counts.pending_v4 += pending,
                IpAddr::V6(_) => counts.pending_v6 += pending,
            }
            let is_in_both = |wanted: &Target| wanted.shape != shape || other_works;
            counts.changing += usize::from(self.wanted.as_ref().is_some_and(is_in_both));
        }
        counts
    }

    /// `None`: nothing is left to be kept.
    fn close(self) -> Option<Slot> {
        match self {
            Self { wanted: None, lines: [None, None] } => None,
            Self { wanted: Some(wanted), lines: [None, Some(line)] | [Some(line), None] }
                if line.stage == Stage::Works && line.target.is(&wanted) =>
            {
                Some(Slot::Settled(wanted))
            }
            open => Some(Slot::Open(Box::new(open))),
        }
    }
}

impl Stage {
    /// `None`: it works, and nothing but another wish moves it.
    fn queue(self) -> Option<Queue> {
        match self {
            Self::Works => None,
            Self::AwaitsCluster { .. } | Self::AwaitsProxies { .. } | Self::LeftProxies { .. } => {
                Some(Queue::Proxies)
            }
            Self::LeftView { .. } => Some(Queue::Agents),
            Self::Settles { until } | Self::Rests { until } => Some(Queue::Time(until)),
        }
    }
}
