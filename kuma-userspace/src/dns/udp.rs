//! One UDP socket of the resolver on a thread of its own: receive, answer in place, send. Two system calls a query.
//! Keeps: mesh names are answered here and now; what is not ours is handed on and never waited for. Called by server.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};
use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use super::answer::{self, Answered, ROOM_BYTES, Role};
use super::counters::Event;
use super::question::{Question, rcode};
use super::server::Shared;
use super::upstream::{Asked, Client};
use super::zone::Outcome;

/// Longest query that is taken over UDP; a longer one is FORMERR. Queries seldom have 100 octets.
const MAX_QUERY_BYTES: usize = 4_096;

/// Answers what arrives at one socket.
pub(super) struct Answerer {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) shared: Arc<Shared>,
    pub(super) forward: mpsc::Sender<Asked>,
    /// A place for each query that may be in flight.
    pub(super) places: Arc<Semaphore>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Answerer {
    /// Runs until `stop` is set and the socket is shut down.
    ///
    /// # Errors
    /// A socket that cannot be received from.
    pub(super) fn run(&self) -> io::Result<()> {
        let mut buffer = [0; MAX_QUERY_BYTES + 1 + ROOM_BYTES];
        loop {
            let received =
                rustix::net::recvfrom(&self.socket, &mut buffer[..=MAX_QUERY_BYTES], RecvFlags::empty());
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match received {
                Ok((bytes, _, Some(client))) => {
                    if let Some(answered) = self.answer(&mut buffer, bytes, &client) {
                        self.send(&buffer[..answered.bytes], &client);
                    }
                }
                Ok((_, _, None)) => debug!("a datagram without sender"),
                Err(errno) if is_passing(errno) => debug!(%errno, "nothing received"),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn answer(&self, buffer: &mut [u8], bytes: usize, client: &SocketAddrAny) -> Option<Answered> {
        let counters = &self.shared.counters;
        match self.shared.zone.load().answer(buffer, bytes) {
            Outcome::Answered(answered) => {
                counters.mesh_answer(answered.qtype, answered.rcode);
                Some(answered)
            }
            Outcome::NotOurs(_) if bytes > MAX_QUERY_BYTES => {
                counters.mesh_answer(None, rcode::FORMERR);
                Some(answer::header_only(buffer, rcode::FORMERR, Role::Resolver))
            }
            Outcome::NotOurs(question) => self.hand_on(buffer, bytes, question, client),
            Outcome::Drop => {
                counters.event(Event::Dropped);
                None
            }
        }
    }

    fn hand_on(
        &self,
        buffer: &mut [u8],
        bytes: usize,
        question: Question,
        client: &SocketAddrAny,
    ) -> Option<Answered> {
        let counters = &self.shared.counters;
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            let client = Client { socket: self.socket.clone(), address: client.clone(), _place: place };
            let query = buffer[..bytes].to_vec();
            if self.forward.try_send(Asked { query, question, client }).is_ok() {
                counters.forwarded(question.qtype);
                return None;
            }
        }
        counters.event(Event::Overloaded);
        let answered = answer::servfail(buffer, bytes, &question);
        counters.answer(answered.rcode);
        Some(answered)
    }

    /// Loopback takes a datagram at once or drops it; a client that is gone is nobody's loss.
    fn send(&self, answer: &[u8], client: &SocketAddrAny) {
        if let Err(error) = rustix::net::sendto(&self.socket, answer, SendFlags::DONTWAIT, client) {
            debug!(%error, "answer not sent");
        }
    }
}

/// Errors that say something about one datagram or one moment, and nothing about the socket.
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::INTR | Errno::AGAIN | Errno::CONNREFUSED | Errno::NOMEM | Errno::NOBUFS)
}
