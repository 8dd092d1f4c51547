//! Writes to a control plane over one connection, as a program would that waits for each answer. Called by system and fan_out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::netns::Netns;
use serde_json::{Value, json};

/// Kuma's port of the REST server.
const PORT: u16 = 5681;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Rest {
    stream: BufReader<TcpStream>,
}

impl Rest {
    pub(crate) fn connect(netns: &Netns) -> Result<Self> {
        let stream = netns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)));
        let stream = stream.context("nobody serves REST")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Puts a Dataplane that is the one instance of a service of the same name.
    pub(crate) fn put_service(&mut self, name: &str, port: u16) -> Result<()> {
        let body = json!({ "type": "Dataplane", "mesh": "default", "name": name, "networking": {
            "address": "127.0.0.1", "inbound": [{ "port": port, "tags": { "kuma.io/service": name } }] } });
        let path = format!("/meshes/default/dataplanes/{name}");
        let (status, answer) = self.ask("PUT", &path, &body.to_string())?;
        ensure!(status == 200 || status == 201, "{path}: {status} {answer}");
        Ok(())
    }

    /// The addresses of a service's VIP; nothing while there is none.
    pub(crate) fn vip(&mut self, name: &str) -> Result<Option<Value>> {
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
