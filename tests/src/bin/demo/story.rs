//! What the demo does and tells. Keeps: a line is printed only when it is true; the first thing that is not as told ends the
//! demo with an error. Called by main, in a process of its own.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harness::backend::Speaks;
use harness::wait::holds_within;
use harness::world::World;

use super::evidence::{self, Counters};

const ECHO: &str = "echo-server_echo-example_svc_1010";
const ORDERS: &str = "orders_shop_svc_8080";
const NEWS: &str = "news_shop_svc_9090";
/// How long an edit of the mesh file may take to be seen everywhere.
const EDIT_SECS: u64 = 5;

/// The story's pen: numbered steps, aligned facts.
#[derive(Default)]
struct Teller {
    step: u32,
}

impl Teller {
    fn step(&mut self, title: &str) {
        self.step += 1;
        println!("\n{:2}  {title}", self.step);
    }

    fn fact(&self, what: &str, value: impl Display) {
        println!("      {what:<9} {value}");
    }
}

/// One demo from start to end.
pub(crate) fn tell(instance: &str) -> anyhow::Result<()> {
    let mut teller = Teller::default();
    println!(
        "kuma-dns: a mesh on this machine, in a network namespace of its own, without one iptables rule"
    );
    let mut world = start(&mut teller, instance)?;
    let vips = names(&mut teller, &world)?;
    visits(&mut teller, &world, &vips)?;
    changes(&mut teller, &mut world)?;
    no_packet_filter(&mut teller, &world)?;
    end(&mut teller, world)
}

fn start(teller: &mut Teller, instance: &str) -> anyhow::Result<World> {
    teller.step("kuma-dns up -f mesh.yaml");
    let begin = Instant::now();
    let world = World::builder()
        .name(instance)
        .service(ECHO, Speaks::Http, 2)
        .service(ORDERS, Speaks::Http, 1)
        .up()?;
    let took = begin.elapsed();
    let status = world.status()?;
    let programs = status["datapath"]["programs"].as_array().map_or(0, Vec::len);
    ensure!(programs > 0, "no program is attached");
    teller.fact("services", format_args!("{ECHO} (2 backends), {ORDERS} (1 backend)"));
    teller.fact(
        "proxy",
        format_args!("a real Envoy {}, started by kuma-dns", evidence::envoy_version(&world)?),
    );
    teller.fact(
        "kernel",
        format_args!("{programs} BPF programs on the cgroup of instance {instance}, nothing else is touched"),
    );
    teller.fact("time", millis(took));
    Ok(world)
}

/// The VIPs of the echo service.
struct Vips {
    v4: IpAddr,
    v6: IpAddr,
}

fn names(teller: &mut Teller, world: &World) -> anyhow::Result<Vips> {
    let name = format!("{ECHO}.mesh");
    teller.step(&format!("kuma-dns exec -- getent hosts {name}"));
    let before = Counters::read(world)?;
    let begin = Instant::now();
    let said = world.says(["getent", "hosts", &name])?;
    let took = begin.elapsed();
    ensure!(said.contains(&name), "getent said {said:?}");
    let after = Counters::read(world)?;
    let asked = questions(&after, &before);
    ensure!(asked > 0, "the kernel sent no question to the resolver");
    teller.fact("asked", "the nameserver of /etc/resolv.conf, as getent believes");
    teller.fact("kernel", format_args!("sent the question to our resolver at connect() (dns +{asked})"));
    teller.fact("answer", said.trim());
    teller.fact("time", millis(took));

    let v4 = dig(teller, world, &name, "A", "+notcp")?;
    let v6 = dig(teller, world, &name, "AAAA", "+tcp")?;
    let all = world.resolves(&name)?;
    ensure!(all == [v4, v6], "getaddrinfo finds {all:?}, dig {v4} and {v6}");
    Ok(Vips { v4, v6 })
}

/// Questions that went to the resolver, by every way there is.
fn questions(after: &Counters, before: &Counters) -> u64 {
    ["dns_connected", "dns_tcp", "dns_slot", "dns_same_server"]
        .iter()
        .map(|reason| after.grown(before, reason))
        .sum()
}

fn dig(
    teller: &mut Teller,
    world: &World,
    name: &str,
    kind: &str,
    transport: &str,
) -> anyhow::Result<IpAddr> {
    teller.step(&format!("kuma-dns exec -- dig {transport} {name} {kind}"));
    let begin = Instant::now();
    let said = world.says(["dig", "+noall", "+answer", transport, name, kind])?;
    let took = begin.elapsed();
    let fields: Vec<&str> = said.split_whitespace().collect();
    let [_, ttl, _, _, address] = fields[..] else { anyhow::bail!("dig said {said:?}") };
    teller.fact("answer", format_args!("{kind} {address}, TTL {ttl} s"));
    teller.fact("time", millis(took));
    address.parse().with_context(|| format!("dig said {said:?}"))
}

fn visits(teller: &mut Teller, world: &World, vips: &Vips) -> anyhow::Result<()> {
    let dotted = ECHO.replace('_', ".");
    visit(teller, world, ECHO, &["--ipv4"], vips.v4, "vip_indexed")?;
    visit(teller, world, &dotted, &["--ipv4"], vips.v4, "vip_indexed")?;
    visit(teller, world, ECHO, &["--ipv6"], vips.v6, "vip_tuple")
}

fn visit(
    teller: &mut Teller,
    world: &World,
    host: &str,
    flags: &[&str],
    vip: IpAddr,
    reason: &str,
) -> anyhow::Result<()> {
    let (url, flag) = (format!("http://{host}.mesh/"), flags.concat());
    teller.step(&format!("kuma-dns exec -- curl {flag} {url}"));
    let before = Counters::read(world)?;
    let begin = Instant::now();
    let said = world.says([
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        &flag,
        "--write-out",
        "%{remote_ip} %{remote_port}",
        &url,
    ])?;
    let took = begin.elapsed();
    let after = Counters::read(world)?;
    let (body, peer) = said.trim().rsplit_once('\n').with_context(|| format!("curl said {said:?}"))?;
    ensure!(peer == format!("{vip} 80"), "curl was connected to {peer}, not to {vip} 80");
    ensure!(body.starts_with(&format!("{ECHO} at 127.0.0.1:")), "the wrong service answered: {body:?}");
    ensure!(after.grown(&before, reason) == 1, "the kernel did not redirect it for reason {reason}");
    ensure!(after.grown(&before, "original_answered") >= 1, "Envoy was not told which VIP was meant");
    let listener = if vip.is_ipv6() { format!("outbound:[{vip}]:80") } else { format!("outbound:{vip}:80") };
    let listener = evidence::listeners(world)?
        .into_iter()
        .find(|name| *name == listener || *name == format!("outbound:{vip}:80"));
    let listener = listener.with_context(|| format!("Envoy has no listener for {vip}"))?;
    teller.fact("VIP", format_args!("{vip}, port 80: what curl believes it is connected to"));
    teller.fact(
        "kernel",
        format_args!("redirected at connect() ({reason} +1), told Envoy the VIP (original_answered +1)"),
    );
    teller.fact("Envoy", format_args!("listener {listener}"));
    teller.fact("answer", body);
    teller.fact("time", millis(took));
    Ok(())
}

fn changes(teller: &mut Teller, world: &mut World) -> anyhow::Result<()> {
    let (name, url) = (format!("{NEWS}.mesh"), format!("http://{NEWS}.mesh/"));
    teller.step(&format!("a service is added to mesh.yaml: {NEWS}"));
    let begin = Instant::now();
    world.add(NEWS, Speaks::Http, 1)?;
    let visit = |world: &World| world.exec(["curl", "--silent", "--max-time", "2", &url]);
    let served = holds_within(EDIT_SECS, || {
        visit(world).is_ok_and(|output| output.stdout.starts_with(NEWS.as_bytes()))
    });
    ensure!(served, "{url} does not answer within {EDIT_SECS} s");
    teller.fact("answers", format_args!("{} after the file was saved", millis(begin.elapsed())));
    let vips = world.resolves(&name)?;
    let [v4, ..] = vips[..] else { anyhow::bail!("{name} has no address") };
    teller.fact(
        "VIPs",
        format_args!("{}", vips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    );

    teller.step(&format!("a service is removed from mesh.yaml: {NEWS}"));
    let begin = Instant::now();
    world.remove(NEWS)?;
    let gone = holds_within(EDIT_SECS, || world.resolves(&name).is_ok_and(|vips| vips.is_empty()));
    ensure!(gone, "{name} still resolves {EDIT_SECS} s later");
    teller
        .fact("name", format_args!("stops resolving, {} after the file was saved", millis(begin.elapsed())));
    let address = format!("http://{v4}/");
    let refuses = || {
        let tried = world.exec(["curl", "--silent", "--max-time", "2", &address]);
        // curl's exit code 7: the connection was refused.
        tried.is_ok_and(|output| output.status.code() == Some(7))
    };
    ensure!(holds_within(EDIT_SECS, refuses), "the removed VIP {v4} still connects");
    teller.fact(
        "VIP",
        format_args!("{v4} refuses, at once, on the client's side; it rests before another service gets it"),
    );
    Ok(())
}

fn no_packet_filter(teller: &mut Teller, world: &World) -> anyhow::Result<()> {
    let (asked, rules) = evidence::packet_filters(world)?;
    teller.step(&asked.join(", "));
    ensure!(rules.trim().is_empty(), "there are rules:\n{rules}");
    teller.fact("rules", "none");
    Ok(())
}

fn end(teller: &mut Teller, mut world: World) -> anyhow::Result<()> {
    teller.step("Ctrl-C for kuma-dns up");
    let begin = Instant::now();
    let ended = world.stop(nix::sys::signal::Signal::SIGINT)?;
    ensure!(ended.success(), "`up` ended with {ended}: {}", world.up_said());
    world.tear_down()?;
    teller.fact("time", millis(begin.elapsed()));
    Ok(())
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
