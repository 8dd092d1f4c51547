//! Requests to a replica's API that may be left open: whoever was paused answers later, and until then nobody knows.
//! Called by clients.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use harness::netns::Netns;
use serde_json::{Value, json};

const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5681);
/// How long connecting may take inside of a namespace.
const CONNECT: Duration = Duration::from_secs(5);

/// A request that was sent.
pub(crate) struct Call {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What is known of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Status(u16),
    /// Not yet.
    Pending,
    /// Never.
    Lost,
}

impl Call {
    /// Sends a request from inside of the namespace.
    pub(crate) fn send(netns: &Netns, method: &str, path: &str, body: &str) -> io::Result<Self> {
        let mut stream = netns.run(|| TcpStream::connect_timeout(&API, CONNECT))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// The answer, waited for at most so long.
    pub(crate) fn answer(&mut self, limit: Duration) -> Answer {
        if self.stream.set_read_timeout(Some(limit)).is_err() {
            return Answer::Lost;
        }
        loop {
            let mut chunk = [0; 4_096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.status().map_or(Answer::Lost, Answer::Status),
                Ok(length) => self.received.extend(&chunk[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Answer::Pending;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.status().map_or(Answer::Lost, Answer::Status),
            }
        }
    }

    /// Of `HTTP/1.1 201 Created`.
    fn status(&self) -> Option<u16> {
        let line = std::str::from_utf8(self.received.get(..12)?).ok()?;
        line.strip_prefix("HTTP/1.1 ")?.parse().ok()
    }

    /// What was said, for a human.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// A service outside of the mesh with one VIP of each family, by its tag.
pub(crate) fn external(name: &str) -> (String, Value) {
    let body = json!({
        "type": "ExternalService", "mesh": "default", "name": name,
        "networking": {"address": "127.0.0.1:80", "disableHostDNSEntry": true},
        "tags": {"kuma.io/service": name, "kuma.io/protocol": "tcp"},
    });
    (format!("/meshes/default/external-services/{name}"), body)
}

/// A service of the mesh, with a VIP of each family from the pool of its kind.
pub(crate) fn mesh_service(name: &str) -> Value {
    json!({
        "type": "MeshService", "mesh": "default", "name": name,
        "spec": {
            "ports": [{"appProtocol": "tcp", "port": 80, "targetPort": 80}],
            "selector": {"dataplaneTags": {"kuma.io/service": name}},
        },
    })
}
