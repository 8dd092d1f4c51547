//! The agent's Unix socket: `exec`, `status` and `vips` ask here. One request line, one answer line.
//! Keeps: only root may ask; a socket that somebody answers on is never taken away; requests, clients and waits have limits.
//! Started by agent/mod.rs.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::agent::status::Board;
use crate::rt::Drain;
use crate::wire::local::{Answer, REQUEST_BYTES_MAX, Request};

/// How long a client may take for its request and for reading the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients at once; one more is hung up on.
const CLIENTS: usize = 64;
/// Pause after accept failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Owner and group may ask.
const SOCKET_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o755;
/// `<run>/kuma-dns/<instance>/agent.sock`: two folders of it are ours.
const OWN_FOLDERS: usize = 2;

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("an agent is running already, it answers on {}: end it first, or take another --instance", socket.display())]
    Running { socket: PathBuf },
    #[error("cannot make the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot listen on {}", socket.display())]
    Listen { socket: PathBuf, source: io::Error },
}

/// The socket, listening; removed when this is dropped.
pub struct Desk {
    listener: UnixListener,
    socket: PathBuf,
}

impl Desk {
    /// Listens. What a killed agent left is replaced; the new socket appears with its final permissions.
    ///
    /// # Errors
    /// Another agent answers there, or the path is not usable.
    pub fn open(socket: &Path) -> Result<Self, EnrolError> {
        let failed = |source| EnrolError::Listen { socket: socket.into(), source };
        if let Some(path) = socket.parent() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
            made.map_err(|source| EnrolError::Directory { path: path.into(), source })?;
        }
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return Err(EnrolError::Running { socket: socket.into() });
        }
        let fresh = socket.with_extension(format!("{}", std::process::id()));
        let _left_by_an_earlier_process = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        std::fs::rename(&fresh, socket).map_err(failed)?;
        Ok(Self { listener, socket: socket.into() })
    }

    /// Answers until the drain is asked for.
    ///
    /// # Errors
    /// None: what goes wrong with one client is that client's.
    pub async fn run(self, board: Arc<Board>, drain: Drain) -> Result<(), EnrolError> {
        let mut clients = FuturesUnordered::new();
        loop {
            tokio::select! {
                stream = self.accept() => {
                    if clients.len() < CLIENTS {
                        clients.push(timeout(CLIENT_TIMEOUT, serve(stream, board.clone())));
                    } else {
                        warn!(clients = CLIENTS, "too many clients on the agent's socket, hanging up");
                    }
                }
                Some(served) = clients.next(), if !clients.is_empty() => match served {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "client of the agent's socket"),
                    Err(_elapsed) => debug!("a client of the agent's socket took too long"),
                },
                () = drain.requested() => return Ok(()),
            }
        }
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    warn!(%error, "cannot accept a client on the agent's socket");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.socket) {
            debug!(%error, socket = %self.socket.display(), "the agent's socket was gone already");
        }
    }
}

/// Removes the folder of the instance and that of all instances, as far as nothing else is in them.
pub(super) fn remove_folders(socket: &Path) {
    for folder in socket.ancestors().skip(1).take(OWN_FOLDERS) {
        let _not_empty = std::fs::remove_dir(folder);
    }
}

async fn serve(mut stream: UnixStream, board: Arc<Board>) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let limit = REQUEST_BYTES_MAX as u64 + 1;
    let read = BufReader::new(reader.take(limit)).read_line(&mut line).await;
    let mut answer = match read {
        Ok(_) if line.len() > REQUEST_BYTES_MAX => {
            refusal(format!("a request has at most {REQUEST_BYTES_MAX} bytes"))
        }
        // Counting the entries of a full map takes a while.
        Ok(_) => spawn_blocking(move || answer(&line, &board)).await?,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => refusal("a request is UTF-8".into()),
        Err(error) => return Err(error),
    };
    answer.push(b'\n');
    writer.write_all(&answer).await?;
    writer.shutdown().await
}

fn answer(line: &str, board: &Board) -> Vec<u8> {
    match serde_json::from_str(line) {
        Ok(Request::Enrol) => encode(&Answer::Ok(board.enrolment())),
        Ok(Request::Status) => encode(&Answer::Ok(board.status())),
        Ok(Request::Vips) => encode(&Answer::Ok(board.vips())),
        Err(error) => {
            refusal(format!("not a request that this agent ({}) knows: {error}", env!("CARGO_PKG_VERSION")))
        }
    }
}

fn refusal(why: String) -> Vec<u8> {
    encode(&Answer::<()>::Error(why))
}

fn encode<T: Serialize>(answer: &Answer<T>) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers are structs of strings, numbers and lists")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::dns::server::Shared;
    use crate::dns::zone::Zone;
    use crate::model::datapath::NetnsCookie;
    use crate::model::name::Hostname;
    use crate::model::view::MeshView;
    use crate::rt::Ready;
    use crate::wire::local::{Enrolment, Status};

    fn board() -> Arc<Board> {
        let view = MeshView::empty("default", Hostname::parse("mesh").unwrap());
        Arc::new(Board {
            instance: "test".parse().unwrap(),
            started: Instant::now(),
            ready: Ready::default(),
            netns: NetnsCookie(7),
            netns_path: "/proc/1/ns/net".into(),
            workloads_cgroup: "/cg/workloads".into(),
            proxy_cgroup: "/cg/proxy".into(),
            view_name: "default".into(),
            listen: Vec::new(),
            resolver: Arc::new(Shared::new(Zone::new(&view))),
            datapath: Box::new(Default::default),
            proxy: Box::new(|| None),
            version: Box::new(String::new),
            source: Box::new(Default::default),
            control_plane: None,
            applied: Arc::default(),
        })
    }

    /// Sends `request` to a desk and returns the line it answers with.
    async fn ask(request: &[u8], board: Arc<Board>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kuma-dns/test/agent.sock");
        let desk = Desk::open(&socket).unwrap();
        let (trigger, drain) = Drain::pair();
        let client = async {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            trigger.request();
            answer
        };
        let (served, answer) = tokio::join!(desk.run(board, drain), client);
        served.unwrap();
        assert!(!socket.exists(), "the socket goes with the agent");
        remove_folders(&socket);
        assert!(
            !dir.path().join("kuma-dns").exists() && dir.path().exists(),
            "our folders go, and no others"
        );
        answer
    }

    #[tokio::test]
    async fn a_client_hears_what_is_awaited() {
        let board = board();
        let _awaited = board.ready.wait_for("the first view");
        let answer: Answer<Enrolment> =
            serde_json::from_str(&ask(b"{\"verb\":\"enrol\"}\n", board.clone()).await).unwrap();
        let Answer::Ok(enrolment) = answer else { panic!("{answer:?}") };
        assert!(!enrolment.ready);
        assert_eq!(enrolment.awaited, ["the first view"]);
        let answer: Answer<Status> =
            serde_json::from_str(&ask(b"{\"verb\":\"status\"}\n", board.clone()).await).unwrap();
        assert!(matches!(answer, Answer::Ok(status) if status.instance == "test"));
    }

    #[tokio::test]
    async fn a_bad_request_is_refused_in_words() {
        for (request, words) in [
            (&b"{\"verb\":\"dance\"}\n"[..], "not a request that this agent"),
            (b"\xff\xfe\n", "UTF-8"),
            (&[b'x'; REQUEST_BYTES_MAX + 1], "at most"),
        ] {
            let answer = ask(request, board()).await;
            assert!(answer.contains("\"error\"") && answer.contains(words), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kuma-dns/test/agent.sock");
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists(), "a killed agent leaves its socket");
        let desk = Desk::open(&socket).unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        assert!(matches!(Desk::open(&socket), Err(EnrolError::Running { .. })));
        assert!(socket.exists(), "the refused one takes nothing away");
        drop(desk);
    }
}
