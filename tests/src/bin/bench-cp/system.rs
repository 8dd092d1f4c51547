//! A control plane and an agent at one size: start, restart, one change until it is in the kernel, and until traffic flows
//! through a real Envoy; memory of both.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::backend::Speaks;
use harness::netns::Netns;
use harness::pinned::PinnedVips;
use harness::rest::Rest;
use harness::world::World;
use kuma_dns::wire::node::Role;
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::client::Client;
use super::measure::{rss_bytes, say, say_times};

/// How long anything may take, with 100,000 services on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at a log, and at the kernel's map.
const LOOK: Duration = Duration::from_millis(2);
const PEEK: Duration = Duration::from_micros(200);
/// The port of services without one of their own.
const VIP_PORT: u16 = 80;
/// One service that answers; the new ones lead to its backend.
const BACKEND: &str = "echo";

pub(crate) fn measure(size: usize, changes: usize, envoy: &str) -> Result<()> {
    let mut builder =
        World::builder().name(&format!("bench{}", std::process::id())).service(BACKEND, Speaks::Http, 1);
    if envoy == "none" {
        builder = builder.without_envoy();
    }
    let mut world = builder.mesh(|mesh| mesh.more = services(size - 1)).apart("").build()?;
    say("start to ready", start_plane(&mut world)?.as_secs_f64(), "s")?;
    let empty = world.stop_plane(Signal::SIGTERM)?;
    ensure!(empty.success(), "the control plane ended with {empty}");
    say("restart to ready", start_plane(&mut world)?.as_secs_f64(), "s")?;

    let stand_in = if envoy == "none" { Some(StandIn::start(world.netns())?) } else { None };
    let begin = Instant::now();
    world.start_agent(&["--control-plane", "http://127.0.0.1:5678"])?;
    // Not until it is ready: it waits for an Envoy, and a stand-in has no port.
    wait("the datapath", || Ok(PinnedVips::open(world.instance(), "default").is_ok()))?;
    let vips = PinnedVips::open(world.instance(), "default")?;
    wait("the last VIP in the kernel", || in_kernel(&vips, size - 1))?;
    say("agent start to all VIPs in the kernel", begin.elapsed().as_secs_f64(), "s")?;

    let mut rest = Rest::connect(world.netns())?;
    let instance = SocketAddr::from((Ipv4Addr::LOCALHOST, world.backend_port(BACKEND)?));
    let (mut acknowledged, mut in_map) = (Vec::new(), Vec::new());
    for change in 0..changes {
        let begin = Instant::now();
        rest.put_service(&format!("bench-{change}"), instance)?;
        acknowledged.push(begin.elapsed());
        peek("a VIP in the kernel", || in_kernel(&vips, size + change))?;
        in_map.push(begin.elapsed());
    }
    check_guess(&mut rest, size)?;
    say_times("REST write to answer", &acknowledged)?;
    say_times("REST write to kernel map", &in_map)?;
    if envoy != "none" {
        say_times("REST write to traffic", &traffic(&world, &mut rest, size + changes, instance, changes)?)?;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say("control plane RSS", mib(rss_bytes(world.plane_pid()?)?), "MB")?;
    say("agent RSS", mib(rss_bytes(world.up_pid()?)?), "MB")?;
    stand_in.map_or(Ok(()), StandIn::stop)
}

/// A proxy that acknowledges everything, in place of Envoy.
struct StandIn {
    runtime: Runtime,
    task: JoinHandle<Result<()>>,
}

impl StandIn {
    fn start(netns: &Netns) -> Result<Self> {
        // The one thread is where its maker is.
        let runtime = netns.run(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            runtime.block_on(runtime.spawn(async {}))?;
            anyhow::Ok(runtime)
        })?;
        let task = runtime.spawn(async {
            let mut proxy = Client::connect("stand-in", Role::Proxy).await?;
            loop {
                proxy.next().await?;
            }
        });
        Ok(Self { runtime, task })
    }

    /// It must not have ended before.
    fn stop(self) -> Result<()> {
        if self.task.is_finished() {
            return self.runtime.block_on(self.task)?.context("the proxy's stand-in");
        }
        self.task.abort();
        Ok(())
    }
}

/// Where the one instance of a service is that nobody asks.
pub(crate) fn only_service() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7001))
}

/// Services in the short form.
pub(crate) fn services(count: usize) -> String {
    let mut text = String::from("services:\n");
    for number in 0..count {
        text.push_str(&format!("- {{service: s{number:06}, endpoints: [\"10.0.0.1:7001\"]}}\n"));
    }
    text
}

fn start_plane(world: &mut World) -> Result<Duration> {
    let begin = Instant::now();
    world.start_plane()?;
    wait("the control plane", || Ok(world.plane_said().contains(" ready ")))?;
    Ok(begin.elapsed())
}

fn wait(what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
    poll(what, LOOK, holds)
}

fn peek(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    poll(what, PEEK, &mut holds)
}

fn poll(what: &str, rest: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !holds()? {
        ensure!(begin.elapsed() < DEADLINE, "not within {} s: {what}", DEADLINE.as_secs());
        std::thread::sleep(rest);
    }
    Ok(())
}

/// VIPs of the service that came as this number: addresses are handed out from the network's first one up.
fn vips_of(number: usize) -> [IpAddr; 2] {
    let low = u32::try_from(number).expect("a benchmark has fewer services than IPv4 addresses");
    let v6 = u128::from(Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, 0)) + u128::from(low);
    [Ipv4Addr::from(0xf000_0000 + low).into(), Ipv6Addr::from(v6).into()]
}

fn in_kernel(vips: &PinnedVips, number: usize) -> Result<bool> {
    let [v4, v6] = vips_of(number);
    Ok(vips.has(SocketAddr::new(v4, VIP_PORT))? && vips.has(SocketAddr::new(v6, VIP_PORT))?)
}

/// The VIPs that were waited for are those of the services that were put.
fn check_guess(rest: &mut Rest, size: usize) -> Result<()> {
    let vip = rest.vip("bench-0")?.context("bench-0 has no VIP")?;
    let [v4, v6] = vips_of(size).map(|address| address.to_string());
    ensure!(
        vip["v4"] == v4.as_str() && vip["v6"] == v6.as_str(),
        "bench-0 has {vip}, and {v4} and {v6} were waited for"
    );
    Ok(())
}

/// From a write until an application inside the mesh has an answer through the new VIP.
fn traffic(
    world: &World,
    rest: &mut Rest,
    first: usize,
    instance: SocketAddr,
    changes: usize,
) -> Result<Vec<Duration>> {
    let us = std::env::current_exe()?.display().to_string();
    let mut application = Application::start(world, &us)?;
    let mut times = Vec::new();
    for change in 0..changes {
        let vip = SocketAddr::new(vips_of(first + change)[change % 2], VIP_PORT);
        let begin = Instant::now();
        application.ask(vip)?;
        rest.put_service(&format!("traffic-{change}"), instance)?;
        application.heard()?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

struct Application {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Application {
    fn start(world: &World, us: &str) -> Result<Self> {
        let mut command = world.inside([us, "connect"])?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("no exec")?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut application = Self { child, stdin, stdout };
        application.heard()?;
        Ok(application)
    }

    fn ask(&mut self, vip: SocketAddr) -> Result<()> {
        writeln!(self.stdin, "{vip}").context("the application has ended")
    }

    fn heard(&mut self) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the application inside the mesh has ended");
        Ok(())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // It also ends when its stdin closes, a moment later.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
