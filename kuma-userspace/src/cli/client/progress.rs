//! How far a long work is, on stderr, where a person looks at it. Keeps: nothing for programs, nothing for short work, and
//! never in the middle of a printed line. Called by apply and delete.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::cli::table;

/// Shorter work needs no words.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two pictures.
const INTERVAL: Duration = Duration::from_millis(200);
/// Carriage return, and erase to the end of the line.
const ERASE: &str = "\r\x1b[K";

/// Work of which some is done.
pub(in crate::cli) struct Progress {
    verb: &'static str,
    total: usize,
    done: usize,
    is_seen: bool,
    begin: Instant,
    drawn: Option<Instant>,
    is_on_screen: bool,
}

impl Progress {
    /// Work on this many things, of which none is done.
    pub(in crate::cli) fn new(verb: &'static str, total: usize) -> Self {
        let is_seen = std::io::stderr().is_terminal();
        Self { verb, total, done: 0, is_seen, begin: Instant::now(), drawn: None, is_on_screen: false }
    }

    /// One more is done; this is said about it on stdout, if anything.
    pub(in crate::cli) fn step(&mut self, said: Option<&str>) {
        self.done += 1;
        if let Some(said) = said {
            self.erase();
            table::print(said);
        }
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL);
        if self.is_seen && due && self.begin.elapsed() >= PATIENCE && self.done < self.total {
            let Self { verb, done, total, .. } = self;
            let percent = *done * 100 / *total;
            // Only a closed terminal can refuse this, and then nobody reads.
            let _ = write!(std::io::stderr(), "{ERASE}{verb} {done} of {total} ({percent} %)");
            (self.drawn, self.is_on_screen) = (Some(Instant::now()), true);
        }
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.is_on_screen) {
            let _ = write!(std::io::stderr(), "{ERASE}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.erase();
    }
}
