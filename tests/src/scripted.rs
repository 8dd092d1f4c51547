//! An HTTP server that says what a test tells it to: for answers that a healthy control plane gives rarely or never.
//! Keeps: every request is remembered with the connection that it came on; it is gone with its guard. Called by the client
//! suite.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

/// How long a connection may be idle before its thread looks whether the server still stands.
const LOOK: Duration = Duration::from_millis(50);

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Of the header `Authorization`; empty without.
    pub authorization: String,
    pub body: String,
    /// Counted from 0.
    pub connection: usize,
}

/// What is said.
pub enum Reply {
    /// Status, headers (`name: value`) and body.
    Whole(u16, Vec<String>, String),
    /// Pieces of an event stream; then the connection is closed.
    Events(Vec<String>),
    /// Pieces of an event stream that stays open.
    OpenEvents(Vec<String>),
    /// The connection is closed without a word.
    Nothing,
}

impl Reply {
    /// JSON with a status.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::Whole(status, vec!["content-type: application/json".into()], body.to_string())
    }
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A running server on loopback of the test's own namespace.
pub struct Scripted {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    accepts: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Answers with `script` until it is dropped.
    ///
    /// # Errors
    /// No port.
    pub fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port")?;
        let address = listener.local_addr()?;
        let (asked, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let script: Arc<Script> = Arc::new(script);
        let (kept, stop) = (asked.clone(), ended.clone());
        let accepts = std::thread::spawn(move || {
            let count = AtomicUsize::new(0);
            std::thread::scope(|threads| {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let connection = count.fetch_add(1, Ordering::Relaxed);
                    let (script, kept, stop) = (&script, &kept, &stop);
                    // A client that goes away in the middle is what clients do.
                    threads.spawn(move || serve(stream, connection, &**script, kept, stop).ok());
                }
            });
        });
        Ok(Self { address, asked, ended, accepts: Some(accepts) })
    }

    /// Where it is, for `--address`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that was asked, in the order of arrival.
    ///
    /// # Panics
    /// A script panicked.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no script panicked").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        let _ = self.accepts.take().map(JoinHandle::join);
    }
}

fn serve(
    stream: TcpStream,
    connection: usize,
    script: &Script,
    kept: &Mutex<Vec<Asked>>,
    ended: &AtomicBool,
) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(asked) = read(&mut reader, connection, ended)? {
        kept.lock().expect("no script panicked").push(asked.clone());
        match script(&asked) {
            Reply::Whole(status, headers, body) => answer(&stream, status, &headers, &body)?,
            Reply::Events(pieces) => return events(&stream, &pieces),
            Reply::OpenEvents(pieces) => {
                events(&stream, &pieces)?;
                while !ended.load(Ordering::Acquire) {
                    std::thread::park_timeout(LOOK);
                }
                return Ok(());
            }
            Reply::Nothing => return Ok(()),
        }
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, status: u16, headers: &[String], body: &str) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        head.push_str(&format!("{header}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())
}

fn events(mut stream: &TcpStream, pieces: &[String]) -> anyhow::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    for piece in pieces {
        stream.write_all(piece.as_bytes())?;
    }
    Ok(())
}

/// The next request of a connection; nothing at its end.
fn read(
    reader: &mut BufReader<TcpStream>,
    connection: usize,
    ended: &AtomicBool,
) -> anyhow::Result<Option<Asked>> {
    let Some(first) = line(reader, ended)? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut length, mut authorization) = (0, String::new());
    while let Some(header) = line(reader, ended)?.filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(':').context("a header without a colon")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "authorization" => value.trim().clone_into(&mut authorization),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Asked { method, path, authorization, body: String::from_utf8(body)?, connection }))
}

fn line(reader: &mut BufReader<TcpStream>, ended: &AtomicBool) -> anyhow::Result<Option<String>> {
    let mut text = Vec::new();
    loop {
        match reader.read_until(b'\n', &mut text) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(String::from_utf8(text)?.trim_end().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if ended.load(Ordering::Acquire) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
