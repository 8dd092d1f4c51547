//! What connections came to, and the dice that choose where they go. Called by main, changes and clients.

use std::io::{ErrorKind, Result};
use std::net::SocketAddr;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// So many complaints are kept in words.
const WORDS: usize = 8;

/// How many connections there were, and what was wrong with them.
#[derive(Default, Debug, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) connections: u64,
    pub(crate) wrong: u64,
    pub(crate) refused: u64,
    complaints: Vec<String>,
}

impl Tally {
    /// A connection that should have reached `expected`.
    pub(crate) fn connected(&mut self, to: &str, said: &Result<String>, expected: SocketAddr) {
        self.connections += 1;
        match said {
            Ok(said) if *said == expected.to_string() => return,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.refused += 1,
            _ => self.wrong += 1,
        }
        self.complain(format!("{to}: {said:?} and not {expected}"));
    }

    /// Something else that went wrong.
    pub(crate) fn wrong(&mut self, what: String) {
        self.wrong += 1;
        self.complain(what);
    }

    fn complain(&mut self, what: String) {
        if self.complaints.len() < WORDS {
            self.complaints.push(what);
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.wrong == 0 && self.refused == 0
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.wrong += other.wrong;
        self.refused += other.refused;
        other.complaints.into_iter().for_each(|complaint| self.complain(complaint));
    }
}

/// Dice that fall the same in every run (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }
}
