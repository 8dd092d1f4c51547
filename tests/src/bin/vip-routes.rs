//! Holds the datapath for `cargo xtask bench vip`: loads it, enrols the given namespaces, and gives them routes by hand, so
//! that nothing but the datapath is measured. Keeps: the datapath leaves the kernel when stdin closes. Called by xtask.
//!
//! `vip-routes INSTANCE WORKLOADS_CGROUP PROXY_CGROUP OUTBOUND_PORT VIP:PORT,… NETNS…`; prints `ready`; answers each line
//! `runs` with one line of JSON: how often each program ran, and for how long.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use kuma_dns::kernel::{self, Kernel, KernelConfig};
use kuma_dns::model::datapath::{Datapath as _, Pod, ProxyIdentity};
use kuma_dns::model::view::{Port, Route, ViewId};
use kuma_ebpf_common::abi::VIPS_CAPACITY;
use serde_json::json;

/// Where the pins go; the datapath mounts it where nothing is.
const BPFFS: &str = "/sys/fs/bpf";

/// The ranges that Kuma takes VIPs from.
const RANGES: [&str; 2] = ["240.0.0.0/4", "fd00:fd00::/64"];

/// No resolver listens there: the benchmark asks for no name.
const DNS_PORT: u16 = 15053;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vip-routes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [instance, workloads, proxy, outbound, vips, namespaces @ ..] = words.as_slice() else {
        bail!("usage: vip-routes INSTANCE WORKLOADS_CGROUP PROXY_CGROUP OUTBOUND_PORT VIP:PORT,… NETNS…");
    };
    let mut kernel = Kernel::open(KernelConfig {
        instance: instance.parse()?,
        bpffs: BPFFS.into(),
        workloads_cgroup: workloads.into(),
        vips_capacity: VIPS_CAPACITY,
        bpf_log: None,
    })?;
    // From here on the datapath is attached: whatever happens, it is taken out again.
    let outcome = serve(&mut kernel, Path::new(proxy), outbound, vips, namespaces);
    kernel.unload().context("cannot take the datapath out of the kernel")?;
    outcome
}

fn serve(kernel: &mut Kernel, proxy: &Path, outbound: &str, vips: &str, namespaces: &[String]) -> Result<()> {
    let view = ViewId::of("bench");
    let ranges = RANGES.iter().map(|range| range.parse()).collect::<Result<Vec<_>, _>>()?;
    kernel.set_ranges(&ranges)?;
    let outbound = outbound.parse().with_context(|| format!("{outbound:?} is no port"))?;
    for namespace in namespaces {
        kernel.enrol(&pod(&PathBuf::from(namespace), view, proxy, outbound)?)?;
    }
    for vip in vips.split(',') {
        let vip: SocketAddr = vip.parse().with_context(|| format!("{vip:?} is no address with a port"))?;
        kernel.add_route(view, Route { vip: vip.ip(), port: Port::new(vip.port()) })?;
    }
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        match line.context("cannot read stdin")?.as_str() {
            "runs" => say(&runs(kernel)?)?,
            other => bail!("{other:?} is no question"),
        }
    }
    Ok(())
}

fn pod(namespace: &Path, view: ViewId, proxy: &Path, outbound: u16) -> Result<Pod> {
    let netns = kernel::netns::open(namespace)?;
    let source = kernel::source_addresses(netns.as_fd())?;
    Ok(Pod {
        netns: kernel::netns::cookie_of(netns.as_fd())?,
        view,
        proxy: ProxyIdentity::Cgroup(proxy.to_owned()),
        outbound_port: Port::new(outbound),
        dns_port: Port::new(DNS_PORT),
        addr4: source.v4,
        addr6: source.v6,
    })
}

/// Every program's runs. The kernel counts per program, also when it is attached to several cgroups: the last one says it.
fn runs(kernel: &Kernel) -> Result<String> {
    let programs = kernel.status()?.programs;
    let runs: BTreeMap<&str, _> = programs
        .iter()
        .map(|program| {
            let (count, nanos) = program.runs.map_or((0, 0), |runs| (runs.count, runs.total_ns));
            (program.hook, json!({"count": count, "total_ns": nanos}))
        })
        .collect();
    serde_json::to_string(&runs).context("cannot write JSON")
}

/// Not println, which panics when nobody reads any more: the datapath must still be taken out.
fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("nobody reads our stdout")
}
