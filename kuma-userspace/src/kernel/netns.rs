//! Network namespaces: open one, ask for its cookie, run something inside. Keeps: no thread ever comes back from another
//! namespace; what runs inside has a thread of its own that ends there. Called by kernel, agent and cli.
#![expect(unsafe_code, reason = "getsockopt with an option that no wrapper names")]

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::kernel::whoami;
use crate::model::datapath::NetnsCookie;

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// What went wrong with a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open the network namespace {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is no network namespace", path.display())]
    NotANamespace { path: PathBuf },
    #[error("cannot enter the network namespace: this needs CAP_SYS_ADMIN")]
    Enter(#[source] io::Error),
    #[error("cannot start a thread for the network namespace")]
    Thread(#[source] io::Error),
    #[error("the thread inside the network namespace panicked")]
    Panicked,
    #[error("cannot ask for the cookie of the network namespace")]
    Cookie(#[source] io::Error),
}

/// Opens a namespace: `/proc/<pid>/ns/net`, or a file under `/run/netns`.
///
/// # Errors
/// The path does not exist or is no namespace.
pub fn open(path: &Path) -> Result<OwnedFd, NetnsError> {
    let file = File::open(path).map_err(|source| NetnsError::Open { path: path.into(), source })?;
    let kind = rustix::fs::fstatfs(&file)
        .map_err(|errno| NetnsError::Open { path: path.into(), source: errno.into() })?;
    if kind.f_type as u64 != libc::NSFS_MAGIC as u64 {
        return Err(NetnsError::NotANamespace { path: path.into() });
    }
    Ok(file.into())
}

/// The namespace of the calling thread.
///
/// # Errors
/// /proc is not there.
pub fn own() -> Result<OwnedFd, NetnsError> {
    open(Path::new(OWN))
}

/// Moves the calling thread into the namespace at `path`, for good; one that is inside already stays as it is. For a
/// process of one thread that is about to become another program.
///
/// # Errors
/// The path is no namespace, or may not be entered.
pub fn enter(path: &Path) -> Result<(), NetnsError> {
    join(open(path)?.as_fd())
}

/// Who is inside already needs no right to enter.
fn join(netns: BorrowedFd<'_>) -> Result<(), NetnsError> {
    let inode = |netns: BorrowedFd<'_>| rustix::fs::fstat(netns).map(|stat| (stat.st_dev, stat.st_ino));
    if inode(netns) == inode(own()?.as_fd()) {
        return Ok(());
    }
    rustix::thread::move_into_link_name_space(netns, Some(rustix::thread::LinkNameSpaceType::Network))
        .map_err(|errno| NetnsError::Enter(errno.into()))
}

/// Runs `job` inside the namespace, on a thread of its own, and returns what it returned.
///
/// # Errors
/// The namespace cannot be entered, or the job panicked.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, job: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let inside = || {
        join(netns)?;
        Ok(job())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into());
        let handle = thread.spawn_scoped(scope, inside).map_err(NetnsError::Thread)?;
        handle.join().map_err(|_panic| NetnsError::Panicked)?
    })
}

/// The cookie of a namespace, as the hooks see it.
///
/// # Errors
/// The namespace cannot be entered, or the kernel has no way to tell.
pub fn cookie_of(netns: BorrowedFd<'_>) -> Result<NetnsCookie, NetnsError> {
    run_in(netns, cookie_of_current)?
}

/// The cookie of the calling thread's namespace.
///
/// # Errors
/// The kernel has no way to tell.
pub fn cookie_of_current() -> Result<NetnsCookie, NetnsError> {
    // Any address: loopback may be down.
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_no_v4| UdpSocket::bind("[::]:0"));
    let socket = socket.map_err(NetnsError::Cookie)?;
    match socket_u64(socket.as_fd(), libc::SO_NETNS_COOKIE) {
        Ok(cookie) => Ok(NetnsCookie(cookie)),
        // SO_NETNS_COOKIE came with 5.14; on older kernels a tiny program tells.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            whoami::cookie().map(NetnsCookie).map_err(NetnsError::Cookie)
        }
        Err(error) => Err(NetnsError::Cookie(error)),
    }
}

/// A socket option of level SOL_SOCKET that is a `u64`.
pub(super) fn socket_u64(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `value` and `len` are live locals, and `len` says exactly how many bytes `value` has.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    if ret == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let refused = open(Path::new("/proc/self/status"));
        assert!(matches!(refused, Err(NetnsError::NotANamespace { .. })), "{refused:?}");
        assert!(own().is_ok());
    }
}
