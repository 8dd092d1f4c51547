//! An HTTP client for the control plane's API: requests one after the other over one connection, answers whole, watches event by
//! event. Keeps: connects from inside of the namespace it is given; every wait has a deadline. Called by the tests of the
//! API.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::netns::Netns;

/// How long an answer may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(30);

/// A client of one server.
pub struct Http {
    runtime: Runtime,
    netns: Arc<Netns>,
    server: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The text of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Http {
    /// A client in `netns`; it connects with the first request.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(netns: Arc<Netns>, server: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime, netns, server, connection: None })
    }

    /// Sends a request with `Host` set, unless it has one.
    ///
    /// # Errors
    /// No connection, or no answer in time.
    pub fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let response = self.begin(request)?;
        let (parts, body) = response.into_parts();
        let body = self.runtime.block_on(async { timeout(ANSWER, body.collect()).await });
        let body = body.context("the answer does not end")?.context("the answer breaks off")?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    fn begin(&mut self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        if !request.headers().contains_key(HOST) {
            let host = self.server.to_string().parse().context("an address is no header")?;
            request.headers_mut().insert(HOST, host);
        }
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().with_context(|| format!("cannot connect to {}", self.server))?,
        };
        let answer = self.runtime.block_on(async {
            timeout(ANSWER, async {
                connection.ready().await?;
                connection.send_request(request).await
            })
            .await
        });
        let response = answer.context("no answer in time")?.context("no answer")?;
        self.connection = Some(connection);
        Ok(response)
    }

    fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let server = self.server;
        let stream = self.netns.run(move || -> io::Result<TcpStream> {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })?;
        self.runtime.block_on(async {
            let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
            let (sender, connection) = handshake(stream).await?;
            self.runtime.spawn(connection);
            Ok(sender)
        })
    }

    /// `GET`.
    ///
    /// # Errors
    /// See [`Self::send`].
    pub fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(Request::get(path).body(Full::default())?)
    }

    /// `PUT` of JSON.
    ///
    /// # Errors
    /// See [`Self::send`].
    pub fn put(&mut self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let request = Request::put(path).header(CONTENT_TYPE, "application/json");
        self.send(request.body(Full::from(body.to_string()))?)
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// See [`Self::send`].
    pub fn delete(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(Request::delete(path).body(Full::default())?)
    }

    /// Begins a watch on a connection of its own.
    ///
    /// # Errors
    /// It is refused.
    pub fn watch(&self, path: &str) -> anyhow::Result<Events> {
        let mut own = Self::new(self.netns.clone(), self.server)?;
        let response = own.begin(Request::get(path).body(Full::default())?)?;
        if response.status() != StatusCode::OK {
            bail!("{path} is answered with {}", response.status());
        }
        Ok(Events { http: own, body: response.into_body(), text: String::new() })
    }
}

/// A watch that goes on.
pub struct Events {
    http: Http,
    body: Incoming,
    text: String,
}

/// One event.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// `put`, `delete` or `synced`.
    pub name: String,
    pub data: Value,
}

impl Events {
    /// The next event; nothing at the end of the watch.
    ///
    /// # Errors
    /// None came in time, or what came is no event.
    pub fn next_event(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if !block.starts_with(':') {
                    return event(&block).map(Some);
                }
            }
            let frame = self.http.runtime.block_on(async { timeout(ANSWER, self.body.frame()).await });
            let Some(frame) = frame.context("no event in time")? else { return Ok(None) };
            if let Ok(piece) = frame.context("the watch breaks off")?.into_data() {
                self.text += std::str::from_utf8(&piece).context("a piece is no text")?;
            }
        }
    }

    /// Everything up to `synced`, which must come.
    ///
    /// # Errors
    /// See [`Self::next_event`].
    pub fn first(&mut self) -> anyhow::Result<Vec<Event>> {
        let mut first = Vec::new();
        loop {
            match self.next_event()? {
                Some(event) if event.name == "synced" => return Ok(first),
                Some(event) => first.push(event),
                None => bail!("the watch ended before it was in step"),
            }
        }
    }
}

fn event(block: &str) -> anyhow::Result<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    let name = field("event: ").with_context(|| format!("no event in {block:?}"))?.to_owned();
    let data = field("data: ").with_context(|| format!("no data in {block:?}"))?;
    Ok(Event { name, data: serde_json::from_str(data)? })
}
