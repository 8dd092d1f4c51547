//! A connection whose peer must take what he is sent within a time. Keeps: who does not read holds nothing for ever; who reads
//! slowly is left alone. Called by rest::server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The connection, and since when a write waits.
pub(super) struct Unstalled<Io> {
    io: Io,
    /// How long the peer may take nothing of what waits for him.
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<Io> Unstalled<Io> {
    pub(super) fn new(io: Io, limit: Duration) -> Self {
        Self { io, limit, waiting: None }
    }

    /// Passes on what a write came to; one that waits too long has failed.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Unstalled<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Unstalled<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than a pipe of this test holds.
    const MUCH: [u8; 64] = [7; 64];

    #[tokio::test]
    async fn who_reads_nothing_is_let_go_and_who_reads_gets_everything() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let stalled = Unstalled::new(ours, Duration::from_millis(10)).write_all(&MUCH).await;
        assert_eq!(stalled.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Unstalled::new(ours, Duration::from_secs(60));
        let mut got = [0; MUCH.len()];
        let (written, read) = tokio::join!(ours.write_all(&MUCH), theirs.read_exact(&mut got));
        assert_eq!((written.unwrap(), read.unwrap(), got), ((), MUCH.len(), MUCH));
    }
}
