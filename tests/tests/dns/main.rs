//! The resolver through real sockets and real stubs, before a datapath comes into play: mesh names ([`mesh`]), everything else
//! ([`forwarding`]: also when nameservers are slow, dead, false or not there), and TCP ([`tcp`]).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod forwarding;
mod mesh;
mod tcp;

use std::net::IpAddr;

use harness::resolver::Resolver;
use harness::upstream::Upstream;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use kuma_dns::model::view::Addresses;

/// Kuma's own spelling of a service, and one that has no IPv6 address.
const REDIS: &str = "redis_cache_svc_6379.mesh";
const FOUR: &str = "four.only.mesh";
const UPSTREAM: &str = "127.0.0.53";

fn names() -> [(&'static str, Addresses); 2] {
    let both =
        Addresses { v4: Some("240.0.0.1".parse().unwrap()), v6: Some("fd00:fd00::1".parse().unwrap()) };
    [(REDIS, both), (FOUR, Addresses { v4: Some("240.0.0.2".parse().unwrap()), v6: None })]
}

fn resolver(nameservers: &[&str]) -> Resolver {
    Resolver::start(&names(), nameservers).unwrap()
}

fn upstream(resolver: &Resolver, ip: &str) -> Upstream {
    let ip: IpAddr = ip.parse().unwrap();
    resolver.netns.run(|| Upstream::start(ip)).unwrap()
}

fn query(id: u16, name: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), qtype));
    message.to_vec().unwrap()
}

fn ask(resolver: &Resolver, name: &str, qtype: RecordType) -> Message {
    Message::from_bytes(&resolver.exchange(&query(7, name, qtype)).unwrap()).unwrap()
}

/// The one A record of an answer, which names the server that gave it.
fn answered_by(answer: &Message) -> String {
    match answer.answers.as_slice() {
        [record] => match &record.data {
            RData::A(ip) => ip.to_string(),
            RData::AAAA(ip) => ip.to_string(),
            other => panic!("{other:?}"),
        },
        other => panic!("{:?}: {other:?}", answer.metadata.response_code),
    }
}
