//! Attaching: links created, pinned, updated in place and detached. Keeps: a call that fails in the middle takes back what it
//! did ([`Transaction`]); a link whose cgroup is gone is made anew; no moment without a program while one is replaced.
//! Called by loader (workloads) and proxies.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use tracing::{debug, warn};

use crate::kernel::error::KernelError;
use crate::kernel::hooks::Hook;
use crate::kernel::pins::{self, LinkName, Pins};
use crate::kernel::sys::{self, Sharing};
use crate::kernel::{cgroup, status};

/// A cgroup to attach to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) id: u64,
    directory: File,
}

impl Target {
    pub(super) fn open(path: &Path) -> Result<Self, KernelError> {
        let id = cgroup::id_of(path)?;
        let opened = File::open(path);
        let directory =
            opened.map_err(|source| cgroup::CgroupError::Io { verb: "open", path: path.into(), source })?;
        Ok(Self { path: path.into(), id, directory })
    }
}

/// What was done so far, taken back in reverse order unless it is committed.
#[derive(Default)]
pub(super) struct Transaction {
    steps: Vec<Step>,
}

enum Step {
    /// A link that was not there.
    Created { link: OwnedFd, pin: PathBuf },
    /// Another program behind the same link. The one before is unknown to who may not open programs (CAP_SYS_ADMIN): then
    /// ours stays, which speaks the same ABI.
    Updated { link: OwnedFd, before: Option<OwnedFd> },
    /// A new link in place of one on another cgroup.
    Replaced { link: OwnedFd, before: OwnedFd, pin: PathBuf },
}

impl Transaction {
    /// Everything went well: nothing is taken back.
    pub(super) fn commit(mut self) {
        // A link that was replaced goes now, and not when the kernel finds the time.
        for step in std::mem::take(&mut self.steps) {
            if let Step::Replaced { before, .. } = step
                && let Err(error) = sys::link_detach(&before)
            {
                debug!(%error, "a replaced link was gone already");
            }
        }
    }

    /// Makes the pinned link `name` run `program` on `target`, whatever stands there now.
    pub(super) fn ensure(
        &mut self,
        pins: &Pins,
        name: LinkName,
        program: &impl AsFd,
        target: &Target,
    ) -> Result<(), KernelError> {
        let pin = pins.link(name);
        let Some((before, info)) = open_pin(&pin)? else {
            let link = attach_pinned(name.hook, program, target, &pin)?;
            self.steps.push(Step::Created { link, pin });
            return Ok(());
        };
        if info.cgroup == target.id {
            let old = sys::program_by_id(info.program).ok();
            match sys::link_update(&before, program) {
                Ok(()) => {
                    self.steps.push(Step::Updated { link: before, before: old });
                    return Ok(());
                }
                // ENOLINK: the cgroup was removed since we looked.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(source) => return Err(KernelError::Update { path: pin, source }),
            }
        }
        if info.cgroup == 0 {
            warn!(hook = %name, "the cgroup of this link was removed, attaching anew");
        }
        let beside = pins.new_link(name);
        detach_pin(&beside)?;
        let link = attach_pinned(name.hook, program, target, &beside)?;
        if let Err(source) = fs::rename(&beside, &pin) {
            detach_pin(&beside)?;
            return Err(KernelError::Pin { verb: "rename", path: beside, source });
        }
        self.steps.push(Step::Replaced { link, before, pin });
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            if let Err(error) = step.take_back() {
                warn!(%error, "cannot take back a step of a failed attach");
            }
        }
    }
}

impl Step {
    fn take_back(self) -> io::Result<()> {
        match self {
            Self::Created { link, pin } => {
                sys::link_detach(&link)?;
                fs::remove_file(pin)
            }
            Self::Updated { link, before } => {
                before.map_or(Ok(()), |before| sys::link_update(&link, &before))
            }
            Self::Replaced { link, before, pin } => {
                sys::link_detach(&link)?;
                fs::remove_file(&pin)?;
                sys::obj_pin(&before, &pin)
            }
        }
    }
}

/// Takes the program off and removes the pin; none there: nothing to do.
pub(super) fn detach(pins: &Pins, name: LinkName) -> Result<(), KernelError> {
    detach_pin(&pins.link(name))
}

/// The same by path, for a pin whose name says nothing to us.
pub(super) fn detach_pin(pin: &Path) -> Result<(), KernelError> {
    if let Some((link, _info)) = open_pin(pin)? {
        let detached = sys::link_detach(&link);
        detached.map_err(|source| KernelError::Pin { verb: "detach", path: pin.into(), source })?;
    }
    pins::unpin(pin)
}

/// Does this pin hold a living link on this cgroup?
pub(super) fn is_intact(pins: &Pins, name: LinkName, cgroup: u64) -> Result<bool, KernelError> {
    Ok(open_pin(&pins.link(name))?.is_some_and(|(_link, info)| info.cgroup == cgroup))
}

/// The pinned link and what the kernel says of it; `None`: nothing is pinned there.
pub(super) fn open_pin(pin: &Path) -> Result<Option<(OwnedFd, sys::LinkInfo)>, KernelError> {
    let failed = |source| KernelError::Pin { verb: "open", path: pin.into(), source };
    let link = match sys::obj_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let info = sys::link_info(&link).map_err(failed)?;
    Ok(Some((link, info)))
}

/// Attaches and pins; a link that cannot be pinned is detached before this returns.
fn attach_pinned(
    hook: Hook,
    program: &impl AsFd,
    target: &Target,
    pin: &Path,
) -> Result<OwnedFd, KernelError> {
    let link = attach(hook, program, target)?;
    if let Err(source) = sys::obj_pin(&link, pin) {
        if let Err(error) = sys::link_detach(&link) {
            warn!(%error, "cannot detach a link that could not be pinned");
        }
        return Err(KernelError::Pin { verb: "create", path: pin.into(), source });
    }
    Ok(link)
}

fn attach(hook: Hook, program: &impl AsFd, target: &Target) -> Result<OwnedFd, KernelError> {
    sys::link_create(program, &target.directory, hook.attach_type()).map_err(|source| {
        let foreign =
            (source.kind() == io::ErrorKind::PermissionDenied).then(|| foreign(hook, target)).flatten();
        foreign.unwrap_or_else(|| KernelError::Attach {
            hook: hook.name(),
            cgroup: target.path.clone(),
            source,
        })
    })
}

/// Finds the program that keeps us out: an exclusive or overridable one here, or an exclusive one above.
fn foreign(hook: Hook, target: &Target) -> Option<KernelError> {
    let root = cgroup::find_cgroup2().ok()?;
    let here_and_above = target.path.ancestors().take_while(|path| path.starts_with(&root));
    for owner in here_and_above {
        let attached =
            File::open(owner).and_then(|directory| sys::query(&directory, hook.attach_type())).ok()?;
        let in_the_way = match attached.sharing {
            Sharing::Exclusive => true,
            Sharing::Override => owner == target.path,
            Sharing::Multi => false,
        };
        if let (true, Some(&id)) = (in_the_way, attached.programs.first()) {
            let name = status::program_name(id).unwrap_or_default();
            let (hook, cgroup, owner) = (hook.name(), target.path.clone(), owner.to_owned());
            return Some(KernelError::Foreign { hook, cgroup, id, name, owner });
        }
    }
    None
}
