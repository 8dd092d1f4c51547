//! The outside world's nameserver in a world: it knows no name at all. Keeps: an answer comes at once, so that a name which
//! left the mesh is seen to be gone without waiting for a timeout. Called by world.

use std::net::UdpSocket;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Bytes of a DNS header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// QR and RA; RCODE 3 is NXDOMAIN.
const RESPONSE: u8 = 0x80;
const AVAILABLE_NXDOMAIN: u8 = 0x83;

/// A running nameserver; dropping it closes its port.
pub struct Nameserver(JoinHandle<()>);

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Nameserver {
    /// Answers every question that comes to the socket.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn serve(runtime: &Handle, socket: UdpSocket) -> anyhow::Result<Self> {
        socket.set_nonblocking(true)?;
        let _inside = runtime.enter();
        let socket = tokio::net::UdpSocket::from_std(socket).context("no nameserver")?;
        let task = runtime.spawn(async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                if let Some(answer) = unknown(&question[..length]) {
                    // A client that is gone asks no more.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self(task))
    }
}

/// The question with the answer "no such name"; nothing for what is no question.
fn unknown(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = HEADER;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(question[end]);
    }
    // The root label, type and class.
    let mut answer = question.get(..end + 5)?.to_vec();
    answer[2] = RESPONSE | (question[2] & 0x01);
    answer[3] = AVAILABLE_NXDOMAIN;
    // One question, and nothing in the other sections.
    answer[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    Some(answer)
}
