//! Whom to ask next, and how long to wait. Pure: `now` is an argument.
//! Keeps: servers are asked in their order; a slow answer is still welcome while the next is asked; there is an end.
//! Called by upstream.

use std::time::Duration;

use tokio::time::Instant;

/// How long one server may take before the next is asked, in the first round and in the second.
const ROUND_TIMEOUTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// When nobody has answered after this, SERVFAIL. Stubs give up on us after 5 s and ask again.
pub(super) const DEADLINE: Duration = Duration::from_secs(6);

/// The attempts of one query.
#[derive(Debug)]
pub(super) struct Attempts {
    order: Vec<usize>,
    cursor: usize,
    /// Servers whose word is final: refused, or an error that asking again does not mend.
    settled: Vec<usize>,
    deadline: Instant,
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Ask this server; if nothing is heard until then, come back.
    Ask { server: usize, until: Instant },
    /// All were asked; an answer may still come.
    Wait { until: Instant },
    /// Nobody can answer any more.
    GiveUp,
}

impl Attempts {
    /// `order` holds the numbers of the servers, the preferred one first.
    pub(super) fn new(order: Vec<usize>, now: Instant) -> Self {
        Self { order, cursor: 0, settled: Vec::new(), deadline: now + DEADLINE }
    }

    /// The next step.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if now >= self.deadline {
            return Step::GiveUp;
        }
        let rounds = self.order.len() * ROUND_TIMEOUTS.len();
        while self.cursor < rounds {
            let (server, round) =
                (self.order[self.cursor % self.order.len()], self.cursor / self.order.len());
            self.cursor += 1;
            if !self.settled.contains(&server) {
                let until = (now + ROUND_TIMEOUTS[round]).min(self.deadline);
                return Step::Ask { server, until };
            }
        }
        if self.order.iter().all(|server| self.settled.contains(server)) {
            Step::GiveUp
        } else {
            Step::Wait { until: self.deadline }
        }
    }

    /// Nothing (more) is to be had from this server.
    pub(super) fn settle(&mut self, server: usize) {
        if !self.settled.contains(&server) {
            self.settled.push(server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(step: Step) -> Option<usize> {
        if let Step::Ask { server, .. } = step { Some(server) } else { None }
    }

    #[test]
    fn silent_servers_are_asked_in_order_twice_and_then_waited_for() {
        let start = Instant::now();
        let (mut attempts, mut now) = (Attempts::new(vec![0, 1], start), start);
        let mut order = Vec::new();
        while let Step::Ask { server, until } = attempts.step(now) {
            order.push((server, (until - start).as_secs()));
            now = until;
        }
        assert_eq!(order, [(0, 1), (1, 2), (0, 4), (1, 6)]);
        assert_eq!(attempts.step(now), Step::GiveUp);
    }

    #[test]
    fn one_slow_server_has_until_the_deadline() {
        let start = Instant::now();
        let mut attempts = Attempts::new(vec![0], start);
        assert_eq!(asked(attempts.step(start)), Some(0));
        assert_eq!(asked(attempts.step(start + Duration::from_secs(1))), Some(0));
        let waits = attempts.step(start + Duration::from_secs(3));
        assert_eq!(waits, Step::Wait { until: start + DEADLINE });
    }

    #[test]
    fn a_settled_server_is_not_asked_again_and_all_settled_is_the_end() {
        let start = Instant::now();
        let mut attempts = Attempts::new(vec![0, 1], start);
        assert_eq!(asked(attempts.step(start)), Some(0));
        attempts.settle(0);
        assert_eq!(asked(attempts.step(start)), Some(1));
        assert_eq!(asked(attempts.step(start + Duration::from_secs(1))), Some(1));
        attempts.settle(1);
        assert_eq!(attempts.step(start), Step::GiveUp);
        assert_eq!(Attempts::new(Vec::new(), start).step(start), Step::GiveUp);
    }
}
