//! What is attached where, how full the maps are, and what was decided how often; read from the pins alone, so that it works
//! beside a running agent and after its death. Called by mod (Kernel::status, Kernel::inspect).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapInfo, MapType, PerCpuArray};
use aya::programs::{ProgramInfo, loaded_programs};
use kuma_ebpf_common::ABI_VERSION;
use kuma_ebpf_common::abi::{NO_UID, PodEntry, RevEntry, TupleEntry, TupleKey, VipKey, map};
use kuma_ebpf_common::addr::Addr;
use kuma_ebpf_common::verdict::Reason;
use serde::Serialize;

use crate::kernel::cgroup;
use crate::kernel::error::KernelError;
use crate::kernel::hooks::Hook;
use crate::kernel::links;
use crate::kernel::loader;
use crate::kernel::pins::{LinkName, Pins};
use crate::kernel::plain::Plain;
use crate::kernel::probe::Features;

/// Everything that can be said of a datapath.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KernelStatus {
    pub abi_version: u32,
    pub pins: PathBuf,
    /// How the kernel's abilities are used, in sentences.
    pub features: Vec<String>,
    pub programs: Vec<ProgramStatus>,
    pub maps: Vec<MapStatus>,
    pub pods: Vec<PodStatus>,
    /// Every numbered reason that was given at least once.
    pub counters: BTreeMap<&'static str, u64>,
}

/// One program at one hook of one cgroup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ProgramStatus {
    pub hook: &'static str,
    pub link_id: u32,
    pub program_id: u32,
    /// The hash of its instructions.
    pub tag: String,
    /// `None`: the cgroup was removed and the program runs nowhere.
    pub cgroup: Option<PathBuf>,
    /// Filled while `kernel.bpf_stats_enabled` is 1.
    pub runs: Option<RunStats>,
}

/// What a program has cost so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RunStats {
    pub count: u64,
    pub total_ns: u64,
}

/// How full a map is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MapStatus {
    pub name: &'static str,
    pub id: u32,
    /// `None` for storage that lives in sockets.
    pub entries: Option<usize>,
    pub capacity: u32,
    /// What the kernel counts for it now, if it says so.
    pub memory_bytes: Option<u64>,
}

/// An enrolled workload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PodStatus {
    pub netns_cookie: u64,
    pub view: u32,
    pub proxy_cgroup: Option<PathBuf>,
    pub proxy_uid: Option<u32>,
    pub outbound_port: u16,
    pub dns_port: u16,
    pub addr4: Option<IpAddr>,
    pub addr6: Option<IpAddr>,
}

/// Reads the status from the pins.
pub(super) fn inspect(pins: &Pins) -> Result<KernelStatus, KernelError> {
    let programs = programs(pins)?;
    let features = if pins.exist() {
        let mapped = !programs.iter().any(|program| program.hook == Hook::Sockops.name());
        Features { v6_mapped: u32::from(mapped), ..Features::detect() }.in_words()
    } else {
        Vec::new()
    };
    Ok(KernelStatus {
        abi_version: ABI_VERSION,
        pins: pins.version().to_owned(),
        features,
        programs,
        maps: loader::pinned_maps().filter_map(|name| map_status(pins, name)).collect(),
        pods: pods(pins)?,
        counters: counters(pins)?,
    })
}

fn programs(pins: &Pins) -> Result<Vec<ProgramStatus>, KernelError> {
    let root = cgroup::find_cgroup2()?;
    let loaded: BTreeMap<u32, ProgramInfo> =
        loaded_programs().filter_map(Result::ok).map(|info| (info.id(), info)).collect();
    let mut paths = BTreeMap::new();
    let mut programs = Vec::new();
    for name in pins.pinned_links()? {
        let Some((_link, info)) = links::open_pin(&pins.link(name))? else { continue };
        let path = paths.entry(info.cgroup).or_insert_with(|| match info.cgroup {
            0 => None,
            id => cgroup::find_by_id(&root, id),
        });
        programs.push(program_status(name, info, loaded.get(&info.program), path.clone()));
    }
    Ok(programs)
}

fn program_status(
    name: LinkName,
    link: super::sys::LinkInfo,
    info: Option<&ProgramInfo>,
    cgroup: Option<PathBuf>,
) -> ProgramStatus {
    let runs =
        info.map(|info| RunStats { count: info.run_count(), total_ns: info.run_time().as_nanos() as u64 });
    ProgramStatus {
        hook: name.hook.name(),
        link_id: link.id,
        program_id: link.program,
        tag: info.map(|info| format!("{:016x}", info.tag())).unwrap_or_default(),
        cgroup,
        runs: runs.filter(|runs| runs.count > 0),
    }
}

fn map_status(pins: &Pins, name: &'static str) -> Option<MapStatus> {
    let data = MapData::from_pin(pins.map(name)).ok()?;
    let info = data.info().ok()?;
    let memory_bytes = memory_of(&data);
    Some(MapStatus {
        name,
        id: info.id(),
        entries: entries(data, &info, name),
        capacity: info.max_entries(),
        memory_bytes,
    })
}

fn entries(data: MapData, info: &MapInfo, name: &str) -> Option<usize> {
    match info.map_type().ok()? {
        MapType::Array | MapType::PerCpuArray => Some(info.max_entries() as usize),
        MapType::Hash => Some(match name {
            map::PODS => count::<u64, Plain<PodEntry>>(data),
            map::VIPS => count::<Plain<VipKey>, u32>(data),
            map::REV => count::<u32, Plain<RevEntry>>(data),
            map::TUPLES => count::<Plain<TupleKey>, Plain<TupleEntry>>(data),
            _ => return None,
        }),
        _ => None,
    }
}

fn count<K: aya::Pod, V: aya::Pod>(data: MapData) -> usize {
    HashMap::<MapData, K, V>::try_from(Map::HashMap(data))
        .map_or(0, |map| map.keys().filter(Result::is_ok).count())
}

/// `memlock` of fdinfo: since 6.4 a true account for maps that grow with use, before that their upper bound.
fn memory_of(data: &MapData) -> Option<u64> {
    use std::os::fd::{AsFd, AsRawFd};
    let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

fn pods(pins: &Pins) -> Result<Vec<PodStatus>, KernelError> {
    let Some(pods) = open_hash::<u64, Plain<PodEntry>>(pins, map::PODS) else { return Ok(Vec::new()) };
    let root = cgroup::find_cgroup2()?;
    let pod = |(netns_cookie, Plain(entry)): (u64, Plain<PodEntry>)| {
        let shown = |addr: Addr| (addr != Addr::UNSPECIFIED).then(|| addr.into());
        PodStatus {
            netns_cookie,
            view: entry.view,
            proxy_cgroup: (entry.proxy_cgroup != 0)
                .then(|| cgroup::find_by_id(&root, entry.proxy_cgroup))
                .flatten(),
            proxy_uid: (entry.proxy_uid != NO_UID).then_some(entry.proxy_uid),
            outbound_port: entry.outbound_port.get(),
            dns_port: entry.dns_port.get(),
            addr4: shown(entry.addr4),
            addr6: shown(entry.addr6),
        }
    };
    Ok(pods.iter().filter_map(Result::ok).map(pod).collect())
}

fn open_hash<K: aya::Pod, V: aya::Pod>(pins: &Pins, name: &str) -> Option<HashMap<MapData, K, V>> {
    Map::HashMap(MapData::from_pin(pins.map(name)).ok()?).try_into().ok()
}

fn counters(pins: &Pins) -> Result<BTreeMap<&'static str, u64>, KernelError> {
    let Ok(data) = MapData::from_pin(pins.map(map::COUNTERS)) else { return Ok(BTreeMap::new()) };
    let Ok(counters) = PerCpuArray::<MapData, u64>::try_from(Map::PerCpuArray(data)) else {
        return Ok(BTreeMap::new());
    };
    let count =
        |reason: &Reason| Some((reason.name(), counters.get(&reason.number(), 0).ok()?.iter().sum::<u64>()));
    Ok(Reason::ALL.iter().filter_map(count).filter(|(_name, count)| *count > 0).collect())
}

/// The name of a program, if it still exists.
pub(super) fn program_name(id: u32) -> Option<String> {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)?;
    info.name_as_str().map(str::to_owned)
}

/// Is anything of this instance pinned here?
pub(super) fn anything(instance: &Path) -> bool {
    instance.is_dir()
}
