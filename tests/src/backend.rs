//! Services to be reached: small HTTP/1.1 and line servers that name themselves in every answer, so that a test or the
//! demo sees who served it. Keeps: they listen in the namespace of the thread that starts them. Called by world.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

/// Largest request head that is read; the tests' requests are far smaller.
const HEAD_BYTES: usize = 8 * 1024;

/// What a backend speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// HTTP/1.1 with keep-alive; the body is `<service> at <address> asked as <Host header>`.
    Http,
    /// One greeting line `<service> at <address>`, then everything that comes in goes back.
    Tcp,
}

/// The threads that serve all backends of a world; they end with it.
pub struct Backends {
    runtime: Runtime,
}

/// One running backend; dropping it closes its port.
pub struct Backend {
    task: JoinHandle<()>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backends {
    /// Room for any number of backends on one thread.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime })
    }

    /// Where other servers of the same world can run.
    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Starts a backend of `service` on a socket that already listens.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn serve(&self, service: &str, speaks: Speaks, listener: TcpListener) -> anyhow::Result<Backend> {
        let address = listener.local_addr().context("a listener has an address")?;
        listener.set_nonblocking(true)?;
        let _inside = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let name = format!("{service} at {address}");
        let task = self.runtime.spawn(accept(listener, name, speaks, self.runtime.handle().clone()));
        Ok(Backend { task, address })
    }
}

/// Accepts until the backend is dropped; its connections live on until their peer ends them.
async fn accept(listener: tokio::net::TcpListener, name: String, speaks: Speaks, handle: Handle) {
    while let Ok((stream, _)) = listener.accept().await {
        let name = name.clone();
        handle.spawn(async move {
            // A client that goes away in the middle is not the backend's failure.
            let _ = match speaks {
                Speaks::Http => http(stream, &name).await,
                Speaks::Tcp => line(stream, &name).await,
            };
        });
    }
}

async fn http(mut stream: tokio::net::TcpStream, name: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if head.len() > HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&head[..end]).into_owned();
        head.drain(..end);
        let host = text
            .lines()
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case("host")));
        let body = format!("{name} asked as {}\n", host.map_or("nobody", |(_, value)| value.trim()));
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn line(mut stream: tokio::net::TcpStream, name: &str) -> std::io::Result<()> {
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    Ok(())
}
