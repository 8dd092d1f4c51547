//! Connections: taken, bounded in number and in time, drained. Knows nothing of what is answered.
//! Keeps: one slow, silent or greedy client costs no other; over a limit the answer is an error in words; a request in flight
//! ends before its connection does. Called by rest.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::asked::Peer;
use super::problem::Problem;
use super::stall::Unstalled;
use crate::cp::tls::Listener;
use crate::rt::Drain;

/// Connections at once; watches are among them.
const MAX_CONNECTIONS: usize = 512;
/// Those beyond that are told so, this many at once; the others are closed without a word.
const MAX_TURNED_AWAY: usize = 64;
/// How long the head of a request may take, counted from the end of the one before: a silent connection is closed then.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Room for the head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long a client may take nothing of his answer.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection that is over may go on sending, and how much of that is read at once.
const LINGER_LIMIT: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 16 << 10;
/// How long requests in flight may take once the drain was asked for.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What all ports share.
#[derive(Clone)]
pub(super) struct Limits {
    connections: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { connections: semaphore(MAX_CONNECTIONS), turned_away: semaphore(MAX_TURNED_AWAY) }
    }
}

/// Serves a port until the drain is asked for and what was begun is done.
pub(super) async fn serve(mut listener: Listener, router: Router, limits: Limits, drain: Drain) {
    let local = listener.local_addr();
    let scheme = if listener.is_tls() { "https" } else { "http" };
    let mut running = JoinSet::new();
    let mut full = false;
    loop {
        let (io, remote) = tokio::select! {
            () = drain.requested() => break,
            accepted = listener.accept() => accepted,
            Some(_ended) = running.join_next() => continue,
        };
        let (permit, router) = match limits.connections.clone().try_acquire_owned() {
            Ok(permit) => {
                full = false;
                (permit, router.clone())
            }
            Err(_full) => {
                if !std::mem::replace(&mut full, true) {
                    warn!(limit = MAX_CONNECTIONS, "too many connections to the API, new ones are refused");
                }
                let Ok(permit) = limits.turned_away.clone().try_acquire_owned() else { continue };
                (permit, Router::new().fallback(turn_away))
            }
        };
        let peer = Peer { remote, local, scheme };
        let drain = drain.clone();
        running.spawn(async move {
            if let Err(error) = connection(io, peer, router, drain).await {
                debug!(%remote, %error, "a connection to the API ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    let rest = async { while running.join_next().await.is_some() {} };
    if timeout(DRAIN_LIMIT, rest).await.is_err() {
        warn!(limit_secs = DRAIN_LIMIT.as_secs(), "requests did not end in time, closing their connections");
    }
}

async fn connection<Io>(io: Io, peer: Peer, router: Router, drain: Drain) -> Result<(), hyper::Error>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        Box::pin(router.clone().oneshot(request))
    });
    let io = TokioIo::new(Unstalled::new(io, STALL_LIMIT));
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(io, service);
    tokio::select! {
        ended = poll_fn(|cx| serving.poll_without_shutdown(cx)) => ended?,
        () = drain.requested() => {
            Pin::new(&mut serving).graceful_shutdown();
            poll_fn(|cx| serving.poll_without_shutdown(cx)).await?;
        }
    }
    let mut io = serving.into_parts().io.into_inner();
    tokio::select! {
        _done_or_late = timeout(LINGER_LIMIT, linger(&mut io)) => {}
        () = drain.requested() => {}
    }
    Ok(())
}

/// Lets a client finish what it is sending: one that is refused early would be cut off, and never read why.
async fn linger<Io: AsyncRead + AsyncWrite + Unpin>(io: &mut Io) -> io::Result<()> {
    io.shutdown().await?;
    let mut bytes = vec![0; LINGER_BYTES];
    while io.read(&mut bytes).await? > 0 {}
    Ok(())
}

async fn turn_away() -> impl IntoResponse {
    let detail = format!("{MAX_CONNECTIONS} connections are open, which is the limit");
    let mut response = Problem::busy("Too many connections", detail).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
