//! One stream: moves requests into the session and its answers out. Driven by its reader: a client that does not
//! read costs nothing, and finds the newest state when it reads again. Called by cp::xds for each stream.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{Stream, unfold};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::admission::{Admission, Pass};
use super::board::{Board, Seat};
use super::clients::Progress;
use super::dialogue::{Dialogue, News, Summary};
use crate::rt::Drain;
use crate::wire::node::{self, Introduction};

/// How often the wall clock is compared with the end of a token.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
/// How long a client may take to introduce itself.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(10);

/// How somebody gets in, and out.
pub(super) struct Door {
    pub(super) admission: Admission,
    pub(super) pass: Pass,
    pub(super) drain: Drain,
}

/// The answers to `requests`, until one side ends.
pub(super) fn serve<D: Dialogue + 'static>(
    board: Arc<Board>,
    requests: Streaming<D::Request>,
    door: Door,
) -> impl Stream<Item = Result<D::Response, Status>> + Send {
    let opening = State::<D>::Opening { board, requests: Box::new(requests), door: Box::new(door) };
    unfold(opening, |state| async move {
        match advance(state).await {
            Ok((response, open)) => Some((Ok(response), State::Open(open))),
            Err(End::Quiet) => None,
            Err(End::Failed(status)) => Some((Err(status), State::Ended)),
        }
    })
}

enum State<D: Dialogue> {
    Opening { board: Arc<Board>, requests: Box<Streaming<D::Request>>, door: Box<Door> },
    Open(Box<Open<D>>),
    Ended,
}

struct Open<D: Dialogue> {
    introduction: Introduction,
    session: D,
    seat: Seat,
    requests: Box<Streaming<D::Request>>,
    drain: Drain,
    /// When its token does.
    expires: Option<SystemTime>,
    reported: Progress,
}

/// Why a stream is over.
enum End {
    /// The client left.
    Quiet,
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

async fn advance<D: Dialogue>(state: State<D>) -> Result<(D::Response, Box<Open<D>>), End> {
    let mut open = match state {
        State::Opening { board, requests, door } => Box::new(introduce(&board, requests, *door).await?),
        State::Open(open) => open,
        State::Ended => return Err(End::Quiet),
    };
    let response = open.next_response().await?;
    Ok((response, open))
}

async fn introduce<D: Dialogue>(
    board: &Arc<Board>,
    mut requests: Box<Streaming<D::Request>>,
    Door { admission, pass, drain }: Door,
) -> Result<Open<D>, End> {
    let first = tokio::time::timeout(INTRODUCTION_LIMIT, requests.message()).await;
    let late =
        |_elapsed| Status::deadline_exceeded("no first request came: its node says which view is wanted");
    let first = first.map_err(late)?.map_err(|_broken| End::Quiet)?.ok_or(End::Quiet)?;
    let node = D::node(&first).cloned().unwrap_or_default();
    let introduction =
        Introduction::read(&node).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let expires = admission
        .admit(&pass, &introduction)
        .map_err(|refusal| Status::unauthenticated(refusal.to_string()))?;
    let seat = board
        .join(&introduction, node::software(&node))
        .map_err(|full| Status::resource_exhausted(full.to_string()))?;
    let Introduction { id, role, view, .. } = &introduction;
    info!(node = %id, role = role.word(), view, "xDS client connected");
    let session = D::new(&introduction);
    let mut open =
        Open { introduction, session, seat, requests, drain, expires, reported: Progress::default() };
    open.take(first)?;
    Ok(open)
}

impl<D: Dialogue> Open<D> {
    /// Waits until there is something to tell. Cancelled when the client is gone: nothing is lost by that.
    async fn next_response(&mut self) -> Result<D::Response, End> {
        loop {
            let published = self.seat.published.borrow_and_update().clone();
            let response = self.session.next(&published, Instant::now());
            self.report();
            if let Some(response) = response {
                let Summary { type_url: kind, changed, removed } = D::summary(&response);
                debug!(node = %self.introduction.id, kind, changed, removed, "sending");
                return Ok(response);
            }
            let wake = self.session.wake();
            tokio::select! {
                () = sleep_until(wake) => {}
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.take(request)?,
                    Ok(None) | Err(_) => return Err(End::Quiet),
                },
                changed = self.seat.published.changed() => changed.map_err(|_closed| End::Quiet)?,
                () = expired(self.expires) => {
                    return Err(Status::unauthenticated("the dataplane token has expired: make a new one").into());
                }
                () = self.drain.requested() => {
                    return Err(Status::unavailable("the control plane is ending").into());
                }
            }
        }
    }

    fn take(&mut self, request: D::Request) -> Result<(), End> {
        let news = self
            .session
            .take(request, Instant::now())
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        for News { kind, name, refusal } in news {
            let (node, kind, reason) = (&self.introduction.id, kind.word(), &*refusal.reason);
            warn!(%node, kind, name, version = %refusal.version, reason, "a client refused a resource");
        }
        Ok(())
    }

    fn report(&mut self) {
        let progress = self.session.progress();
        if progress != self.reported {
            self.reported = progress.clone();
            self.seat.report(progress);
        }
    }
}

/// Forever, when there is nothing to wake up for.
async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns when the wall clock says so; it is looked at again now and then, since it can be set.
async fn expired(expires: Option<SystemTime>) {
    let Some(expires) = expires else { return std::future::pending().await };
    while let Ok(left) = expires.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.min(CLOCK_LOOK)).await;
    }
}

impl<D: Dialogue> Drop for Open<D> {
    fn drop(&mut self) {
        let Introduction { id, role, view, .. } = &self.introduction;
        info!(node = %id, role = role.word(), view, "xDS client is gone");
    }
}
