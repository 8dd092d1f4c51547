//! What can go wrong in this room, each with the object, the value and the next step. Called by the whole room; cli prints it.

use std::io;
use std::path::PathBuf;

use kuma_ebpf_common::ABI_VERSION;

use crate::kernel::cgroup::CgroupError;
use crate::kernel::netns::NetnsError;
use crate::kernel::preflight::PreflightError;
use crate::model::datapath::DatapathError;

/// Why the datapath cannot be loaded, adopted, looked at or removed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("this binary was built without the BPF object: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("instance {instance} is in use by {holder}: stop it first, or take another name with --instance")]
    Locked { instance: String, holder: String },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error(
        "pins in {} have ABI {found}, this agent needs {ABI_VERSION}: run `kuma-dns cleanup --instance {instance}`",
        path.display()
    )]
    OtherAbi { path: PathBuf, found: String, instance: String },
    #[error(
        "the pinned map {} has {what} {found}, this agent needs {needed}: run `kuma-dns cleanup --instance {instance}`",
        path.display()
    )]
    OtherMap { path: PathBuf, what: &'static str, found: u32, needed: u32, instance: String },
    #[error(
        "the pinned map {map} holds {entries} entries, which do not fit into {capacity}: raise vips_capacity"
    )]
    Shrink { map: &'static str, entries: usize, capacity: u32 },
    #[error("cannot {verb} {}", path.display())]
    Pin { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot read the BPF object: it was built for another loader, run `cargo xtask build-ebpf`")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("cannot create map {map}")]
    CreateMap { map: String, source: io::Error },
    #[error(
        "cannot create map {map}: the kernel counts maps against RLIMIT_MEMLOCK, which is {limit} bytes: raise memlock to 64 MiB or more, or add CAP_SYS_RESOURCE"
    )]
    Memlock { map: String, limit: u64, source: io::Error },
    #[error("the BPF object has no {kind} {name}: run `cargo xtask build-ebpf`")]
    Missing { kind: &'static str, name: &'static str },
    #[error("the kernel refuses program {program}; its log is shown at log level debug")]
    Load { program: &'static str, source: io::Error, log: String },
    #[error("cannot prepare program {program}")]
    Program { program: &'static str, source: Box<aya::programs::ProgramError> },
    #[error("cannot attach {hook} to {}", cgroup.display())]
    Attach { hook: &'static str, cgroup: PathBuf, source: io::Error },
    #[error(
        "cannot attach {hook} to {}: program {id} {name:?} on {} does not share this hook (it was attached without \
         BPF_F_ALLOW_MULTI): detach it, or move the workloads to a cgroup outside of it",
        cgroup.display(), owner.display()
    )]
    Foreign { hook: &'static str, cgroup: PathBuf, id: u32, name: String, owner: PathBuf },
    #[error("cannot replace the program behind {}", path.display())]
    Update { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error("cannot read the log of the BPF programs")]
    Events(#[source] io::Error),
}
