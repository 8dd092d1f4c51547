//! Loads the object: settings into .rodata, maps created or taken from their pins, every program through the verifier.
//! Keeps: a program that may be missing is reported, not fatal; the verifier's log stays out of messages. Called by mod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{Map, MapError, MapInfo};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use kuma_ebpf_common::abi::{map, setting};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

use crate::kernel::error::KernelError;
use crate::kernel::events::{BpfLog, Events};
use crate::kernel::hooks::Hook;
use crate::kernel::object::OBJECT;
use crate::kernel::probe::Features;

/// What to load, and with which maps.
pub(super) struct Request<'a> {
    /// Where each map is pinned, or will be.
    pub(super) maps: &'a BTreeMap<&'static str, PathBuf>,
    pub(super) vips_capacity: u32,
    pub(super) log: Option<BpfLog>,
    pub(super) features: Features,
}

/// Programs that the verifier has taken, and the maps they share.
pub(super) struct Loaded {
    pub(super) programs: BTreeMap<Hook, OwnedFd>,
    pub(super) maps: HashMap<String, Map>,
    pub(super) features: Features,
    /// Optional programs that this kernel refused.
    pub(super) refused: BTreeSet<Hook>,
    /// What the programs say, if they were asked to.
    pub(super) events: Option<Events>,
}

/// The maps that are pinned: all but the one that only asks who we are.
pub(super) fn pinned_maps() -> impl Iterator<Item = &'static str> {
    map::ALL.into_iter().filter(|name| *name != map::WHOAMI)
}

/// Loads; without sockops a second time, so that IPv6 VIPs take the other path.
pub(super) fn load(request: &Request<'_>) -> Result<Loaded, KernelError> {
    if OBJECT.is_empty() {
        return Err(KernelError::NoObject);
    }
    raise_memlock();
    let loaded = load_once(request, request.features)?;
    if loaded.refused.contains(&Hook::Sockops) && loaded.features.v6_mapped == 0 {
        warn!(
            "this kernel refuses sockops: IPv6 VIPs go through mapped addresses, V6ONLY sockets cannot reach them"
        );
        return load_once(request, Features { v6_mapped: 1, ..request.features });
    }
    Ok(loaded)
}

fn load_once(request: &Request<'_>, features: Features) -> Result<Loaded, KernelError> {
    let mut ebpf = open_object(request, &features)?;
    let mut programs = BTreeMap::new();
    let mut refused = BTreeSet::new();
    for hook in Hook::ALL.into_iter().filter(|hook| hook.wanted(features.netns_mode)) {
        if hook == Hook::Sockops && features.v6_mapped == 1 {
            refused.insert(hook);
            continue;
        }
        match load_program(&mut ebpf, hook) {
            Ok(program) => drop(programs.insert(hook, program)),
            Err(KernelError::Load { source, log, .. }) if hook.optional() => {
                warn!(program = hook.name(), error = %source, "this kernel refuses an optional program");
                debug!(program = hook.name(), log, "verifier");
                refused.insert(hook);
            }
            Err(error) => {
                if let KernelError::Load { program, log, .. } = &error {
                    debug!(program, log, "verifier");
                }
                return Err(error);
            }
        }
    }
    let events = request.log.map(|_level| Events::of(&mut ebpf)).transpose()?;
    let names: Vec<String> = ebpf.maps().map(|(name, _map)| name.to_owned()).collect();
    let maps = names.into_iter().filter_map(|name| ebpf.take_map(&name).map(|map| (name, map))).collect();
    Ok(Loaded { programs, maps, features, refused, events })
}

/// Parses the object, sets its words, creates what is not pinned yet.
fn open_object(request: &Request<'_>, features: &Features) -> Result<Ebpf, KernelError> {
    let level = request.log.map_or(0_u8, BpfLog::level);
    let mut loader = EbpfLoader::new();
    for (name, word) in features.words() {
        loader.override_global(name, word, true);
    }
    loader.override_global(setting::LOG_LEVEL, &level, false);
    loader.map_max_entries(map::VIPS, request.vips_capacity);
    loader.map_max_entries(map::REV, request.vips_capacity);
    for (name, path) in request.maps {
        loader.map_pin_path(name, path.as_path());
    }
    loader.load(OBJECT).map_err(|error| match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => create_error(name, io_error),
        other => KernelError::Object(Box::new(other)),
    })
}

fn create_error(map: String, source: io::Error) -> KernelError {
    // Kernels before 5.11 count maps against RLIMIT_MEMLOCK and answer EPERM.
    match (source.raw_os_error(), getrlimit(Resource::Memlock).current) {
        (Some(libc::EPERM), Some(limit)) => KernelError::Memlock { map, limit, source },
        _ => KernelError::CreateMap { map, source },
    }
}

/// Only kernels before 5.11 care, and only there a failure matters: then creating a map fails and says so.
fn raise_memlock() {
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        debug!(%error, "cannot lift RLIMIT_MEMLOCK");
    }
}

fn load_program(ebpf: &mut Ebpf, hook: Hook) -> Result<OwnedFd, KernelError> {
    let name = hook.name();
    let program = ebpf.program_mut(name).ok_or(KernelError::Missing { kind: "program", name })?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    let failed = |error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            KernelError::Load { program: name, source: io_error, log: verifier_log.to_string() }
        }
        other => KernelError::Program { program: name, source: Box::new(other) },
    };
    loaded.map_err(failed)?;
    let fd = program.fd().map_err(failed)?;
    fd.as_fd().try_clone_to_owned().map_err(|source| failed(source.into()))
}

/// The layout of a map as the object asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

impl Layout {
    /// What is pinned.
    pub(super) fn of(info: &MapInfo) -> Self {
        Self {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        }
    }

    /// What the object asks for, under our capacity.
    pub(super) fn of_object(vips_capacity: u32) -> Result<BTreeMap<String, Self>, KernelError> {
        if OBJECT.is_empty() {
            return Err(KernelError::NoObject);
        }
        let object =
            aya_obj::Object::parse(OBJECT).map_err(|error| KernelError::Object(Box::new(error.into())))?;
        let layout = |(name, map): (&String, &aya_obj::Map)| {
            let sized = [map::VIPS, map::REV].contains(&name.as_str());
            let layout = Self {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: if sized { vips_capacity } else { map.max_entries() },
                flags: map.map_flags(),
            };
            (name.clone(), layout)
        };
        Ok(object.maps.iter().map(layout).collect())
    }

    /// The first thing in which two layouts differ, capacity aside: what, found, needed.
    pub(super) fn differs(&self, needed: &Self) -> Option<(&'static str, u32, u32)> {
        [
            ("type", self.kind, needed.kind),
            ("key size", self.key_size, needed.key_size),
            ("value size", self.value_size, needed.value_size),
            ("flags", self.flags, needed.flags),
        ]
        .into_iter()
        .find(|(_what, found, needed)| found != needed)
    }
}
