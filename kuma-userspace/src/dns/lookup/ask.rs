//! Asks nameservers for the addresses of one full name. Keeps: an answer that does not repeat id and question is not one;
//! a silent or broken nameserver costs its deadline and the next one is asked. Called by lookup.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dns::question::{self, CLASS_IN, HEADER_BYTES, Question, qtype, rcode};
use crate::dns::upstream::MAX_MESSAGE_BYTES;

/// How long one nameserver may take for one question.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// How often all nameservers are asked.
const ROUNDS: usize = 2;
/// Header bits: an answer, cut short.
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;

/// What the nameservers say about a name.
pub(super) enum Reply {
    /// IPv4 first; at least one.
    Addresses(Vec<IpAddr>),
    /// It has none, or does not exist.
    Nothing,
    /// No usable answer.
    Silence,
}

/// Asks for both families at once.
pub(super) async fn both_families(servers: &[SocketAddr], name: &str) -> Reply {
    let (v4, v6) = tokio::join!(one_family(servers, name, qtype::A), one_family(servers, name, qtype::AAAA));
    let silent = v4.is_none() || v6.is_none();
    let addresses: Vec<IpAddr> = v4.into_iter().chain(v6).flatten().collect();
    match (addresses.is_empty(), silent) {
        (false, _) => Reply::Addresses(addresses),
        (true, false) => Reply::Nothing,
        (true, true) => Reply::Silence,
    }
}

/// The addresses of one family; nothing when nobody gave a usable answer.
async fn one_family(servers: &[SocketAddr], name: &str, qtype: u16) -> Option<Vec<IpAddr>> {
    for _round in 0..ROUNDS {
        for server in servers {
            let query = query(name, qtype);
            let answer = timeout(ANSWER_DEADLINE, exchange(*server, &query)).await;
            if let Ok(Ok(answer)) = answer
                && let Some(addresses) = addresses(&answer, qtype)
            {
                return Some(addresses);
            }
        }
    }
    None
}

/// A query with an id that nobody can guess (RFC 5452): the standard library seeds its hash maps from the kernel.
fn query(name: &str, qtype: u16) -> Vec<u8> {
    let random = RandomState::new().hash_one(0).to_be_bytes();
    let mut query = vec![random[0], random[1], RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("labels have at most 63 octets: is_host_name checks"));
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&CLASS_IN.to_be_bytes());
    query
}

/// One question by UDP; by TCP as well when the answer did not fit.
async fn exchange(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let here: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(here).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if !answers(&buffer[..length], query) {
            continue;
        }
        if buffer[2] & TRUNCATED != 0 {
            return by_tcp(server, query).await;
        }
        buffer.truncate(length);
        return Ok(buffer);
    }
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).expect("a name has at most 253 octets: is_host_name checks");
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, query) { Ok(answer) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Is this message an answer to that query: the same id and the same question?
fn answers(message: &[u8], query: &[u8]) -> bool {
    let asked = question::question_of(query).expect("we wrote the query with one question");
    message.len() > HEADER_BYTES
        && message[..2] == query[..2]
        && message[2] & RESPONSE != 0
        && question::question_of(message).is_some_and(|repeated: Question| {
            repeated.octets(message).eq_ignore_ascii_case(asked.octets(query))
        })
}

/// The addresses in the answer section; nothing when the nameserver has failed or the message is broken.
fn addresses(message: &[u8], wanted: u16) -> Option<Vec<IpAddr>> {
    match message[3] & 0x0f {
        rcode::NOERROR => {}
        rcode::NXDOMAIN => return Some(Vec::new()),
        _ => return None,
    }
    let mut at = question::question_of(message)?.end;
    let mut found = Vec::new();
    // Every record takes at least 11 octets, so the message's own length bounds this loop.
    for _record in 0..question::u16_at(message, 6)? {
        let fixed = question::skip_name(message, at)?;
        let (rtype, class) = (question::u16_at(message, fixed)?, question::u16_at(message, fixed + 2)?);
        let length = usize::from(question::u16_at(message, fixed + 8)?);
        let data = message.get(fixed + 10..fixed + 10 + length)?;
        // The owner is the name or what its CNAMEs lead to: a resolver answers with the whole chain.
        if (rtype, class) == (wanted, CLASS_IN) {
            found.push(address(data)?);
        }
        at = fixed + 10 + length;
    }
    Some(found)
}

fn address(data: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(data) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(data).ok().map(|v6| Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::rdata::{A, AAAA, CNAME};
    use hickory_proto::rr::{Name, RData, Record};

    /// A nameserver that knows `cp.example` by way of an alias, and sends rubbish before each answer.
    fn answer_to(query: &[u8], truncated: bool) -> Vec<u8> {
        let asked = Message::from_vec(query).unwrap();
        let question = asked.queries[0].clone();
        let mut message = asked.clone();
        message.metadata.message_type = hickory_proto::op::MessageType::Response;
        let name = question.name().clone();
        let alias = Name::from_ascii("real.example.").unwrap();
        let record = |owner: &Name, data| Record::from_rdata(owner.clone(), 30, data);
        if name != Name::from_ascii("cp.example.").unwrap() {
            message.metadata.response_code = ResponseCode::NXDomain;
        } else if truncated {
            message.metadata.truncation = true;
        } else {
            message.answers.push(record(&name, RData::CNAME(CNAME(alias.clone()))));
            let data = match u16::from(question.query_type()) {
                qtype::A => RData::A(A::new(10, 0, 0, 7)),
                _ => RData::AAAA(AAAA("fd00::7".parse().unwrap())),
            };
            message.answers.push(record(&alias, data));
        }
        message.to_vec().unwrap()
    }

    async fn nameserver(truncated: bool) -> SocketAddr {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = tokio::net::TcpListener::bind(address).await.unwrap();
        let handle = tokio::runtime::Handle::current();
        handle.spawn(async move {
            let mut buffer = [0; 600];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let mut other = buffer[..length].to_vec();
                other[0] ^= 0xff;
                udp.send_to(&other, from).await.unwrap();
                udp.send_to(&answer_to(&buffer[..length], truncated), from).await.unwrap();
            }
        });
        handle.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let answer = answer_to(&query, false);
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        address
    }

    async fn ask(servers: &[SocketAddr], name: &str) -> Vec<String> {
        match both_families(servers, name).await {
            Reply::Addresses(found) => found.iter().map(ToString::to_string).collect(),
            Reply::Nothing => vec![],
            Reply::Silence => vec!["silence".into()],
        }
    }

    #[tokio::test]
    async fn aliases_are_followed_and_answers_to_others_are_not_taken() {
        let server = nameserver(false).await;
        assert_eq!(ask(&[server], "cp.example").await, ["10.0.0.7", "fd00::7"]);
        assert!(ask(&[server], "nobody.example").await.is_empty());
    }

    #[tokio::test]
    async fn a_dead_nameserver_is_passed_over_and_a_cut_answer_asked_again_by_tcp() {
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let server = nameserver(true).await;
        assert_eq!(ask(&[closed, server], "cp.example").await, ["10.0.0.7", "fd00::7"]);
        assert_eq!(ask(&[closed], "cp.example").await, ["silence"]);
    }

    #[test]
    fn no_octets_of_an_answer_are_read_outside_of_it() {
        let query = query("cp.example", qtype::A);
        let whole = answer_to(&query, false);
        assert_eq!(addresses(&whole, qtype::A).map(|found| found.len()), Some(1));
        for end in HEADER_BYTES..whole.len() {
            assert_eq!(addresses(&whole[..end], qtype::A), None, "cut at {end}");
        }
    }
}
