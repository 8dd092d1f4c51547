//! Envoy's words in our log: warnings and errors as warnings, the rest as debug. Keeps: a line is cut at a limit, the
//! last lines are remembered for the operator who asks why it ended. Called by the supervisor.

use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStderr, ChildStdout};
use tracing::{debug, warn};

/// One line of Envoy's log: its level in brackets, the logger, the text.
pub(super) const LOG_FORMAT: &str = "[%l] %n: %v";

/// Longer lines are cut into pieces of this size.
const MAX_LINE_BYTES: usize = 8 << 10;
/// Lines that are remembered.
const REMEMBERED: usize = 5;

/// What Envoy said last.
#[derive(Debug, Default)]
pub(super) struct LastWords(VecDeque<String>);

impl LastWords {
    /// `end`, and what was said before it.
    pub(super) fn after(&self, end: &str) -> String {
        if self.0.is_empty() {
            return end.to_owned();
        }
        let said: Vec<&str> = self.0.iter().map(String::as_str).collect();
        format!("{end}; it said: {}", said.join(" | "))
    }

    fn take(&mut self, line: &str) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }
}

/// Copies both outputs to the log until they are closed.
pub(super) async fn forward(
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    last_words: &mut LastWords,
) {
    let out = async {
        if let Some(stdout) = stdout {
            lines(stdout, |line| debug!(line, "Envoy")).await;
        }
    };
    let err = async {
        if let Some(stderr) = stderr {
            lines(stderr, |line| {
                last_words.take(line);
                if is_grave(line) {
                    warn!(line, "Envoy");
                } else {
                    debug!(line, "Envoy");
                }
            })
            .await;
        }
    };
    tokio::join!(out, err);
}

fn is_grave(line: &str) -> bool {
    ["[warning]", "[error]", "[critical]"].iter().any(|level| line.starts_with(level))
}

async fn lines(input: impl AsyncRead + Unpin, mut each: impl FnMut(&str)) {
    let mut input = BufReader::with_capacity(MAX_LINE_BYTES, input);
    let mut line = Vec::new();
    // A pipe that cannot be read is as good as closed.
    while let Ok(bytes) = input.fill_buf().await {
        if bytes.is_empty() {
            break;
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let room = MAX_LINE_BYTES - line.len();
        let taken = end.unwrap_or(bytes.len()).min(room);
        line.extend_from_slice(&bytes[..taken]);
        let complete = end == Some(taken);
        input.consume(taken + usize::from(complete));
        if complete || line.len() == MAX_LINE_BYTES {
            each(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        each(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collected(input: &[u8]) -> Vec<String> {
        let mut collected = Vec::new();
        lines(input, |line| collected.push(line.to_owned())).await;
        collected
    }

    #[tokio::test]
    async fn lines_come_whole_and_long_ones_are_cut() {
        assert_eq!(collected(b"one\n\ntwo").await, ["one", "", "two"]);
        let long = vec![b'x'; MAX_LINE_BYTES + 3];
        let pieces: Vec<usize> = collected(&long).await.iter().map(String::len).collect();
        assert_eq!(pieces, [MAX_LINE_BYTES, 3]);
    }

    #[test]
    fn the_last_words_are_the_last() {
        let mut words = LastWords::default();
        (0..7).for_each(|n| words.take(&n.to_string()));
        assert_eq!(words.after("exit status: 1"), "exit status: 1; it said: 2 | 3 | 4 | 5 | 6");
    }
}
