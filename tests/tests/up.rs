//! One machine, one command: names resolve, VIPs answer through a real Envoy, edits are live, restarts lose nothing.
//! Through the binary alone, in namespaces of their own.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::backend::Speaks;
use harness::wait::wait_until;
use harness::world::World;
use nix::sys::signal::Signal;

const ECHO: &str = "echo-server_echo-example_svc_1010";
const DOTTED: &str = "echo-server.echo-example.svc.1010";

fn echo_world() -> World {
    World::builder().service(ECHO, Speaks::Http, 2).service("redis", Speaks::Tcp, 1).up().unwrap()
}

fn vips(world: &World, name: &str) -> Vec<IpAddr> {
    world.resolves(name).unwrap()
}

fn curl(world: &World, flag: &str, host: &str) -> String {
    let url = format!("http://{host}/");
    world.says(["curl", "--silent", "--show-error", "--max-time", "10", flag, &url]).unwrap()
}

#[test]
fn every_way_to_ask_finds_the_same_addresses() {
    let world = echo_world();
    let name = format!("{ECHO}.mesh");
    let both = vips(&world, &name);
    let [v4, v6] = both[..] else { panic!("{both:?}") };
    assert!(v4.is_ipv4() && v6.is_ipv6(), "{both:?}");
    assert_eq!(vips(&world, &format!("{DOTTED}.mesh")), both, "the dotted name is an alias");
    for (kind, vip) in [("A", v4), ("AAAA", v6)] {
        for transport in ["+notcp", "+tcp"] {
            let said = world.says(["dig", "+short", transport, &name, kind]).unwrap();
            assert_eq!(said.trim().parse(), Ok(vip), "dig {transport} {kind}");
        }
    }
    let said = world.says(["busybox", "nslookup", &name]).unwrap();
    assert!(said.contains(&v4.to_string()) && said.contains(&v6.to_string()), "{said}");
    // In its own order: IPv4 first, whose way to the proxy is the shorter one.
    let script = "import socket,sys; print(*[a[4][0] for a in socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)])";
    let said = world.says(["python3", "-c", script, &name]).unwrap();
    assert_eq!(said.trim(), format!("{v4} {v6}"));
    let said = world.says(["getent", "hosts", &name.to_uppercase()]).unwrap();
    assert!(said.contains(&v6.to_string()), "names do not care for case: {said}");
}

#[test]
fn both_names_and_both_families_reach_the_service_through_envoy() {
    let world = echo_world();
    for host in [ECHO, DOTTED] {
        for family in ["--ipv4", "--ipv6"] {
            let body = curl(&world, family, &format!("{host}.mesh"));
            assert!(body.starts_with(&format!("{ECHO} at 127.0.0.1:700")), "{host} {family}: {body}");
            assert!(body.contains(&format!("asked as {host}.mesh")), "{host} {family}: {body}");
        }
    }
    let script =
        "import socket; s=socket.create_connection(('redis.mesh', 80), 5); print(s.makefile().readline())";
    let said = world.says(["python3", "-c", script]).unwrap();
    assert!(said.starts_with("redis at 127.0.0.1:"), "TCP services are reached as well: {said}");
}

#[test]
fn exec_becomes_its_command() {
    let world = World::up(["redis"]).unwrap();
    let code = |command: [&str; 3]| world.exec(command).unwrap().status.code();
    assert_eq!(code(["sh", "-c", "exit 42"]), Some(42));
    assert_eq!(world.exec(["no-such-command"]).unwrap().status.code(), Some(127));
    assert_eq!(world.exec(["/etc/passwd"]).unwrap().status.code(), Some(126));
    let killed = world.exec(["sh", "-c", "kill -TERM $$"]).unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(15));
    let inside = world.says(["ls", "/proc/self/fd"]).unwrap();
    let outside = std::process::Command::new("ls").arg("/proc/self/fd").output().unwrap().stdout;
    assert_eq!(inside, String::from_utf8(outside).unwrap(), "nothing of ours stays open");
}

#[test]
fn a_vip_that_nobody_has_refuses_at_once() {
    let world = World::up(["redis"]).unwrap();
    let begin = Instant::now();
    let refused = world.exec(["curl", "--silent", "--max-time", "10", "http://240.9.9.9/"]).unwrap();
    assert_eq!(refused.status.code(), Some(7), "curl's code for a refused connection");
    assert!(begin.elapsed() < Duration::from_secs(5), "at once, not after a timeout");
}

#[test]
fn what_is_outside_exec_is_left_alone() {
    let world = World::up(["redis"]).unwrap();
    let outside = world.netns().run(|| std::net::TcpStream::connect("240.0.0.1:80"));
    let error = outside.expect_err("no route leads to 240.0.0.1 from a namespace that has only lo");
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
}

/// A client that watches one name from inside; its lines are what it saw change.
struct Watch(std::process::Child);

impl Watch {
    fn start(world: &World, name: &str) -> Self {
        let client = harness::binaries::client().unwrap();
        let mut command = world.inside([&*client.to_string_lossy(), "watch", name]).unwrap();
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn end(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn an_edit_is_live_within_a_second_and_a_name_never_leads_nowhere() {
    let mut world = World::up(["redis"]).unwrap();
    let watch = Watch::start(&world, "news.mesh");
    let begin = Instant::now();
    world.add("news", Speaks::Http, 1).unwrap();
    wait_until(5, "news.mesh answers", || {
        world
            .exec(["curl", "--silent", "--max-time", "1", "http://news.mesh/"])
            .unwrap()
            .stdout
            .starts_with(b"news ")
    });
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(1), "an added service answers within a second, it took {took:?}");
    world.remove("news").unwrap();
    wait_until(5, "news.mesh is gone", || vips(&world, "news.mesh").is_empty());
    wait_until(5, "the VIP refuses", || {
        world.exec(["curl", "--silent", "--max-time", "1", "http://240.0.0.2/"]).unwrap().status.code()
            == Some(7)
    });
    let saw = watch.end();
    let states: Vec<&str> =
        saw.lines().filter_map(|line| line.split_once(' ')).map(|(_, state)| state).collect();
    assert!(states.iter().any(|state| state.starts_with("Serves")), "{saw}");
    assert!(
        !states.iter().any(|state| state.starts_with("Broken")),
        "a name led to a VIP that does not serve:\n{saw}"
    );
    let serves = states.iter().position(|state| state.starts_with("Serves")).unwrap();
    assert!(states[serves..].contains(&"Gone"), "{saw}");
}

#[test]
fn a_restart_keeps_every_vip_also_of_names_that_came_in_another_order() {
    let mut world = World::up(["zebra", "monkey"]).unwrap();
    world.add("ape", Speaks::Http, 1).unwrap();
    wait_until(5, "ape.mesh resolves", || !vips(&world, "ape.mesh").is_empty());
    let all = |world: &World| ["zebra", "monkey", "ape"].map(|name| vips(world, &format!("{name}.mesh")));
    let before = all(&world);
    assert!(world.stop(Signal::SIGTERM).unwrap().success());
    world.start().unwrap();
    world.wait_ready().unwrap();
    assert_eq!(all(&world), before);
}

#[test]
fn after_kill_9_the_datapath_stays_and_the_next_start_takes_it_over() {
    let mut world = echo_world();
    let before = vips(&world, &format!("{ECHO}.mesh"));
    let links = |world: &World| world.status().unwrap()["datapath"]["programs"].clone();
    let attached = links(&world);
    world.stop(Signal::SIGKILL).unwrap();
    let status = world.kuma_dns().unwrap().arg("status").output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(3), "{said}");
    assert!(said.contains("connect4"), "the pins are read and shown: {said}");
    world.start().unwrap();
    world.wait_ready().unwrap();
    assert_eq!(links(&world), attached, "the same programs at the same places");
    assert_eq!(vips(&world, &format!("{ECHO}.mesh")), before);
    let body = curl(&world, "--ipv6", &format!("{ECHO}.mesh"));
    assert!(body.starts_with(ECHO), "{body}");
}

#[test]
fn a_mistake_in_an_edit_is_told_and_changes_nothing() {
    let world = World::up(["redis"]).unwrap();
    let before = vips(&world, "redis.mesh");
    let mut text = std::fs::read_to_string(world.mesh_file()).unwrap();
    writeln!(text, "  - {{mesh: default, service: bad, endpoints: [\"nowhere\"]}}").unwrap();
    std::fs::write(world.mesh_file(), text).unwrap();
    wait_until(5, "the mistake is in the log", || world.up_said().contains("nowhere"));
    assert_eq!(vips(&world, "redis.mesh"), before);
    assert!(vips(&world, "bad.mesh").is_empty());
}

#[test]
fn a_foreign_envoy_started_by_exec_proxy_serves_as_well_as_ours() {
    let mut world = World::builder().without_envoy().service("redis", Speaks::Http, 1).build().unwrap();
    world.start().unwrap();
    let bootstrap = world.dir().join("bootstrap.yaml");
    std::fs::write(&bootstrap, FOREIGN_BOOTSTRAP).unwrap();
    let envoy = harness::binaries::envoy().unwrap();
    let mut command = world.kuma_dns().unwrap();
    command.args(["exec", "--proxy", "--"]).arg(envoy).arg("-c").arg(&bootstrap).args(["--concurrency", "1"]);
    let log = world.dir().join("envoy.log");
    let _envoy = harness::process::Process::start(command, &log).unwrap();
    world.wait_ready().unwrap();
    assert!(curl(&world, "--ipv4", "redis.mesh").starts_with("redis at"));
    assert!(curl(&world, "--ipv6", "redis.mesh").starts_with("redis at"));
}

/// A bootstrap as an operator writes it: all that matters is the ADS cluster and the node's cluster, the mesh.
const FOREIGN_BOOTSTRAP: &str = r"
node: {id: default.mine, cluster: default}
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: kuma-dns}}]
static_resources:
  clusters:
  - name: kuma-dns
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: kuma-dns
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 5678}}}}]}]
";

#[test]
fn a_proxy_that_is_recognised_by_its_user_serves_as_well() {
    let world =
        World::builder().service("redis", Speaks::Http, 1).args(["--proxy-uid", "5678"]).up().unwrap();
    assert!(curl(&world, "--ipv4", "redis.mesh").starts_with("redis at"));
    assert!(curl(&world, "--ipv6", "redis.mesh").starts_with("redis at"));
}

#[test]
fn exec_reaches_the_mesh_from_where_cgroups_are_hidden() {
    let world = World::up(["redis"]).unwrap();
    // What `ip netns exec` does: another namespace, and a fresh /sys over the cgroup mounts.
    let exec = world.inside(["curl", "--silent", "--max-time", "10", "http://redis.mesh/"]).unwrap();
    let mut hidden = std::process::Command::new("unshare");
    hidden.args([
        "--net",
        "--mount",
        "sh",
        "-c",
        "umount -l /sys && mount -t sysfs sysfs /sys && exec \"$@\"",
        "sh",
    ]);
    let output =
        hidden.arg(exec.get_program()).args(exec.get_args()).env_remove("http_proxy").output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("redis at"), "{said}");
}
