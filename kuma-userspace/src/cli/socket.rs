//! Asks the agent over its socket. Keeps: every question has a deadline, and an agent that is not there is said in words with
//! the next step. Called by exec, status, vips, cleanup and up.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::de::DeserializeOwned;

use crate::model::instance::Instance;
use crate::wire::local::{Answer, Enrolment, Request, Status, Vip};

use super::duration;
use super::outcome::{Code, Failure};
use super::paths::Paths;
use super::table;

/// How long one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Pause between two questions to an agent that is not ready.
const POLL: Duration = Duration::from_millis(20);
/// From here on a person wonders, and is told what is awaited.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error(
        "no agent of instance {instance} is running (nobody listens on {}): start one with `kuma-dns up -f mesh.yaml` or `kuma-dns agent`, or name another with --instance",
        socket.display()
    )]
    NotRunning { instance: Instance, socket: PathBuf },
    #[error("no right to ask the agent on {}: run this as root", socket.display())]
    NotAllowed { socket: PathBuf, source: std::io::Error },
    #[error("the agent on {} did not answer", socket.display())]
    Io { socket: PathBuf, source: std::io::Error },
    #[error("the agent on {} answered in another language: is it of another version?", socket.display())]
    Language { socket: PathBuf, source: serde_json::Error },
    #[error("the agent on {} runs in another pid namespace: end it there first", socket.display())]
    Elsewhere { socket: PathBuf },
    #[error("the agent refused: {0}")]
    Refused(String),
    #[error("not ready after {}: waiting for {}", duration::human(*waited), list(awaited))]
    NotReady { waited: Duration, awaited: Vec<String> },
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        let code = match error {
            SocketError::NotRunning { .. } | SocketError::NotReady { .. } => Code::NotReady,
            SocketError::NotAllowed { .. } => Code::NotSupported,
            SocketError::Io { .. }
            | SocketError::Language { .. }
            | SocketError::Elsewhere { .. }
            | SocketError::Refused(_) => Code::Failed,
        };
        Self::new(code, error.into())
    }
}

fn list(awaited: &[String]) -> String {
    if awaited.is_empty() { "the agent".into() } else { awaited.join(", ") }
}

/// Everything about the running agent.
pub(super) fn status(paths: &Paths) -> Result<Status, SocketError> {
    ask(paths, Request::Status)
}

/// Every name and its VIPs.
pub(super) fn vips(paths: &Paths) -> Result<Vec<Vip>, SocketError> {
    ask(paths, Request::Vips)
}

/// Where a command is to run; waits until a workload may start. A proxy may start as soon as the agent is there: it is what
/// the agent waits for.
pub(super) fn enrolment(paths: &Paths, await_ready: bool, wait: Duration) -> Result<Enrolment, SocketError> {
    let begin = Instant::now();
    let mut told = false;
    loop {
        let last = match ask::<Enrolment>(paths, Request::Enrol) {
            Ok(enrolment) if enrolment.ready || !await_ready => return Ok(enrolment),
            Ok(waiting) => SocketError::NotReady { waited: begin.elapsed(), awaited: waiting.awaited },
            // An agent that is just ending or starting hangs up.
            Err(absent @ (SocketError::NotRunning { .. } | SocketError::Io { .. })) => absent,
            Err(error) => return Err(error),
        };
        if begin.elapsed() >= wait {
            return Err(last);
        }
        if !told && begin.elapsed() >= PATIENCE {
            told = true;
            table::tell(&format!("kuma-dns: still waiting, at most {}: {last}", duration::human(wait)));
        }
        std::thread::sleep(POLL);
    }
}

/// The process that listens on an agent's socket, if one does. Who may not ask must not act as if nobody was there.
pub(super) fn running_pid(socket: &Path) -> Result<Option<u32>, SocketError> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(source) if source.kind() == ErrorKind::PermissionDenied => {
            return Err(SocketError::NotAllowed { socket: socket.into(), source });
        }
        Err(source) => return Err(SocketError::Io { socket: socket.into(), source }),
    };
    let peer = getsockopt(&stream, PeerCredentials)
        .map_err(|errno| SocketError::Io { socket: socket.into(), source: errno.into() })?;
    // 0: a process that has no id here (pid_namespaces(7)).
    match u32::try_from(peer.pid()) {
        Ok(pid @ 1..) => Ok(Some(pid)),
        _ => Err(SocketError::Elsewhere { socket: socket.into() }),
    }
}

/// One request, one answer.
fn ask<T: DeserializeOwned>(paths: &Paths, request: Request) -> Result<T, SocketError> {
    let socket = paths.socket();
    let io = |source| SocketError::Io { socket: socket.clone(), source };
    let stream = connect(paths, &socket)?;
    let set = stream
        .set_read_timeout(Some(ANSWER_DEADLINE))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_DEADLINE)));
    set.map_err(io)?;
    let mut line = serde_json::to_string(&request).expect("a request is a plain enum: it is always JSON");
    line.push('\n');
    (&stream).write_all(line.as_bytes()).map_err(io)?;
    let mut answer = String::new();
    if BufReader::new(&stream).read_line(&mut answer).map_err(io)? == 0 {
        return Err(io(ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(why)) => Err(SocketError::Refused(why)),
        Err(source) => Err(SocketError::Language { socket, source }),
    }
}

fn connect(paths: &Paths, socket: &Path) -> Result<UnixStream, SocketError> {
    UnixStream::connect(socket).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            SocketError::NotRunning { instance: paths.instance.clone(), socket: socket.into() }
        }
        ErrorKind::PermissionDenied => SocketError::NotAllowed { socket: socket.into(), source },
        _ => SocketError::Io { socket: socket.into(), source },
    })
}
