//! The time that rests are counted in. Keeps: it never runs backwards, not over a restart either, and a wall clock that is
//! set while we run does not move it: a rest is never shortened. Called by cp::publish.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::record::Record;

/// Seconds of the Unix epoch, from one reading of the wall clock and the monotonic clock since.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base_secs: u64,
    base: Instant,
}

impl Clock {
    /// Starts at `wall`, or at the latest moment that the records know when the wall clock has fallen behind it.
    pub fn start(wall: SystemTime, records: &[Record]) -> Self {
        let wall_secs = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let known = records.iter().flat_map(|record| &record.resting).map(|resting| resting.since_secs).max();
        Self { base_secs: wall_secs.max(known.unwrap_or(0)), base: Instant::now() }
    }

    /// The time now.
    pub fn now_secs(&self) -> u64 {
        self.base_secs.saturating_add(self.base.elapsed().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
