//! Nameservers and the UDP sockets towards them. Each socket is connected, so that only the server's own answers arrive and
//! a closed port is heard at once; its port is the kernel's random choice, and it serves few queries (RFC 5452).
//! Keeps: an answer reaches a query only if id, question, address and port fit. Called by upstream.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::counters::{Counters, Event};
use super::question::{HEADER_BYTES, Question, question_of, rcode};

/// Sockets that one nameserver is asked from at a time.
pub(super) const LEGS_PER_SERVER: usize = 64;
/// Queries that one socket serves before another port takes its place.
const QUERIES_PER_LEG: u32 = 64;
/// A server that stayed silent this often in a row is asked last, ...
const FAILURES_UNTIL_AVOIDED: u32 = 3;
/// ... until this has passed; then one query tries it again.
const AVOIDED_FOR: Duration = Duration::from_secs(10);

/// One nameserver: its health and its sockets.
pub(super) struct Nameserver {
    pub(super) address: SocketAddr,
    legs: RefCell<Vec<Rc<Leg>>>,
    failures: Cell<u32>,
    avoid_until: Cell<Option<Instant>>,
}

impl Nameserver {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, legs: RefCell::default(), failures: Cell::new(0), avoid_until: Cell::new(None) }
    }

    /// Should others be asked first? When the time of avoidance is over, the caller's query is the one that tries.
    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        match self.avoid_until.get() {
            Some(until) if now < until => true,
            Some(_) => {
                self.avoid_until.set(Some(now + AVOIDED_FOR));
                false
            }
            None => false,
        }
    }

    /// It stayed silent or refused.
    pub(super) fn failed(&self, now: Instant) {
        self.failures.set(self.failures.get().saturating_add(1));
        if self.failures.get() >= FAILURES_UNTIL_AVOIDED {
            self.avoid_until.set(Some(now + AVOIDED_FOR));
        }
    }

    /// It answered.
    pub(super) fn answered(&self) {
        self.failures.set(0);
        self.avoid_until.set(None);
    }

    /// A socket to ask from: one at random, a new one where there is none. New ones are handed to `opened` for reading.
    ///
    /// # Errors
    /// No socket to be had, or no way to the server.
    pub(super) fn leg(&self, dice: &Dice, opened: &mpsc::Sender<Rc<Leg>>) -> io::Result<Rc<Leg>> {
        let mut legs = self.legs.borrow_mut();
        let place = dice.roll() as usize % LEGS_PER_SERVER;
        if let Some(leg) = legs.get(place).filter(|leg| leg.takes_more()) {
            return Ok(leg.clone());
        }
        let leg = Rc::new(Leg::open(self.address)?);
        opened.try_send(leg.clone()).map_err(|_full| io::Error::from(io::ErrorKind::ResourceBusy))?;
        if place < legs.len() {
            std::mem::replace(&mut legs[place], leg.clone()).retire();
        } else {
            legs.push(leg.clone());
        }
        Ok(leg)
    }

    /// Lets go of the sockets that nobody used since the last call, and of those that have served enough.
    pub(super) fn sweep(&self) {
        self.legs.borrow_mut().retain(|leg| {
            let used = leg.used.replace(false) || !leg.waiting.borrow().is_empty();
            let keep = used && leg.takes_more();
            if !keep {
                leg.retire();
            }
            keep
        });
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        for leg in self.legs.get_mut() {
            leg.retire();
        }
    }
}

/// One socket towards a nameserver, and the queries that wait for its answers.
pub(super) struct Leg {
    socket: UdpSocket,
    waiting: RefCell<HashMap<u16, Waiting>>,
    uses: Cell<u32>,
    used: Cell<bool>,
    retired: Cell<bool>,
    closed: Notify,
}

struct Waiting {
    server: usize,
    /// Name, type and class as the client spelled them.
    question: Rc<[u8]>,
    ear: Rc<Ear>,
    /// Heard already; the id stays taken until the query is done.
    answered: Cell<bool>,
}

impl Leg {
    fn open(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            waiting: RefCell::default(),
            uses: Cell::new(0),
            used: Cell::new(true),
            retired: Cell::new(false),
            closed: Notify::new(),
        })
    }

    fn takes_more(&self) -> bool {
        !self.retired.get() && self.uses.get() < QUERIES_PER_LEG
    }

    /// No new queries; closed as soon as nobody waits any more.
    fn retire(&self) {
        self.retired.set(true);
        if self.waiting.borrow().is_empty() {
            self.closed.notify_one();
        }
    }

    /// Sends `query` under an id of its own; what comes back is heard through `ear`, until the returned value is dropped.
    ///
    /// # Errors
    /// What send(2) says; a closed port is heard here if an earlier query met it.
    pub(super) fn send(
        self: &Rc<Self>,
        query: &mut [u8],
        question: &Rc<[u8]>,
        dice: &Dice,
        hearing: (usize, &Rc<Ear>),
    ) -> io::Result<Sent> {
        let mut waiting = self.waiting.borrow_mut();
        // At most QUERIES_PER_LEG of 65,536 ids are taken, so this ends.
        let id = std::iter::repeat_with(|| dice.roll() as u16)
            .find(|id| !waiting.contains_key(id))
            .expect("an endless iterator finds a free id");
        query[..2].copy_from_slice(&id.to_be_bytes());
        rustix::net::send(&self.socket, query, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        self.uses.set(self.uses.get() + 1);
        self.used.set(true);
        let (server, ear) = (hearing.0, hearing.1.clone());
        waiting.insert(id, Waiting { server, question: question.clone(), ear, answered: Cell::new(false) });
        Ok(Sent { leg: self.clone(), id })
    }

    /// Hands on what arrives until the socket is retired and idle. `buffer` is shared by all legs of the thread.
    pub(super) async fn read(self: Rc<Self>, buffer: &RefCell<Vec<u8>>, counters: &Counters) {
        loop {
            tokio::select! {
                ready = self.socket.ready(Interest::READABLE | Interest::ERROR) => match ready {
                    // An ICMP error is no data: epoll tells it as EPOLLERR alone.
                    Ok(ready) if !ready.is_error() => {}
                    Ok(_) | Err(_) => return self.refuse(counters),
                },
                () = self.closed.notified() => return,
            }
            let mut buffer = buffer.borrow_mut();
            loop {
                match self.socket.try_recv(&mut buffer) {
                    Ok(bytes) => self.deliver(&buffer[..bytes], counters),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return self.refuse(counters),
                }
            }
        }
    }

    fn deliver(&self, answer: &[u8], counters: &Counters) {
        let waiting = self.waiting.borrow();
        let id = answer.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id));
        let waits = waiting.get(&id).filter(|waits| !waits.answered.get());
        match waits.and_then(|waits| Some((waits, restore(answer, &waits.question)?))) {
            Some((waits, answer)) => {
                waits.answered.set(true);
                waits.ear.hear(waits.server, Heard::Answer(answer));
            }
            None => counters.event(Event::UpstreamMismatched),
        }
    }

    /// ICMP says that nobody listens there: all who wait may go on at once.
    fn refuse(&self, counters: &Counters) {
        self.retired.set(true);
        for (_, waits) in self.waiting.borrow_mut().drain() {
            counters.event(Event::UpstreamRefused);
            waits.ear.hear(waits.server, Heard::Refused);
        }
    }
}

/// A query on its way; dropping it stops the waiting for its answer.
pub(super) struct Sent {
    leg: Rc<Leg>,
    id: u16,
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut waiting = self.leg.waiting.borrow_mut();
        waiting.remove(&self.id);
        if self.leg.retired.get() && waiting.is_empty() {
            self.leg.closed.notify_one();
        }
    }
}

/// What a query hears from a server.
pub(super) enum Heard {
    Answer(Vec<u8>),
    Refused,
}

/// Where a query listens for all the servers that it has asked.
#[derive(Default)]
pub(super) struct Ear {
    heard: RefCell<VecDeque<(usize, Heard)>>,
    woken: Notify,
}

impl Ear {
    fn hear(&self, server: usize, what: Heard) {
        self.heard.borrow_mut().push_back((server, what));
        self.woken.notify_one();
    }

    /// The next word, and whose it is.
    pub(super) async fn next(&self) -> (usize, Heard) {
        loop {
            let heard = self.heard.borrow_mut().pop_front();
            match heard {
                Some(heard) => return heard,
                None => self.woken.notified().await,
            }
        }
    }
}

/// The answer, if it is one to this question, with the client's own spelling of the name: some servers fold it.
/// A server that understood nothing may answer with its header alone.
pub(super) fn restore(answer: &[u8], question: &[u8]) -> Option<Vec<u8>> {
    if answer.len() < HEADER_BYTES || answer[2] & 0xf8 != 0x80 {
        return None;
    }
    let questions = u16::from_be_bytes([answer[4], answer[5]]);
    if questions == 0 && answer.len() == HEADER_BYTES && answer[3] & 0x0f != rcode::NOERROR {
        return Some(answer.to_vec());
    }
    let theirs: Question = question_of(answer).filter(|_| questions == 1)?;
    let (name, fixed) = question.split_at(question.len() - 4);
    let same = theirs.name(answer).eq_ignore_ascii_case(name) && answer[theirs.end - 4..theirs.end] == *fixed;
    same.then(|| {
        let mut restored = answer.to_vec();
        restored[HEADER_BYTES..theirs.end].copy_from_slice(question);
        restored
    })
}

/// Numbers that nobody can foresee: SipHash of a counter under a key from the operating system.
#[derive(Default)]
pub(super) struct Dice {
    key: RandomState,
    rolled: Cell<u64>,
}

impl Dice {
    pub(super) fn roll(&self) -> u64 {
        self.rolled.set(self.rolled.get().wrapping_add(1));
        self.key.hash_one(self.rolled.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x07eXaMpLe\x03CoM\x00\x00\x01\x00\x01";

    fn answer(flags: [u8; 2], question: &[u8]) -> Vec<u8> {
        [b"\x12\x34", &flags[..], b"\0\x01\0\0\0\0\0\0", question].concat()
    }

    #[test]
    fn the_clients_spelling_comes_back_even_if_the_server_folds_it() {
        let folded = b"\x07example\x03com\x00\x00\x01\x00\x01";
        let restored = restore(&answer([0x81, 0x80], folded), QUESTION).unwrap();
        assert_eq!(restored, answer([0x81, 0x80], QUESTION));
    }

    #[test]
    fn what_answers_another_question_is_no_answer() {
        let https = b"\x07eXaMpLe\x03CoM\x00\x00\x41\x00\x01";
        let lower_half = b"\x07eXaMpLe\x03CoM\x00\x00\x61\x00\x01";
        assert!(restore(&answer([0x81, 0x80], lower_half), https).is_none(), "types do not fold");
        assert!(
            restore(&answer([0x81, 0x80], b"\x07example\x03org\x00\x00\x01\x00\x01"), QUESTION).is_none()
        );
        assert!(restore(&answer([0x01, 0x00], QUESTION), QUESTION).is_none(), "a query is no answer");
        assert!(restore(&answer([0x81, 0x80], QUESTION)[..20], QUESTION).is_none());
        assert!(restore(b"\x12\x34\x81\x81\0\0\0\0\0\0\0\0", QUESTION).is_some(), "a bare FORMERR is one");
        assert!(restore(b"\x12\x34\x81\x80\0\0\0\0\0\0\0\0", QUESTION).is_none(), "a bare NOERROR is none");
    }

    #[test]
    fn a_silent_server_is_avoided_and_tried_again_by_one_query() {
        let (server, now) = (Nameserver::new(([127, 0, 0, 1], 53).into()), Instant::now());
        for _ in 0..FAILURES_UNTIL_AVOIDED {
            assert!(!server.is_avoided(now));
            server.failed(now);
        }
        assert!(server.is_avoided(now));
        let later = now + AVOIDED_FOR;
        assert!(!server.is_avoided(later), "one query tries");
        assert!(server.is_avoided(later), "the others do not");
        server.answered();
        assert!(!server.is_avoided(later));
    }
}
