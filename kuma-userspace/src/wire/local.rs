//! The agent's Unix socket: one request line, one answer line, both JSON, then the agent closes.
//! Keeps: a field is only ever added, so that a newer command line understands an older agent. Called by agent (serves) and
//! cli (asks).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest request line; the agent hangs up on a longer one.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024;

/// What is asked.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Where are workloads run, and may they be started yet? Answered at once with [`Enrolment`], ready or not.
    Enrol,
    /// How is everything? Answered with [`Status`].
    Status,
    /// Which names and VIPs are served? Answered with a list of [`Vip`].
    Vips,
}

/// What the agent says: what was asked for, or why not.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    Ok(T),
    Error(String),
}

/// Where a command runs to be inside the mesh.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Enrolment {
    /// The agent's process id.
    pub pid: u32,
    /// Of workloads, absolute in the cgroup v2 hierarchy as the agent sees it.
    pub workloads_cgroup: PathBuf,
    pub proxy_cgroup: PathBuf,
    /// The enrolled namespace, for example `/proc/<pid>/ns/net`.
    pub netns: PathBuf,
    pub ready: bool,
    /// Why it is not ready, in words.
    pub awaited: Vec<String>,
}

/// A name and its virtual addresses.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Vip {
    pub name: String,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub ports: Vec<u16>,
    pub view: String,
}

/// Everything about a running agent. A part that is not there yet is empty.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Status {
    pub instance: String,
    pub version: String,
    pub pid: u32,
    pub uptime_ms: u64,
    pub ready: bool,
    pub awaited: Vec<String>,
    pub enrolled: Vec<Workload>,
    pub datapath: Datapath,
    pub views: Vec<View>,
    pub proxy: Option<Proxy>,
    pub resolver: Resolver,
    #[serde(default)]
    pub source: Source,
    /// Only when it runs in the same process (`kuma-dns up`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<ControlPlane>,
}

/// Where views come from, and how far what is served can be trusted.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// The control plane, as it was given.
    pub control_plane: String,
    /// Does it stand by the view that is served?
    pub current: bool,
    /// Why not, in words.
    pub reason: Option<String>,
    /// Since when nobody stands by the view, in seconds; 0 while the control plane does.
    pub view_age_secs: u64,
    /// The view was written down by an earlier agent; the control plane has not spoken yet.
    pub remembered: bool,
}

/// The control plane beside the agent.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct ControlPlane {
    pub xds: Option<SocketAddr>,
    pub files: Vec<PathBuf>,
    /// Services in the files.
    pub services: u64,
    /// Services that have a VIP.
    pub published: u64,
    /// What is wrong, each in a sentence: mistakes of the last edit, a pool without room, a store that cannot be written.
    pub trouble: Vec<String>,
    #[serde(default)]
    pub outbounds: Vec<Outbounds>,
    pub clients: Vec<XdsClient>,
}

/// How proxies are told of the VIPs of a view.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Outbounds {
    pub view: String,
    /// What was chosen: `auto`, `listeners` or `compact`.
    pub setting: String,
    /// What came of it: `listeners`, `compact`, or `compact, HTTP with listeners`.
    pub shape: String,
    /// VIPs and ports with a listener of their own.
    pub listeners: u64,
    /// VIPs and ports that share one.
    pub compact: u64,
    /// VIPs and ports that are changing from one to the other.
    pub changing: u64,
    /// What is lost by it, in a sentence.
    pub loss: Option<String>,
}

/// A proxy or an agent that is connected to the control plane.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct XdsClient {
    pub node: String,
    /// `proxy` or `agent`.
    pub role: String,
    pub view: String,
    /// The program and its version, if it says so: `envoy 1.40.0`.
    #[serde(default)]
    pub software: Option<String>,
    pub connected_secs: u64,
    /// Types whose newest state it has not acknowledged.
    pub pending: Vec<String>,
    /// What it did not take (NACK), each with its own words.
    pub refused: Vec<String>,
}

/// An enrolled network namespace.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    pub netns_cookie: u64,
    pub view: String,
}

/// What is in the kernel.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Datapath {
    pub abi_version: u32,
    /// Where the pins are.
    pub pins: PathBuf,
    pub programs: Vec<Program>,
    pub maps: Vec<Map>,
    pub counters: Vec<Counter>,
}

/// A program and the cgroup it is attached to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Program {
    pub name: String,
    pub cgroup: PathBuf,
}

/// A map and how full it is.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Map {
    pub name: String,
    pub entries: u64,
    pub capacity: u64,
}

/// A numbered reason of the datapath and how often it was given.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Counter {
    pub number: u32,
    pub name: String,
    /// What it means, as a sentence.
    pub meaning: String,
    pub count: u64,
}

/// A view of the mesh as it is applied now.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct View {
    pub name: String,
    pub domain: String,
    pub ttl_secs: u32,
    pub names: u64,
    pub routes: u64,
    pub ranges: Vec<String>,
    /// Of the control plane's resource.
    pub version: String,
    pub age_ms: u64,
    /// What of it could not be applied, in words; names that depend on it are held back.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// The proxy beside the workloads.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Proxy {
    /// `started` (ours), or how a foreign one is recognised: `cgroup /…`, `uid 5678`.
    pub mode: String,
    pub path: Option<PathBuf>,
    pub pid: Option<u32>,
    pub uptime_ms: Option<u64>,
    pub restarts: u64,
    pub outbound: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// The resolver beside the workloads.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolver {
    pub listen: Vec<SocketAddr>,
    /// Questions that our zone answered.
    pub answered: u64,
    /// Questions that were passed on.
    pub forwarded: u64,
    /// Questions that were passed on and never answered.
    pub failed: u64,
    pub upstreams: Vec<IpAddr>,
    /// Names that it answers.
    #[serde(default)]
    pub names: u64,
    /// Questions by type: `A`, `AAAA` and `other`, answered and passed on.
    #[serde(default)]
    pub types: BTreeMap<String, u64>,
    /// Answers by response code, ours and theirs.
    #[serde(default)]
    pub rcodes: BTreeMap<String, u64>,
    /// Messages that are no queries.
    #[serde(default)]
    pub dropped: u64,
    /// A nameserver did not answer in time.
    #[serde(default)]
    pub upstream_silent: u64,
    /// Nobody listened at a nameserver's port.
    #[serde(default)]
    pub upstream_refused: u64,
    /// Answers that fitted no query: late, or forged.
    #[serde(default)]
    pub upstream_mismatched: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_read_as_they_are_documented() {
        assert_eq!(serde_json::to_string(&Request::Enrol).unwrap(), r#"{"verb":"enrol"}"#);
        let refused: Answer<Vec<Vip>> = serde_json::from_str(r#"{"error":"still starting"}"#).unwrap();
        assert_eq!(refused, Answer::Error("still starting".into()));
    }
}
