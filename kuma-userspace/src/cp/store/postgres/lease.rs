//! The rules of the lease that makes one replica the leader. Pure: `now` is passed in, the database is asked by others.
//! Keeps: a leader counts itself as one at most until [`LEASE`] after it asked, so before the database gives the lease to
//! another. Safety does not rest on this, but on the epoch that every write names. Called by replica.

use std::time::{Duration, Instant};

/// How long a lease lasts unless it is renewed (Kuma's).
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// How often a leader renews and a follower tries (Kuma's).
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// A follower reads everything this often, in case a notification was lost.
pub(super) const FULL_READ: Duration = Duration::from_secs(30);

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A heartbeat is due.
    Tick,
    /// The database answered a question that was asked then: we have the lease, in this epoch.
    Held { asked: Instant, epoch: u64 },
    /// Another replica has it.
    Taken,
    /// The database did not answer.
    Failed,
}

/// What follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Ask the database for the lease.
    Ask,
    /// Whoever publishes must read the store, which also says who leads.
    Read,
    /// A change of leadership for the log.
    Say(Turn),
}

/// Whose turn it is, as far as this replica knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Turn {
    #[default]
    Theirs,
    Ours {
        epoch: u64,
    },
}

/// One replica's view of the lease.
#[derive(Debug)]
pub(super) struct Lease {
    turn: Turn,
    /// Until when it is surely ours.
    until: Instant,
    read_at: Instant,
}

impl Lease {
    pub(super) fn new(now: Instant) -> Self {
        Self { turn: Turn::Theirs, until: now, read_at: now }
    }

    pub(super) fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Tick => {
                let mut actions = self.expire(now);
                if self.turn == Turn::Theirs && now >= self.read_at + FULL_READ {
                    actions.push(self.read(now));
                }
                actions.push(Action::Ask);
                actions
            }
            Event::Held { asked, epoch } => {
                self.until = asked + LEASE;
                // An answer that was too long on its way says nothing about now.
                if now >= self.until { self.expire(now) } else { self.turn_to(Turn::Ours { epoch }, now) }
            }
            Event::Taken => self.turn_to(Turn::Theirs, now),
            Event::Failed => self.expire(now),
        }
    }

    fn expire(&mut self, now: Instant) -> Vec<Action> {
        if now < self.until { Vec::new() } else { self.turn_to(Turn::Theirs, now) }
    }

    fn turn_to(&mut self, turn: Turn, now: Instant) -> Vec<Action> {
        if self.turn == turn {
            return Vec::new();
        }
        self.turn = turn;
        vec![Action::Say(turn), self.read(now)]
    }

    fn read(&mut self, now: Instant) -> Action {
        self.read_at = now;
        Action::Read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event and when it comes, in seconds; answers were asked for at the second in them.
    #[derive(Clone, Copy)]
    enum Given {
        Tick,
        Held(u64, u64),
        Taken,
        Failed,
    }

    /// A claim, a history, and what its last event leads to.
    type Case<'a> = (&'a str, &'a [(u64, Given)], &'a [Action]);

    fn actions(history: &[(u64, Given)]) -> Vec<Action> {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut lease = Lease::new(start);
        let mut last = Vec::new();
        for (secs, given) in history {
            let event = match *given {
                Given::Tick => Event::Tick,
                Given::Held(asked, epoch) => Event::Held { asked: at(asked), epoch },
                Given::Taken => Event::Taken,
                Given::Failed => Event::Failed,
            };
            last = lease.step(event, at(*secs));
        }
        last
    }

    #[test]
    fn one_replica_leads_and_says_so_once_and_steps_back_in_time() {
        use Action::{Ask, Read, Say};
        use Given::{Failed, Held, Taken, Tick};
        const OURS: Turn = Turn::Ours { epoch: 1 };
        let table: &[Case<'_>] = &[
            ("a follower asks with every heartbeat", &[(1, Tick)], &[Ask]),
            ("the lease makes a leader", &[(1, Held(1, 1))], &[Say(OURS), Read]),
            ("a renewal is no news", &[(1, Held(1, 1)), (2, Held(2, 1))], &[]),
            (
                "the same lease in a new epoch is",
                &[(1, Held(1, 1)), (2, Held(2, 3))],
                &[Say(Turn::Ours { epoch: 3 }), Read],
            ),
            ("another's lease ends ours", &[(1, Held(1, 1)), (2, Taken)], &[Say(Turn::Theirs), Read]),
            ("one lost answer ends nothing", &[(1, Held(1, 1)), (4, Failed)], &[]),
            ("no answer over the lease ends it", &[(1, Held(1, 1)), (6, Failed)], &[Say(Turn::Theirs), Read]),
            (
                "after a pause the heartbeat ends it",
                &[(1, Held(1, 1)), (60, Tick)],
                &[Say(Turn::Theirs), Read, Ask],
            ),
            ("an answer that is older than the lease makes no leader", &[(9, Held(1, 1))], &[]),
            (
                "a renewal counts from the question",
                &[(1, Held(1, 1)), (5, Held(2, 1)), (7, Tick)],
                &[Say(Turn::Theirs), Read, Ask],
            ),
            ("a follower reads everything now and then", &[(30, Tick)], &[Read, Ask]),
            ("but not a moment after it has read", &[(1, Held(1, 1)), (20, Taken), (30, Tick)], &[Ask]),
            ("a leader knows what it stored", &[(28, Held(28, 1)), (31, Tick)], &[Ask]),
        ];
        for (claim, history, wanted) in table {
            assert_eq!(actions(history), *wanted, "{claim}");
        }
    }
}
