//! Many resources put or deleted: some on the way at once, printed in their order. Keeps: a Mesh comes before what is in it,
//! and goes after it; what is refused does not stop the rest, what would stop all of them does. Called by apply and delete.

use std::process::ExitCode;

use anyhow::anyhow;
use futures_util::{StreamExt, stream};

use super::http::{Client, ClientError};
use super::input::Given;
use super::kinds::{self, shown_name};
use super::progress::Progress;
use crate::cli::outcome::{Code, Failure, Outcome};
use crate::model::kind::ResourceKind;

/// Requests on the way at once, each on a connection of its own.
const IN_FLIGHT: usize = 16;
/// Refusals that are shown; whoever has more repairs these first.
const MAX_SHOWN: usize = 100;

/// What is done with each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli) enum Work {
    Put,
    Delete(IfAbsent),
}

/// What it means that there is nothing to delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli) enum IfAbsent {
    Fail,
    Ignore,
}

impl Work {
    fn participle(self) -> &'static str {
        match self {
            Self::Put => "applied",
            Self::Delete(_) => "deleted",
        }
    }

    /// Does the work on one; gives what to say about it.
    async fn on(self, client: &Client, given: &Given) -> Result<&'static str, ClientError> {
        let path = kinds::path(&given.key);
        match self {
            Self::Put => client.put(&path, given.body.clone()).await.map(|answer| answer.done.word()),
            Self::Delete(if_absent) => match client.delete(&path).await {
                Ok(_) => Ok("deleted"),
                Err(error) if error.is_absent() && if_absent == IfAbsent::Ignore => Ok("not there"),
                Err(error) => Err(error),
            },
        }
    }
}

/// Does the work on all of them.
pub(in crate::cli) async fn each(client: &Client, given: &[Given], work: Work) -> Outcome {
    let mut tally = Tally { of: given.len(), participle: work.participle(), done: 0, refused: Vec::new() };
    let mut progress = Progress::new(tally.participle, tally.of);
    let (meshes, others): (Vec<_>, Vec<_>) =
        given.iter().partition(|given| given.key.kind == ResourceKind::Mesh);
    let parts = if work == Work::Put { [meshes, others] } else { [others, meshes] };
    for part in parts {
        let send = async |given| (given, work.on(client, given).await);
        let mut answers = stream::iter(part).map(send).buffered(IN_FLIGHT);
        while let Some((given, answer)) = answers.next().await {
            match answer {
                Ok(word) => {
                    tally.done += 1;
                    progress.step(Some(&format!("{} {word}", shown_name(&given.key))));
                }
                Err(error) if error.is_of_one() => {
                    progress.step(None);
                    tally.refused.push(format!("{}{}", given.told(), error.brief()));
                }
                Err(error) => {
                    drop(progress);
                    return Err(tally.stopped(error));
                }
            }
        }
    }
    drop(progress);
    tally.conclude()
}

/// How it went.
struct Tally {
    of: usize,
    participle: &'static str,
    done: usize,
    refused: Vec<String>,
}

impl Tally {
    fn conclude(self) -> Outcome {
        if self.refused.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let Self { of, participle, .. } = self;
        let head = match (self.refused.len(), of) {
            (1, 1) => String::new(),
            (refused, of) => format!("{refused} of {of} not {participle}, the others are:"),
        };
        let text = format!("{head}{}", self.list(if head.is_empty() { "" } else { "\n" }));
        Err(Failure::new(Code::Failed, anyhow!(text)))
    }

    /// The rest would fare no better.
    fn stopped(self, error: ClientError) -> Failure {
        if self.done == 0 && self.refused.is_empty() {
            return error.into();
        }
        let Self { of, participle, done, .. } = self;
        let refused = if self.refused.is_empty() { String::new() } else { self.list("\n") };
        let failure = Failure::from(error);
        let what = format!("{done} of {of} {participle}, then it stopped: {:#}{refused}", failure.error());
        Failure::new(failure.code(), anyhow!(what))
    }

    fn list(&self, between: &str) -> String {
        let mut text: String =
            self.refused.iter().take(MAX_SHOWN).flat_map(|refused| [between, refused]).collect();
        if let more @ 1.. = self.refused.len().saturating_sub(MAX_SHOWN) {
            text.push_str(&format!("\nand {more} more"));
        }
        text
    }
}
