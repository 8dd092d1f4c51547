//! Prepares a child process: in a cgroup, as another user, and gone when its parent is unless it is to stay. Keeps: the child is in its
//! cgroup before it makes its first socket. Called by agent/mod.rs for the proxy.
#![expect(unsafe_code, reason = "pre_exec: what runs between fork and exec must be async-signal-safe")]

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{
    Gid, Resource, Rlimit, Signal, Uid, getpid, getppid, getrlimit, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// What becomes of a child when the thread that started it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Orphan {
    Ends,
    GoesOn,
}

/// Makes `command` start in `cgroup`, as `uid` (and the group of the same number) if one is given, with as many open files
/// as it may have.
///
/// # Errors
/// The cgroup does not exist or its processes cannot be changed.
pub fn confine(command: &mut Command, cgroup: &Path, uid: Option<u32>, orphan: Orphan) -> io::Result<()> {
    // Opened here, with the parent's rights: cgroup.procs checks who opened it (cgroups(7)).
    let procs = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
    let parent = getpid();
    // A proxy needs two descriptors for each connection; the usual soft limit of 1,024 is for programs that select(2).
    let maximum = getrlimit(Resource::Nofile).maximum;
    let descriptors = Rlimit { current: maximum, maximum };
    let enter = move || {
        rustix::io::write(&procs, b"0")?;
        setrlimit(Resource::Nofile, descriptors)?;
        if let Some(uid) = uid {
            become_user(uid)?;
        }
        if orphan == Orphan::GoesOn {
            return Ok(());
        }
        // After the change of user, which clears it (prctl(2)).
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        Ok(())
    };
    // SAFETY: `enter` runs between fork and exec and only makes raw system calls through rustix; it takes no lock and
    // allocates nothing: `Errno` converts to `io::Error` without allocation.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

fn become_user(uid: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_no_new_privs(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_does_not_exist_is_refused_before_the_fork() {
        let missing = Path::new("/proc/self/no-such-cgroup");
        let error = confine(&mut Command::new("true"), missing, None, Orphan::Ends).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
