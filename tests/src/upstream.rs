//! A nameserver that does what the name asked tells it to, and remembers every octet it heard and said.
//! Keeps: its threads end with it. Called by tests of the resolver.
//!
//! The first label of the name is the script: `silent`, `servfail`, `refused`, `nxdomain`, `slow` (answers late), `big` (cut
//! over UDP, 4 KB over TCP), `forged` (two forgeries before the answer), `fold` (spells the question in lower case); every
//! other name has the server's own address as its A record, so that a test sees who answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

/// How often a thread looks whether it is to end.
const STOP_POLL: Duration = Duration::from_millis(20);
/// How late `slow` is: later than the resolver's patience with one server, earlier than its deadline.
pub const SLOW: Duration = Duration::from_millis(1_500);
/// What `big` has over TCP.
pub const BIG_BYTES: usize = 4_096;
/// Room for thousands of queries at once.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// TTL of everything it says.
const TTL: u32 = 300;

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    Udp,
    Tcp,
}

/// One query and all that was said to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    pub over: Over,
    pub from: SocketAddr,
    pub heard: Vec<u8>,
    pub said: Vec<Vec<u8>>,
}

/// The nameserver.
pub struct Upstream {
    log: Arc<Mutex<Vec<Exchange>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    /// Listens on `ip`, port 53, in the namespace of the calling thread.
    ///
    /// # Errors
    /// The port is taken, or the address not there.
    pub fn start(ip: IpAddr) -> anyhow::Result<Self> {
        let at = SocketAddr::new(ip, 53);
        let (udp, tcp) = (UdpSocket::bind(at)?, TcpListener::bind(at)?);
        // A burst of a test must not be lost here; root may go beyond net.core.rmem_max.
        setsockopt(&udp, RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        udp.set_read_timeout(Some(STOP_POLL))?;
        tcp.set_nonblocking(true)?;
        let (log, stop) = (Arc::<Mutex<Vec<Exchange>>>::default(), Arc::<AtomicBool>::default());
        let desk = Desk { ip, log: log.clone(), stop: stop.clone() };
        let other = desk.clone();
        let threads = vec![
            std::thread::spawn(move || desk.serve_udp(&udp)),
            std::thread::spawn(move || other.serve_tcp(&tcp)),
        ];
        Ok(Self { log, stop, threads })
    }

    /// Everything so far.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.exchanges().iter().filter(|exchange| asked_name(&exchange.heard) == Some(name.into())).count()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// The name of a query in lower case, without the final dot.
fn asked_name(query: &[u8]) -> Option<String> {
    let query = Message::from_bytes(query).ok()?;
    Some(query.queries.first()?.name().to_ascii().trim_end_matches('.').to_ascii_lowercase())
}

fn is_slow(query: &[u8]) -> bool {
    asked_name(query).is_some_and(|name| name.starts_with("slow"))
}

#[derive(Clone)]
struct Desk {
    ip: IpAddr,
    log: Arc<Mutex<Vec<Exchange>>>,
    stop: Arc<AtomicBool>,
}

impl Desk {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 65_535];
        let (late, due) = std::sync::mpsc::channel::<(Instant, Vec<Vec<u8>>, SocketAddr)>();
        let send =
            |answers: &[Vec<u8>], to| answers.iter().for_each(|answer| drop(socket.send_to(answer, to)));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for (at, answers, to) in due {
                    sleep(at.saturating_duration_since(Instant::now()));
                    send(&answers, to);
                }
            });
            while !self.stopped() {
                let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
                let heard = buffer[..bytes].to_vec();
                let said = script(&heard, Over::Udp, self.ip);
                // Remembered first: who has the answer may look into the log.
                let exchange = Exchange { over: Over::Udp, from, heard, said };
                let (said, slow) = (exchange.said.clone(), is_slow(&exchange.heard));
                self.remember(exchange);
                if slow {
                    let _ended = late.send((Instant::now() + SLOW, said, from));
                } else {
                    send(&said, from);
                }
            }
            drop(late);
        });
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        let mut clients: Vec<JoinHandle<()>> = Vec::new();
        while !self.stopped() {
            match listener.accept() {
                Ok((stream, from)) => {
                    let desk = self.clone();
                    clients.push(std::thread::spawn(move || {
                        let _hung_up = desk.serve_connection(stream, from);
                    }));
                }
                Err(_) => sleep(STOP_POLL),
            }
        }
        clients.into_iter().for_each(|thread| drop(thread.join()));
    }

    fn serve_connection(&self, mut stream: TcpStream, from: SocketAddr) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(STOP_POLL))?;
        let mut length = [0; 2];
        loop {
            match stream.read_exact(&mut length) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.stopped() => continue,
                other => other?,
            }
            let mut heard = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut heard)?;
            let said = script(&heard, Over::Tcp, self.ip);
            self.remember(Exchange { over: Over::Tcp, from, heard: heard.clone(), said: said.clone() });
            let exchange = Exchange { over: Over::Tcp, from, heard, said };
            let (said, slow) = (exchange.said.clone(), is_slow(&exchange.heard));
            self.remember(exchange);
            if slow {
                sleep(SLOW);
            }
            for answer in &said {
                let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
                stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())?;
            }
        }
    }

    fn remember(&self, exchange: Exchange) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }
}

/// What to say; several messages are sent one after the other.
fn script(heard: &[u8], over: Over, ip: IpAddr) -> Vec<Vec<u8>> {
    let Ok(query) = Message::from_bytes(heard) else { return Vec::new() };
    let Some(question) = query.queries.first() else { return Vec::new() };
    let name = question.name().clone();
    let label = asked_name(heard).unwrap_or_default();
    let label = label.split('.').next().unwrap_or_default();
    let mut answer = query.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    match label {
        "silent" => return Vec::new(),
        "servfail" => answer.metadata.response_code = ResponseCode::ServFail,
        "refused" => answer.metadata.response_code = ResponseCode::Refused,
        "nxdomain" => answer.metadata.response_code = ResponseCode::NXDomain,
        "big" if over == Over::Udp => answer.metadata.truncation = true,
        "big" => {
            let texts = vec!["x".repeat(255); BIG_BYTES.div_ceil(256)];
            answer.add_answer(Record::from_rdata(name, TTL, RData::TXT(TXT::new(texts))));
        }
        _ => match (question.query_type(), ip) {
            (RecordType::A, IpAddr::V4(ip)) => {
                answer.add_answer(Record::from_rdata(name, TTL, RData::A(ip.into())));
            }
            (RecordType::AAAA, IpAddr::V6(ip)) => {
                answer.add_answer(Record::from_rdata(name, TTL, RData::AAAA(ip.into())));
            }
            _ => {}
        },
    }
    let Ok(octets) = answer.to_vec() else { return Vec::new() };
    match label {
        "forged" => vec![forged_id(&octets), forged_question(&answer), octets],
        "fold" => vec![folded(octets)],
        _ => vec![octets],
    }
}

fn forged_id(answer: &[u8]) -> Vec<u8> {
    let mut forged = answer.to_vec();
    forged[0] ^= 0x55;
    forged
}

fn forged_question(answer: &Message) -> Vec<u8> {
    let mut forged = answer.clone();
    if let (Some(question), Ok(name)) = (forged.queries.first_mut(), Name::from_ascii("evil.example.")) {
        question.set_name(name);
    }
    forged.to_vec().unwrap_or_default()
}

/// The question's name in lower case, as a few servers send it back.
fn folded(mut answer: Vec<u8>) -> Vec<u8> {
    let end = answer[12..].iter().position(|&octet| octet == 0).map_or(answer.len(), |length| 12 + length);
    answer[12..end].make_ascii_lowercase();
    answer
}
