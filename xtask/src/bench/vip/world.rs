//! One variant in a network namespace of its own: addresses, the redirect, and what receives the connections.
//! Keeps: a namespace lives as long as its first process, which ends when its stdin closes. Called by vip.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xtask::{exec, target};

use super::super::process::Process;
use super::place::{Cgroups, Cpu, inside, placed};
use super::variant::{OUTBOUND_PORT, RANGE4, Variant, Way};
use super::{Tools, envoy};

/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Between two looks at a server that starts.
const POLL: Duration = Duration::from_millis(50);

/// What receives the redirected connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proxy {
    /// The echo server itself.
    Echo,
    /// A real Envoy, with the echo server behind it.
    Envoy,
}

/// A namespace with a variant in it.
pub(super) struct World {
    pub(super) variant: &'static Variant,
    pub(super) proxy: Proxy,
    // Servers before the namespace's holder: fields are dropped in this order.
    servers: Vec<Process>,
    holder: Process,
}

impl World {
    /// The namespace with addresses, a default route as in a pod, and the redirect.
    pub(super) fn make(variant: &'static Variant, proxy: Proxy) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", "echo ready; exec cat"]);
        let holder = Process::hold("the holder of a namespace", &mut command)?;
        holder.line(START)?;
        let world = Self { variant, proxy, servers: Vec::new(), holder };
        world.script(NETWORK)?;
        match variant.way {
            Way::Direct | Way::Ours => {}
            Way::Iptables => world.script(&format!(
                "iptables -t nat -A OUTPUT -p tcp -d {RANGE4} -j REDIRECT --to-ports {OUTBOUND_PORT}"
            ))?,
            Way::Nft => world.script(&format!(
                "nft 'table ip bench {{ chain output {{ type nat hook output priority -100; \
                 ip daddr {RANGE4} meta l4proto tcp redirect to :{OUTBOUND_PORT}; }}; }}'"
            ))?,
        }
        Ok(world)
    }

    pub(super) fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.pid()))
    }

    pub(super) fn target(&self) -> SocketAddr {
        self.variant.target(self.proxy)
    }

    fn script(&self, script: &str) -> Result<()> {
        exec(inside(&self.netns(), "sh").args(["-ec", script]))
    }

    /// Starts what receives connections and waits until it does.
    pub(super) fn start(&mut self, tools: &Tools, cgroups: &Cgroups, cpu: &Cpu) -> Result<()> {
        let outbound = [format!("0.0.0.0:{OUTBOUND_PORT}"), format!("[::]:{OUTBOUND_PORT}")];
        let behind = [envoy::SERVICE.to_owned()];
        let (addresses, cgroup) = match self.proxy {
            Proxy::Echo => (&outbound[..], self.proxy_cgroup(cgroups)),
            Proxy::Envoy => (&behind[..], &cgroups.plain),
        };
        let mut command = placed(&self.netns(), cgroup, cpu, &tools.load);
        let server = Process::start("the echo server", command.arg("serve").args(addresses))?;
        server.line(START)?;
        self.servers.push(server);
        if self.proxy == Proxy::Envoy {
            self.start_envoy(tools, cgroups, cpu)?;
        }
        Ok(())
    }

    fn start_envoy(&mut self, tools: &Tools, cgroups: &Cgroups, cpu: &Cpu) -> Result<()> {
        let file = target().join("bench/envoy.json");
        std::fs::write(&file, envoy::bootstrap().to_string()).context("cannot write Envoy's bootstrap")?;
        let mut command = placed(&self.netns(), self.proxy_cgroup(cgroups), cpu, &tools.envoy);
        command.arg("--config-path").arg(&file).args(envoy::OPTIONS);
        self.servers.push(Process::start("Envoy", &mut command)?);
        let end = Instant::now() + START;
        let words = ["connect".to_owned(), self.target().to_string(), "1".to_owned()];
        while Instant::now() < end {
            let mut client = self.client(&tools.load, &words, cgroups, cpu);
            // It complains until Envoy listens.
            client.stderr(Stdio::null());
            if Process::start("vip-load", &mut client)?.result(START).is_ok() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("Envoy does not answer on {} ({})", self.target(), self.variant.name)
    }

    /// Runs the load generator to its end and gives what it printed.
    pub(super) fn run_client(
        &self,
        load: &Path,
        words: &[String],
        cgroups: &Cgroups,
        cpu: &Cpu,
        within: Duration,
    ) -> Result<String> {
        Process::start("vip-load", &mut self.client(load, words, cgroups, cpu))?.result(within)
    }

    fn client(&self, load: &Path, words: &[String], cgroups: &Cgroups, cpu: &Cpu) -> Command {
        let cgroup = if self.variant.is_ours() { &cgroups.workloads } else { &cgroups.plain };
        let mut command = placed(&self.netns(), cgroup, cpu, load);
        command.args(words);
        command
    }

    fn proxy_cgroup<'a>(&self, cgroups: &'a Cgroups) -> &'a PathBuf {
        if self.variant.is_ours() { &cgroups.proxy } else { &cgroups.plain }
    }
}

/// Client ports stay clear of the proxy's; closed connections give their ports back soon.
const NETWORK: &str = "
ip link set lo up
ip link add eth0 type veth peer name eth1
ip addr add 10.99.0.2/24 dev eth0
ip addr add fd99::2/64 dev eth0 nodad
ip link set eth0 up
ip link set eth1 up
ip route add default via 10.99.0.1 dev eth0
ip -6 route add default via fd99::1 dev eth0
echo 16000 65000 >/proc/sys/net/ipv4/ip_local_port_range
echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse
";
