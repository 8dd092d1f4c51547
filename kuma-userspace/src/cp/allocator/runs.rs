//! A set of numbers kept as runs of neighbours: addresses are given one after the other, so 100,000 of them are few runs.
//! Keeps: runs are apart, no two touch. Called by pool.

use std::collections::BTreeMap;

/// First and last number of each run.
#[derive(Debug, Default)]
pub(super) struct Runs {
    ends: BTreeMap<u128, u128>,
    len: usize,
}

impl Runs {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        self.run_of(number).is_some()
    }

    pub(super) fn last(&self) -> Option<u128> {
        self.ends.values().next_back().copied()
    }

    /// The first number from this one on that is not in the set.
    pub(super) fn gap_from(&self, number: u128) -> Option<u128> {
        self.run_of(number).map_or(Some(number), |(_, last)| last.checked_add(1))
    }

    /// False: it was there already.
    pub(super) fn insert(&mut self, number: u128) -> bool {
        let below = self.ends.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if below.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = match below {
            Some((first, last)) if last.checked_add(1) == Some(number) => first,
            _ => number,
        };
        let above = number.checked_add(1).and_then(|next| self.ends.remove(&next));
        self.ends.insert(first, above.unwrap_or(number));
        self.len += 1;
        true
    }

    /// False: it was not there.
    pub(super) fn remove(&mut self, number: u128) -> bool {
        let Some((first, last)) = self.run_of(number) else { return false };
        self.ends.remove(&first);
        if first < number {
            self.ends.insert(first, number - 1);
        }
        if number < last {
            self.ends.insert(number + 1, last);
        }
        self.len -= 1;
        true
    }

    fn run_of(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.ends.range(..=number).next_back()?;
        (number <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_what_a_set_holds(edits in proptest::collection::vec((any::<bool>(), 0..24_u128), 0..120)) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            // The far end is the last address of IPv6.
            for (insert, number) in edits.into_iter().map(|(insert, n)| (insert, u128::MAX - 23 + n)) {
                let (done, expected) = if insert {
                    (runs.insert(number), set.insert(number))
                } else {
                    (runs.remove(number), set.remove(&number))
                };
                prop_assert_eq!(done, expected);
                prop_assert_eq!((runs.len(), runs.last()), (set.len(), set.last().copied()));
                let gap = (number..=u128::MAX).find(|number| !set.contains(number));
                prop_assert_eq!((runs.contains(number), runs.gap_from(number)), (set.contains(&number), gap));
                let apart = runs.ends.iter().zip(runs.ends.iter().skip(1));
                prop_assert!(apart.into_iter().all(|((_, last), (first, _))| last + 1 < *first));
            }
        }
    }
}
