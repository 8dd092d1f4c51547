//! Writes to a control plane over one connection, as a program would that waits for each answer. Keeps: nothing but sockets,
//! so that it also works in a forked process. Called by bench-cp and by tests of many services.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::netns::Netns;

/// Kuma's port of the REST server.
const PORT: u16 = 5681;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// One connection.
pub struct Rest {
    stream: BufReader<TcpStream>,
}

impl Rest {
    /// Connects in another namespace.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(netns: &Netns) -> Result<Self> {
        netns.run(Self::here)
    }

    /// Connects in the namespace of the calling thread.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn here() -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("nobody serves REST")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Puts a Dataplane that is the one instance of a service of the same name.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub fn put_service(&mut self, name: &str, instance: SocketAddr) -> Result<()> {
        let body = json!({ "type": "Dataplane", "mesh": "default", "name": name, "networking": {
            "address": instance.ip(),
            "inbound": [{ "port": instance.port(), "tags": { "kuma.io/service": name } }] } });
        let path = dataplane(name);
        let (status, answer) = self.ask("PUT", &path, &body.to_string())?;
        ensure!(status == 200 || status == 201, "{path}: {status} {answer}");
        Ok(())
    }

    /// Deletes such a Dataplane, and the service with it.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub fn delete_service(&mut self, name: &str) -> Result<()> {
        let path = dataplane(name);
        let (status, answer) = self.ask("DELETE", &path, "")?;
        ensure!(status == 200, "{path}: {status} {answer}");
        Ok(())
    }

    /// The addresses of a service's VIP; nothing while there is none.
    ///
    /// # Errors
    /// No answer, or one that says neither.
    pub fn vip(&mut self, name: &str) -> Result<Option<Value>> {
        let (status, answer) = self.ask("GET", &format!("/meshes/default/vips/{name}"), "")?;
        if status == 404 {
            return Ok(None);
        }
        ensure!(status == 200, "{status} {answer}");
        Ok(Some(serde_json::from_str(&answer)?))
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line).context("no answer")?;
        let status = line.split(' ').nth(1).context("no status")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok((status, String::from_utf8(answer)?))
    }
}

fn dataplane(name: &str) -> String {
    format!("/meshes/default/dataplanes/{name}")
}
