//! Waiting without sleeping blindly: ask again until it holds or the deadline passes. Called by every test of behaviour.

use std::time::{Duration, Instant};

/// How long to rest between two questions.
const POLL: Duration = Duration::from_millis(10);

/// Asks until `holds`, at most `secs` seconds; says in the end whether it held.
pub fn holds_within(secs: u64, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(secs);
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// Asks until `holds`; fails the test with `what` when it does not within `secs` seconds.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn wait_until(secs: u64, what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(secs, holds), "not within {secs} s: {what}");
}
