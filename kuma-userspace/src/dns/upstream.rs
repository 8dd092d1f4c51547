//! Everything that is not ours: passed on to the nameservers of the workload's resolv.conf, bytes unchanged both ways.
//!
//! The nameserver that the application asked is not known here (the hooks rewrote it); it took it from the same
//! resolv.conf, so all of that file's are asked, in order. Nameservers on loopback (127.0.0.53, 127.0.0.11) are reached
//! because the agent runs outside the workloads' cgroup, where nothing is redirected. UDP is asked by UDP, TCP by TCP;
//! only the id differs on the way. Identical queries in flight are joined, so that a loop dies out.
//!
//! Keeps: one dead server never blocks another; at most [`QUERIES_IN_FLIGHT`] wait. Called by server and tcp.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::net::{SendFlags, SocketAddrAny};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};

use super::answer::{self, ROOM_BYTES};
use super::attempts::{Attempts, DEADLINE, Step};
use super::counters::Event;
use super::legs::{Dice, Ear, Heard, Leg, Nameserver, Sent, restore};
use super::question::{Question, rcode};
use super::server::Shared;

/// Queries that may wait for nameservers at once; one more gets SERVFAIL at once.
pub const QUERIES_IN_FLIGHT: usize = 4_000;
/// Longest message (RFC 1035 section 4.2.2).
pub const MAX_MESSAGE_BYTES: usize = 65_535;
/// How long a nameserver may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often unused sockets are closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A query over UDP that is not ours, and who waits for it.
pub(super) struct Asked {
    pub(super) query: Vec<u8>,
    pub(super) question: Question,
    pub(super) client: Client,
}

/// Who asked over UDP: the answer leaves by the socket that was asked.
pub(super) struct Client {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) address: SocketAddrAny,
    pub(super) _place: OwnedSemaphorePermit,
}

/// A client that waits for a query in flight, with the id under which it asked.
struct Waiter {
    id: [u8; 2],
    client: Client,
}

/// Asks the nameservers. Lives on one thread; cheap to share there.
pub(super) struct Forwarder {
    shared: Arc<Shared>,
    nameservers: RefCell<Rc<[Rc<Nameserver>]>>,
    /// Queries in flight, by all their octets but the id.
    in_flight: RefCell<HashMap<Box<[u8]>, Vec<Waiter>>>,
    dice: Dice,
    opened: mpsc::Sender<Rc<Leg>>,
}

/// Sockets that were just opened and are not read yet.
pub(super) type Opened = mpsc::Receiver<Rc<Leg>>;

impl Forwarder {
    pub(super) fn new(shared: Arc<Shared>) -> (Self, Opened) {
        let (opened, opening) = mpsc::channel(QUERIES_IN_FLIGHT);
        let (nameservers, in_flight) = (RefCell::new(Rc::new([])), RefCell::default());
        (Self { shared, nameservers, in_flight, dice: Dice::default(), opened }, opening)
    }

    /// From now on these are asked. Queries in flight go on with those that they know.
    pub(super) fn set_nameservers(&self, addresses: &[SocketAddr]) {
        let old = self.nameservers.borrow().clone();
        let kept = |address: &SocketAddr| old.iter().find(|server| server.address == *address).cloned();
        let new = |address: &SocketAddr| kept(address).unwrap_or_else(|| Rc::new(Nameserver::new(*address)));
        self.nameservers.replace(addresses.iter().map(new).collect());
        self.shared.set_nameservers(addresses.to_vec());
    }

    /// Passes on what comes in, until the senders of `inbox` are gone.
    pub(super) async fn run(&self, mut inbox: mpsc::Receiver<Asked>, mut opened: Opened) {
        let buffer = RefCell::new(vec![0; MAX_MESSAGE_BYTES]);
        let (mut queries, mut readers) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            // In this order: what was opened is read and what has come is passed on before more is taken in.
            tokio::select! {
                biased;
                _ = sweep.tick() => self.nameservers.borrow().iter().for_each(|server| server.sweep()),
                Some(leg) = opened.recv() => readers.push(leg.read(&buffer, &self.shared.counters)),
                Some(()) = readers.next(), if !readers.is_empty() => {}
                Some(()) = queries.next(), if !queries.is_empty() => {}
                asked = inbox.recv() => match asked {
                    Some(asked) => if let Some(first) = self.join(asked) { queries.push(self.forward(first)) },
                    None => return,
                },
            }
        }
    }

    /// Adds the client to an identical query in flight; `Some` if there is none and the query has to be asked.
    fn join(&self, asked: Asked) -> Option<(Vec<u8>, Question)> {
        let (id, body) =
            asked.query.split_first_chunk::<2>().expect("a query has a header: question::read checks");
        let waiter = Waiter { id: *id, client: asked.client };
        let mut in_flight = self.in_flight.borrow_mut();
        if let Some(waiters) = in_flight.get_mut(body) {
            waiters.push(waiter);
            return None;
        }
        in_flight.insert(body.into(), vec![waiter]);
        Some((asked.query, asked.question))
    }

    async fn forward(&self, (mut query, question): (Vec<u8>, Question)) {
        let body: Box<[u8]> = query[2..].into();
        let mut answer = self.ask_udp(&mut query, &question).await;
        let waiters = self.in_flight.borrow_mut().remove(&body).unwrap_or_default();
        for Waiter { id, client } in waiters {
            answer[..2].copy_from_slice(&id);
            self.shared.counters.answer(answer[3] & 0x0f);
            // A client that is gone is nobody's loss.
            let _gone = rustix::net::sendto(&client.socket, &answer, SendFlags::DONTWAIT, &client.address);
        }
    }

    /// The servers as they stand now, and the order in which to ask them.
    fn servers(&self, now: Instant) -> (Rc<[Rc<Nameserver>]>, Vec<usize>) {
        let servers = self.nameservers.borrow().clone();
        let (avoided, mut order): (Vec<usize>, Vec<usize>) =
            (0..servers.len()).partition(|&number| servers[number].is_avoided(now));
        order.extend(avoided);
        (servers, order)
    }

    async fn ask_udp(&self, query: &mut [u8], question: &Question) -> Vec<u8> {
        let now = Instant::now();
        let (servers, order) = self.servers(now);
        let mut attempts = Attempts::new(order, now);
        let octets: Rc<[u8]> = question.octets(query).into();
        let ear = Rc::new(Ear::default());
        let (mut second_best, mut sent): (Option<Vec<u8>>, Vec<Sent>) = (None, Vec::new());
        loop {
            let (asking, until) = match attempts.step(Instant::now()) {
                Step::GiveUp => break,
                Step::Wait { until } => (None, until),
                Step::Ask { server, until } => {
                    match self.send(&servers[server], query, &octets, (server, &ear)) {
                        Ok(on_its_way) => sent.push(on_its_way),
                        Err(_) => {
                            servers[server].failed(Instant::now());
                            attempts.settle(server);
                            continue;
                        }
                    }
                    (Some(server), until)
                }
            };
            while let Ok((server, heard)) = timeout_at(until, ear.next()).await {
                match heard {
                    Heard::Answer(answer) => {
                        servers[server].answered();
                        if !is_second_best(&answer) {
                            return answer;
                        }
                        second_best.get_or_insert(answer);
                    }
                    Heard::Refused => servers[server].failed(Instant::now()),
                }
                attempts.settle(server);
                if asking.is_none_or(|asked| asked == server) {
                    break;
                }
            }
            if let Some(server) = asking.filter(|_| Instant::now() >= until) {
                self.shared.counters.event(Event::UpstreamSilent);
                servers[server].failed(Instant::now());
            }
        }
        second_best.unwrap_or_else(|| self.servfail(query, question))
    }

    /// A socket that an ICMP error has just closed is replaced once.
    fn send(
        &self,
        server: &Nameserver,
        query: &mut [u8],
        octets: &Rc<[u8]>,
        hearing: (usize, &Rc<Ear>),
    ) -> io::Result<Sent> {
        let mut send = || server.leg(&self.dice, &self.opened)?.send(query, octets, &self.dice, hearing);
        send().or_else(|_| send())
    }

    /// Asks over TCP, one server after the other; a connection per query.
    pub(super) async fn ask_tcp(&self, query: &[u8], question: &Question) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        let (servers, order) = self.servers(Instant::now());
        let (mut second_best, count) = (None, order.len());
        for (position, number) in order.into_iter().enumerate() {
            let server = &servers[number];
            // What is left is shared by those that are left, so that a silent server leaves time for the next.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(count - position).unwrap_or(u32::MAX);
            match exchange_tcp(server.address, query, question, Instant::now() + share).await {
                Ok(answer) => {
                    server.answered();
                    if !is_second_best(&answer) {
                        return answer;
                    }
                    second_best.get_or_insert(answer);
                }
                Err(error) => {
                    server.failed(Instant::now());
                    self.shared.counters.event(match error.kind() {
                        io::ErrorKind::ConnectionRefused => Event::UpstreamRefused,
                        io::ErrorKind::InvalidData => Event::UpstreamMismatched,
                        _ => Event::UpstreamSilent,
                    });
                }
            }
        }
        second_best.unwrap_or_else(|| self.servfail(query, question))
    }

    fn servfail(&self, query: &[u8], question: &Question) -> Vec<u8> {
        self.shared.counters.event(Event::Failed);
        let mut answer = query.to_vec();
        answer.resize(query.len() + ROOM_BYTES, 0);
        let bytes = answer::servfail(&mut answer, query.len(), question).bytes;
        answer.truncate(bytes);
        answer
    }
}

/// An answer that another server may better, as glibc sees it; it is passed on if none does.
fn is_second_best(answer: &[u8]) -> bool {
    matches!(answer[3] & 0x0f, rcode::SERVFAIL | rcode::NOTIMP | rcode::REFUSED)
}

async fn exchange_tcp(
    server: SocketAddr,
    query: &[u8],
    question: &Question,
    until: Instant,
) -> io::Result<Vec<u8>> {
    let connect = timeout_at(until.min(Instant::now() + CONNECT_TIMEOUT), TcpStream::connect(server));
    let mut stream = connect.await.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    let exchange = async {
        let length = u16::try_from(query.len()).map_err(|_too_long| io::ErrorKind::InvalidInput)?;
        stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        let fitting = restore(&answer, question.octets(query)).filter(|_| answer[..2] == query[..2]);
        fitting.ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    timeout_at(until, exchange).await.map_err(|_elapsed| io::ErrorKind::TimedOut)?
}
