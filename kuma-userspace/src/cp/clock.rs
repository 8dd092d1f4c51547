//! The time that rests are counted in. Keeps: it never runs backwards, not over a restart either, and a wall clock that is
//! set while we run does not move it: a rest is never shortened. Called by cp::publish.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::record::Record;

/// Seconds of the Unix epoch, from one reading of the wall clock and the monotonic clock since.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base_since_epoch: Duration,
    base: Instant,
}

impl Clock {
    /// Starts at `wall`, or at the latest moment that the records know when the wall clock has fallen behind it.
    pub fn start(wall: SystemTime, records: &[Record]) -> Self {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let known = records.iter().flat_map(|record| &record.resting).map(|resting| resting.since_secs).max();
        let known = Duration::from_secs(known.unwrap_or(0));
        Self { base_since_epoch: wall.max(known), base: Instant::now() }
    }

    /// Takes up a clock that others use as well, and what they recorded; it never goes back.
    pub fn follow(&mut self, shared: Option<SystemTime>, records: &[Record]) {
        let Some(shared) = shared else { return };
        let ahead = Self::start(shared, records);
        if ahead.now() > self.now() {
            *self = ahead;
        }
    }

    /// The time now.
    pub fn now_secs(&self) -> u64 {
        self.now().as_secs()
    }

    fn now(&self) -> Duration {
        self.base_since_epoch.saturating_add(self.base.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Resting;
    use super::*;
    use crate::model::resource::ServiceKey;

    #[test]
    fn a_wall_clock_that_fell_behind_does_not_shorten_a_rest() {
        let mut record = Record::new(ServiceKey::new("default", "redis"));
        let address = "240.0.0.0".parse().unwrap();
        record.resting.push(Resting { address, since_secs: 1_000, until_secs: 1_120 });
        let behind = UNIX_EPOCH + Duration::from_secs(400);
        assert!((1_000..1_010).contains(&Clock::start(behind, &[record.clone()]).now_secs()));
        let ahead = UNIX_EPOCH + Duration::from_secs(2_000);
        assert!((2_000..2_010).contains(&Clock::start(ahead, &[record]).now_secs()));
    }

    #[test]
    fn a_shared_clock_is_followed_forwards_only() {
        let at = |secs| Some(UNIX_EPOCH + Duration::from_secs(secs));
        let mut clock = Clock::start(UNIX_EPOCH + Duration::from_secs(1_000), &[]);
        clock.follow(at(500), &[]);
        assert!((1_000..1_010).contains(&clock.now_secs()), "never back");
        clock.follow(None, &[]);
        assert!((1_000..1_010).contains(&clock.now_secs()), "nobody shares one");
        clock.follow(at(1_500), &[]);
        assert!((1_500..1_510).contains(&clock.now_secs()));
    }
}
