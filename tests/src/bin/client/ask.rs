//! The two questions of an application: what is the address, and who answers there. Called by load and watch.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

/// Any nameserver: the datapath takes port 53 wherever it goes (RFC 5737: nobody is there).
const NAMESERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 53), 53);
/// Longest wait for an answer of either kind.
const PATIENCE: Duration = Duration::from_secs(10);

/// The A record of a name, if it has one.
pub(crate) fn address(name: &str) -> anyhow::Result<Option<Ipv4Addr>> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(format!("{name}."))?, RecordType::A));
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(NAMESERVER)?;
    socket.send(&query.to_vec()?)?;
    let mut buffer = [0; 1232];
    let length = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(&buffer[..length])?;
    Ok(answer.answers.iter().find_map(|record| match &record.data {
        RData::A(a) => Some(a.0),
        _ => None,
    }))
}

/// One HTTP request on a connection of its own; the body.
pub(crate) fn get(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: client\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if head.starts_with("HTTP/1.1 200 ") {
        return Ok(body.to_owned());
    }
    Err(std::io::Error::other(head.lines().next().unwrap_or("an empty answer").to_owned()))
}

/// Connects and asks.
pub(crate) fn visit(vip: IpAddr) -> std::io::Result<String> {
    get(TcpStream::connect_timeout(&SocketAddr::new(vip, 80), PATIENCE)?)
}
