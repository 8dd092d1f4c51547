//! Start and end of the datapath: create, adopt, heal, remove. Keeps: a new set of pins appears by one rename; adoption keeps
//! the maps and swaps programs in place; whatever fails is taken back. Called by mod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use aya::maps::MapInfo;
use kuma_ebpf_common::abi::map;
use tracing::{info, warn};

use crate::kernel::error::KernelError;
use crate::kernel::hooks::{Hook, Place};
use crate::kernel::links::{self, Target, Transaction};
use crate::kernel::loader::{self, Layout, Loaded, Request};
use crate::kernel::lock::InstanceLock;
use crate::kernel::maps::{self, Maps};
use crate::kernel::pins::{self, LinkName, Pins};
use crate::kernel::probe::Features;
use crate::kernel::proxies::{self, Proxies};
use crate::kernel::{Kernel, KernelConfig, Removed, cgroup, preflight};

/// Loads or adopts, and attaches.
pub(super) fn open(config: KernelConfig) -> Result<Kernel, KernelError> {
    preflight::check(&config.bpffs)?;
    cgroup::ensure(&config.workloads_cgroup)?;
    let workloads = Target::open(&config.workloads_cgroup)?;
    let pins = Pins::of(&config.instance, &config.bpffs);
    let lock = InstanceLock::take(pins.instance(), config.instance.name())?;
    let started = start(&config, &pins, &workloads);
    if started.is_err() && !pins.exist() {
        // Nothing of ours was here before, so nothing stays.
        remove_directories(&pins)?;
    }
    let Started { loaded, maps, proxies } = started?;
    let Loaded { programs, features, refused, events, .. } = loaded;
    info!(cgroup = %workloads.path.display(), programs = programs.len(), "attached the datapath");
    let workloads_id = workloads.id;
    Ok(Kernel { config, pins, programs, refused, features, maps, proxies, workloads_id, events, _lock: lock })
}

struct Started {
    loaded: Loaded,
    maps: Maps,
    proxies: Proxies,
}

fn start(config: &KernelConfig, pins: &Pins, workloads: &Target) -> Result<Started, KernelError> {
    if let Some(other) = pins.others()?.into_iter().next() {
        let found =
            other.file_name().unwrap_or_default().to_string_lossy().trim_start_matches('v').to_owned();
        let instance = config.instance.name().to_owned();
        return Err(KernelError::OtherAbi { path: other, found, instance });
    }
    remove_set(&pins.under_construction())?;
    if pins.exist() { adopt(config, pins, workloads) } else { create(config, pins, workloads) }
}

/// Builds a new set beside its place and moves it there when everything is attached.
fn create(config: &KernelConfig, pins: &Pins, workloads: &Target) -> Result<Started, KernelError> {
    let new = pins.under_construction();
    let attach = || {
        new.create()?;
        let paths = loader::pinned_maps().map(|name| (name, new.map(name))).collect();
        let mut loaded = load(config, &paths)?;
        let maps = open_maps(config, &mut loaded)?;
        let mut transaction = Transaction::default();
        attach_workloads(&mut transaction, &new, &loaded.programs, workloads)?;
        pins.publish(&new)?;
        transaction.commit();
        Ok(Started { loaded, maps, proxies: Proxies::default() })
    };
    attach().inspect_err(|_cause: &KernelError| {
        if let Err(error) = remove_set(&new) {
            warn!(error = &error as &dyn std::error::Error, "cannot clean up after a failed start");
        }
    })
}

/// Keeps the maps, swaps in our programs, and brings the links in line with what is enrolled.
fn adopt(config: &KernelConfig, pins: &Pins, workloads: &Target) -> Result<Started, KernelError> {
    pins.create()?;
    for unfinished in pins.unfinished_links()? {
        links::detach_pin(&unfinished)?;
    }
    let resized = check_maps(config, pins)?;
    let mut paths: BTreeMap<_, _> = loader::pinned_maps().map(|name| (name, pins.map(name))).collect();
    for name in &resized {
        let beside = pins.new_map(name);
        pins::unpin(&beside)?;
        paths.insert(name, beside);
    }
    let swapped = swap(config, pins, workloads, &paths, &resized);
    if swapped.is_err() {
        for name in &resized {
            pins::unpin(&pins.new_map(name))?;
        }
    }
    let started = swapped?;
    for name in pins.pinned_links()? {
        let stale = !started.loaded.programs.contains_key(&name.hook)
            || name.proxy.is_some_and(|id| !started.proxies.serves(id));
        if stale {
            links::detach(pins, name)?;
        }
    }
    info!(pins = %pins.version().display(), "adopted the datapath");
    Ok(started)
}

fn swap(
    config: &KernelConfig,
    pins: &Pins,
    workloads: &Target,
    paths: &BTreeMap<&'static str, PathBuf>,
    resized: &BTreeSet<&'static str>,
) -> Result<Started, KernelError> {
    let mut loaded = load(config, paths)?;
    for name in resized {
        maps::copy(name, &pins.map(name), &pins.new_map(name), config.vips_capacity)?;
    }
    let maps = open_maps(config, &mut loaded)?;
    let proxies = recover_proxies(&maps, workloads)?;
    let mut transaction = Transaction::default();
    for proxy in proxies.living() {
        proxies::attach(&mut transaction, pins, &loaded.programs, &proxy, &workloads.path)?;
    }
    attach_workloads(&mut transaction, pins, &loaded.programs, workloads)?;
    for name in resized {
        let beside = pins.new_map(name);
        fs::rename(&beside, pins.map(name)).map_err(|source| KernelError::Pin {
            verb: "rename",
            path: beside,
            source,
        })?;
    }
    transaction.commit();
    Ok(Started { loaded, maps, proxies })
}

fn load(config: &KernelConfig, maps: &BTreeMap<&'static str, PathBuf>) -> Result<Loaded, KernelError> {
    let (vips_capacity, log) = (config.vips_capacity, config.bpf_log);
    loader::load(&Request { maps, vips_capacity, log, features: Features::detect() })
}

fn open_maps(config: &KernelConfig, loaded: &mut Loaded) -> Result<Maps, KernelError> {
    let handles = std::mem::take(&mut loaded.maps);
    Maps::new(handles, config.vips_capacity, loaded.features.v6_mapped == 1)
}

/// Compares every pinned map with what the object asks for. Returns those that only have another capacity.
fn check_maps(config: &KernelConfig, pins: &Pins) -> Result<BTreeSet<&'static str>, KernelError> {
    let needed = Layout::of_object(config.vips_capacity)?;
    let mut resized = BTreeSet::new();
    for name in loader::pinned_maps() {
        let path = pins.map(name);
        let Some(needed) = needed.get(name).filter(|_layout| path.exists()) else { continue };
        let info = MapInfo::from_pin(&path).map_err(|error| KernelError::Pin {
            verb: "open",
            path: path.clone(),
            source: std::io::Error::other(error),
        })?;
        let found = Layout::of(&info);
        let instance = config.instance.name().to_owned();
        if let Some((what, found, needed)) = found.differs(needed) {
            return Err(KernelError::OtherMap { path, what, found, needed, instance });
        }
        if found.max_entries != needed.max_entries {
            if ![map::VIPS, map::REV].contains(&name) {
                let (found, needed) = (found.max_entries, needed.max_entries);
                return Err(KernelError::OtherMap { path, what: "capacity", found, needed, instance });
            }
            resized.insert(name);
        }
    }
    Ok(resized)
}

/// Which pod has which proxy, from the pinned pods. A proxy known by its uid stands for the workloads' own cgroup.
fn recover_proxies(maps: &Maps, workloads: &Target) -> Result<Proxies, KernelError> {
    let root = cgroup::find_cgroup2()?;
    let mut paths = BTreeMap::from([(workloads.id, Some(workloads.path.clone()))]);
    let mut proxies = Proxies::default();
    for (netns, entry) in maps.pods()? {
        let id = if entry.proxy_cgroup == 0 { workloads.id } else { entry.proxy_cgroup };
        // A cgroup is found by its id in the whole tree, once.
        match paths.entry(id).or_insert_with(|| cgroup::find_by_id(&root, id)) {
            Some(path) => drop(proxies.assign(id, path, netns)),
            None => warn!(netns = netns.0, "the proxy's cgroup was removed, its pod waits for a new one"),
        }
    }
    Ok(proxies)
}

/// Consumers first, connect last.
fn attach_workloads(
    transaction: &mut Transaction,
    pins: &Pins,
    programs: &BTreeMap<Hook, OwnedFd>,
    workloads: &Target,
) -> Result<(), KernelError> {
    for hook in Hook::ALL.into_iter().filter(|hook| hook.place() != Place::Proxies) {
        if let Some(program) = programs.get(&hook) {
            transaction.ensure(pins, LinkName::workloads(hook), program, workloads)?;
        }
    }
    Ok(())
}

/// Attaches anew whatever is missing: the workloads' cgroup was removed, or somebody took a link or its pin away.
pub(super) fn heal(kernel: &mut Kernel) -> Result<bool, KernelError> {
    cgroup::ensure(&kernel.config.workloads_cgroup)?;
    let workloads = Target::open(&kernel.config.workloads_cgroup)?;
    let Kernel { pins, programs, .. } = &*kernel;
    let moved = workloads.id != kernel.workloads_id;
    let by_uid = moved && kernel.proxies.serves(kernel.workloads_id);
    let proxies =
        if by_uid { recover_proxies(&kernel.maps, &workloads)?.living() } else { kernel.proxies.living() };
    let mut damaged = Vec::new();
    for proxy in proxies {
        if !proxies::is_intact(pins, programs, &proxy, &workloads.path)? {
            damaged.push(proxy);
        }
    }
    if damaged.is_empty() && !moved && is_intact(pins, programs, &workloads)? {
        return Ok(false);
    }
    warn!(cgroup = %workloads.path.display(), "links were removed with their cgroup or by somebody, attaching anew");
    let mut transaction = Transaction::default();
    for proxy in &damaged {
        proxies::attach(&mut transaction, pins, programs, proxy, &workloads.path)?;
    }
    attach_workloads(&mut transaction, pins, programs, &workloads)?;
    transaction.commit();
    if moved {
        proxies::detach(pins, kernel.workloads_id)?;
        kernel.proxies = recover_proxies(&kernel.maps, &workloads)?;
        kernel.workloads_id = workloads.id;
    }
    Ok(true)
}

fn is_intact(
    pins: &Pins,
    programs: &BTreeMap<Hook, OwnedFd>,
    workloads: &Target,
) -> Result<bool, KernelError> {
    for hook in programs.keys().filter(|hook| hook.place() != Place::Proxies) {
        if !links::is_intact(pins, LinkName::workloads(*hook), workloads.id)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes all sets of the instance, of every ABI version, and the directories.
pub(super) fn remove_all(pins: &Pins) -> Result<Removed, KernelError> {
    let mut removed = Removed::default();
    for set in pins.sets()? {
        let of_set = remove_set(&set)?;
        removed.links += of_set.links;
        removed.maps += of_set.maps;
    }
    pins::remove_tree(pins.instance())?;
    remove_directories(pins)?;
    Ok(removed)
}

/// Removes the instance's directory and the one of all instances, each if it is empty.
fn remove_directories(pins: &Pins) -> Result<(), KernelError> {
    pins::remove_dir(pins.instance())?;
    pins.instance().parent().map_or(Ok(()), pins::remove_dir)
}

/// Detaches in reverse order, then removes the pins.
fn remove_set(set: &Pins) -> Result<Removed, KernelError> {
    let links = set.pinned_links()?;
    for name in links.iter().rev() {
        links::detach(set, *name)?;
    }
    for unfinished in set.unfinished_links()? {
        links::detach_pin(&unfinished)?;
    }
    Ok(Removed { links: links.len(), maps: set.remove()? })
}
