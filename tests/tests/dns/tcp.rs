//! DNS over TCP: several queries per connection, pieces, nonsense, many clients.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use harness::resolver::{PORT, Resolver};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinDecodable;

use crate::{REDIS, UPSTREAM, answered_by, query, resolver, upstream};

fn tcp(resolver: &Resolver) -> TcpStream {
    let stream = resolver.netns.run(|| TcpStream::connect(("127.0.0.1", PORT))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn send_tcp(stream: &mut TcpStream, query: &[u8]) {
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, query].concat()).unwrap();
}

fn receive_tcp(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_bytes(&answer).unwrap()
}

#[test]
fn one_tcp_connection_carries_many_queries_and_mesh_answers_do_not_wait() {
    let resolver = resolver(&[UPSTREAM]);
    let _upstream = upstream(&resolver, UPSTREAM);
    let mut stream = tcp(&resolver);
    send_tcp(&mut stream, &query(1, "slow.example", RecordType::A));
    send_tcp(&mut stream, &query(2, REDIS, RecordType::A));
    send_tcp(&mut stream, &query(3, "quick.example", RecordType::A));
    stream.shutdown(Shutdown::Write).unwrap();
    let ids: Vec<u16> = (0..3).map(|_| receive_tcp(&mut stream).metadata.id).collect();
    assert_eq!(
        ids,
        [2, 3, 1],
        "in the order in which they were ready, also to a client that has closed its half"
    );
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "then the connection is closed");
}

#[test]
fn a_tcp_query_may_come_in_pieces_and_nonsense_is_answered_in_kind() {
    let resolver = resolver(&[]);
    let mut stream = tcp(&resolver);
    let asked = query(4, REDIS, RecordType::A);
    let framed = [&u16::try_from(asked.len()).unwrap().to_be_bytes(), asked.as_slice()].concat();
    for octet in framed {
        stream.write_all(&[octet]).unwrap();
    }
    assert_eq!(answered_by(&receive_tcp(&mut stream)), "240.0.0.1");
    let mut two_questions = query(5, REDIS, RecordType::A);
    two_questions[5] = 2;
    send_tcp(&mut stream, &two_questions);
    assert_eq!(receive_tcp(&mut stream).metadata.response_code, ResponseCode::FormErr);
    send_tcp(&mut stream, b"short");
    send_tcp(&mut stream, &asked);
    assert_eq!(receive_tcp(&mut stream).metadata.id, 4, "a message without a header gets no answer");
}

#[test]
fn hundreds_of_tcp_clients_are_served_at_once() {
    let resolver = resolver(&[]);
    let mut streams: Vec<TcpStream> = (0..300).map(|_| tcp(&resolver)).collect();
    for stream in streams.iter_mut().rev() {
        send_tcp(stream, &query(6, REDIS, RecordType::A));
        assert_eq!(answered_by(&receive_tcp(stream)), "240.0.0.1");
    }
}

#[test]
fn a_zone_transfer_is_refused_and_not_cut_after_its_first_message() {
    let resolver = resolver(&[UPSTREAM]);
    let upstream = upstream(&resolver, UPSTREAM);
    let mut stream = tcp(&resolver);
    for name in ["example", REDIS] {
        send_tcp(&mut stream, &query(9, name, RecordType::AXFR));
        assert_eq!(receive_tcp(&mut stream).metadata.response_code, ResponseCode::Refused, "{name}");
    }
    assert!(upstream.exchanges().is_empty());
}
