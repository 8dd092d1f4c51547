//! Hands out the numbers that stand for VIPs on the indexed loopback. Pure: time is an argument. Keeps: a number is reused
//! only when no fresh one is left, the longest-rested first, and never before it has rested. Called by maps.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use kuma_ebpf_common::abi::INDEXES;

/// How long a freed number rests: connections that were made under it keep their meaning meanwhile.
pub(super) const REST: Duration = Duration::from_secs(600);

/// Who has which number.
#[derive(Debug)]
pub(super) struct Indexes {
    /// The lowest number that nobody ever had; 0 is never given.
    fresh: u32,
    /// Rested numbers, the one that was freed first in front.
    rested: VecDeque<u32>,
    /// Freed numbers that still rest, the one that was freed first in front.
    resting: VecDeque<(Instant, u32)>,
}

impl Indexes {
    /// Recovers from what is pinned: numbers that a VIP has, and numbers that still stand for something. The latter rest
    /// from now on; gaps below the highest have rested long ago.
    pub(super) fn recover(used: &BTreeSet<u32>, remembered: &BTreeSet<u32>, now: Instant) -> Self {
        let highest = used.last().max(remembered.last()).copied().unwrap_or(0);
        let rested = (1..highest).filter(|i| !used.contains(i) && !remembered.contains(i)).collect();
        let resting = remembered.difference(used).map(|i| (now, *i)).collect();
        Self { fresh: highest + 1, rested, resting }
    }

    /// A number for a new VIP; `None`: all are in use or resting.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        if self.fresh < INDEXES {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.rested.pop_front()
    }

    /// The VIP is gone; its number rests.
    pub(super) fn release(&mut self, index: u32, now: Instant) {
        self.resting.push_back((now, index));
    }

    /// A number that was never shown to anybody goes back at once.
    pub(super) fn give_back(&mut self, index: u32) {
        self.rested.push_front(index);
    }

    /// The next number that has rested; the caller forgets what it stood for. It may be given again from now on.
    pub(super) fn wake(&mut self, now: Instant) -> Option<u32> {
        let &(since, index) = self.resting.front()?;
        if now.saturating_duration_since(since) < REST {
            return None;
        }
        self.resting.pop_front();
        self.rested.push_back(index);
        Some(index)
    }

    /// Under pressure: the number that has rested longest loses its memory now, but goes on resting.
    pub(super) fn oldest_resting(&mut self) -> Option<u32> {
        let entry = self.resting.pop_front()?;
        self.resting.push_back(entry);
        Some(entry.1)
    }

    /// How many numbers rest.
    pub(super) fn resting(&self) -> usize {
        self.resting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_number_is_reused_last_and_only_after_its_rest() {
        let start = Instant::now();
        let mut indexes = Indexes::recover(&BTreeSet::new(), &BTreeSet::new(), start);
        assert_eq!([indexes.allocate(), indexes.allocate()], [Some(1), Some(2)], "0 is never given");
        indexes.release(1, start);
        assert_eq!(indexes.allocate(), Some(3));
        indexes.fresh = INDEXES;
        assert_eq!(indexes.allocate(), None, "a resting number is not given");
        assert_eq!(indexes.wake(start + REST - Duration::from_secs(1)), None);
        assert_eq!(indexes.wake(start + REST), Some(1));
        assert_eq!(indexes.allocate(), Some(1));
    }

    #[test]
    fn what_is_pinned_is_never_given_again() {
        let used = BTreeSet::from([1, 5]);
        let remembered = BTreeSet::from([1, 3, 5]);
        let now = Instant::now();
        let mut indexes = Indexes::recover(&used, &remembered, now);
        assert_eq!((indexes.allocate(), indexes.resting()), (Some(6), 1));
        indexes.fresh = INDEXES;
        assert_eq!([indexes.allocate(), indexes.allocate(), indexes.allocate()], [Some(2), Some(4), None]);
        assert_eq!(indexes.wake(now + REST), Some(3));
    }
}
