//! DNS over TCP (RFC 7766): several queries per connection, answers as they come, mesh names never behind forwarded ones.
//! A zone transfer is many messages of one server; it is refused, as stub resolvers do.
//! Keeps: connections, queries per connection and every wait have a limit. Called by server.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::answer::{self, ROOM_BYTES, Role};
use super::counters::Event;
use super::question::{Question, qtype, rcode};
use super::server::Shared;
use super::upstream::Forwarder;
use super::zone::Outcome;

/// Connections of one listener; one more is closed at once.
const CONNECTIONS: usize = 512;
/// Forwarded queries of one connection that may wait; then it is not read from.
const QUERIES_PER_CONNECTION: usize = 64;
/// A connection without a whole query or an answer for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to make room for an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after accept failed (no file descriptor left, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Each message has its length in front (RFC 1035 section 4.2.2).
const LENGTH_BYTES: usize = 2;

/// Serves one listener.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    pub(super) shared: Arc<Shared>,
    pub(super) forwarder: Rc<Forwarder>,
    pub(super) places: Arc<Semaphore>,
}

impl Acceptor {
    /// Never returns; dropping it closes every connection.
    pub(super) async fn run(&self) {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                stream = self.accept() => {
                    if connections.len() < CONNECTIONS {
                        connections.push(self.serve(stream));
                    } else {
                        self.shared.counters.event(Event::ConnectionRefused);
                    }
                }
                Some(ended) = connections.next(), if !connections.is_empty() => {
                    if let Err(error) = ended { debug!(%error, "connection ended"); }
                }
            }
        }
    }

    async fn accept(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    warn!(%error, "cannot accept a DNS connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.split();
        let (mut inbox, mut open) = (BytesMut::new(), true);
        let mut forwarded = FuturesUnordered::new();
        let mut idle = pin!(sleep(IDLE_TIMEOUT));
        loop {
            while forwarded.len() < QUERIES_PER_CONNECTION
                && let Some(query) = next_query(&mut inbox)
            {
                idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
                match self.answer(query) {
                    Reply::Now(answer) => send(&mut writer, &answer).await?,
                    Reply::Later(later) => forwarded.push(self.forward(later)),
                    Reply::Never => {}
                }
            }
            if !open && forwarded.is_empty() {
                return Ok(());
            }
            tokio::select! {
                read = reader.read_buf(&mut inbox), if open && forwarded.len() < QUERIES_PER_CONNECTION => {
                    // A client that has sent all its queries may close its half and still wait.
                    open = read? > 0;
                }
                Some(answer) = forwarded.next(), if !forwarded.is_empty() => {
                    send(&mut writer, &answer).await?;
                    idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
                }
                () = &mut idle, if forwarded.is_empty() => return Ok(()),
            }
        }
    }

    /// `query` has room for an answer and for the length in front.
    fn answer(&self, mut query: Framed) -> Reply {
        let counters = &self.shared.counters;
        match self.shared.zone.load().answer(&mut query.octets[LENGTH_BYTES..], query.bytes) {
            Outcome::Answered(answered) => {
                counters.mesh_answer(answered.qtype, answered.rcode);
                Reply::Now(query.cut(answered.bytes))
            }
            Outcome::NotOurs(question) if matches!(question.qtype, qtype::AXFR | qtype::IXFR) => {
                let answered = answer::status(
                    &mut query.octets[LENGTH_BYTES..],
                    &question,
                    None,
                    (rcode::REFUSED, Role::Resolver),
                );
                counters.mesh_answer(answered.qtype, answered.rcode);
                Reply::Now(query.cut(answered.bytes))
            }
            Outcome::NotOurs(question) => match self.places.clone().try_acquire_owned() {
                Ok(place) => {
                    counters.forwarded(question.qtype);
                    Reply::Later(Later { query, question, _place: place })
                }
                Err(_) => {
                    counters.event(Event::Overloaded);
                    let bytes = query.bytes;
                    let answered = answer::servfail(&mut query.octets[LENGTH_BYTES..], bytes, &question);
                    counters.answer(answered.rcode);
                    Reply::Now(query.cut(answered.bytes))
                }
            },
            Outcome::Drop => {
                counters.event(Event::Dropped);
                Reply::Never
            }
        }
    }

    async fn forward(&self, later: Later) -> Vec<u8> {
        let query = &later.query.octets[LENGTH_BYTES..][..later.query.bytes];
        let answer = self.forwarder.ask_tcp(query, &later.question).await;
        self.shared.counters.answer(answer[3] & 0x0f);
        framed(&answer)
    }
}

enum Reply {
    Now(Vec<u8>),
    Later(Later),
    Never,
}

struct Later {
    query: Framed,
    question: Question,
    _place: OwnedSemaphorePermit,
}

/// A query behind two octets of length, with room for an answer.
struct Framed {
    octets: Vec<u8>,
    bytes: usize,
}

impl Framed {
    /// The first `bytes` octets of the message with their length in front.
    fn cut(mut self, bytes: usize) -> Vec<u8> {
        self.octets.truncate(LENGTH_BYTES + bytes);
        let length = u16::try_from(bytes).expect("an answer of ours has at most 512 octets");
        self.octets[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        self.octets
    }
}

/// Takes the next whole query off the front of what was received.
fn next_query(inbox: &mut BytesMut) -> Option<Framed> {
    let bytes = usize::from(u16::from_be_bytes(*inbox.first_chunk::<LENGTH_BYTES>()?));
    let mut octets = Vec::with_capacity(LENGTH_BYTES + bytes + ROOM_BYTES);
    octets.extend_from_slice(inbox.get(..LENGTH_BYTES + bytes)?);
    octets.resize(LENGTH_BYTES + bytes + ROOM_BYTES, 0);
    inbox.advance(LENGTH_BYTES + bytes);
    Some(Framed { octets, bytes })
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len())
        .expect("it came behind 16 bits of length itself, or is a query with a code");
    [&length.to_be_bytes(), message].concat()
}

async fn send(writer: &mut WriteHalf<'_>, message: &[u8]) -> io::Result<()> {
    timeout(WRITE_TIMEOUT, writer.write_all(message)).await.map_err(|_elapsed| io::ErrorKind::TimedOut)?
}
