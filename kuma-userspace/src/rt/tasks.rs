//! Supervised tasks. Keeps: no task ends unheard; the first that ends early or fails ends all others.
//! Called by agent/mod.rs, cp/mod.rs and cli, which are the only ones that start tasks.

use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tracing::{debug, warn};

use super::{Drain, DrainTrigger};

/// How long tasks may take to end after the drain was asked for.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The tasks of one process part, with the drain they hear.
pub struct Tasks {
    set: JoinSet<(&'static str, Result<(), BoxError>)>,
    trigger: DrainTrigger,
    drain: Drain,
}

/// Which task ended the others, and why.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("{task} failed")]
    Failed { task: &'static str, source: BoxError },
    #[error("{task} ended although nobody asked it to")]
    EndedEarly { task: &'static str },
    #[error("a task panicked")]
    Panicked(#[source] JoinError),
}

impl Tasks {
    /// No task yet; all will hear `drain`, which `trigger` asks to end.
    pub fn new(trigger: DrainTrigger, drain: Drain) -> Self {
        Self { set: JoinSet::new(), trigger, drain }
    }

    /// The drain to hand to a task.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Starts a task; `name` says its job ("resolver", "feed").
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<BoxError>,
    {
        self.set.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Runs until the drain is asked for and every task has ended. A task that ends before that asks for the drain.
    ///
    /// # Errors
    /// The first failure of any task.
    pub async fn run(mut self) -> Result<(), TaskError> {
        let mut first: Option<TaskError> = None;
        loop {
            let next = tokio::select! {
                next = self.set.join_next() => next,
                () = self.drain.requested() => break,
            };
            let Some(ended) = next else { break };
            first = first.or(self.judge(ended));
            self.trigger.request();
        }
        let rest = async {
            while let Some(ended) = self.set.join_next().await {
                let judged = judge_drained(ended);
                first = first.take().or(judged);
            }
        };
        if tokio::time::timeout(DRAIN_DEADLINE, rest).await.is_err() {
            warn!(deadline_secs = DRAIN_DEADLINE.as_secs(), "tasks did not end in time, dropping them");
        }
        first.map_or(Ok(()), Err)
    }

    /// An end that nobody asked for is a failure, unless the drain came first.
    fn judge(&self, ended: Result<(&'static str, Result<(), BoxError>), JoinError>) -> Option<TaskError> {
        match ended {
            Ok((task, Ok(()))) if !self.drain.is_requested() => Some(TaskError::EndedEarly { task }),
            other => judge_drained(other),
        }
    }
}

fn judge_drained(ended: Result<(&'static str, Result<(), BoxError>), JoinError>) -> Option<TaskError> {
    match ended {
        Ok((task, Ok(()))) => {
            debug!(task, "ended");
            None
        }
        Ok((task, Err(source))) => Some(TaskError::Failed { task, source }),
        Err(error) => Some(TaskError::Panicked(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_ends_the_others_and_is_named() {
        let (trigger, drain) = Drain::pair();
        let mut tasks = Tasks::new(trigger, drain);
        let heard = tasks.drain();
        tasks.spawn("waits", async move {
            heard.requested().await;
            Ok::<(), std::io::Error>(())
        });
        tasks.spawn("leaves", async { Ok::<(), std::io::Error>(()) });
        assert!(matches!(tasks.run().await, Err(TaskError::EndedEarly { task: "leaves" })));
    }

    #[tokio::test]
    async fn a_drain_lets_every_task_end_in_peace() {
        let (trigger, drain) = Drain::pair();
        let mut tasks = Tasks::new(trigger.clone(), drain);
        let heard = tasks.drain();
        tasks.spawn("waits", async move {
            heard.requested().await;
            Ok::<(), std::io::Error>(())
        });
        trigger.request();
        assert!(tasks.run().await.is_ok());
    }
}
