//! Every mistake gets one clear sentence: which file, which field, which value, what to do; and nothing is half-attached.
//! Through the binary, each case in namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::binaries;
use harness::cgroup::Cgroup;
use harness::foreign::{Foreign, Sharing};
use harness::world::World;
use kuma_dns::kernel::cgroup;
use kuma_dns::model::instance::Instance;

/// Not ready, not running, cannot be read: none of these is a mistake of the input.
const BAD_INPUT: i32 = 2;
const FAILED: i32 = 1;
const NOT_SUPPORTED: i32 = 4;

const GOOD: &str = "services:\n  - {mesh: default, service: redis, endpoints: [\"127.0.0.1:6379\"]}\n";

/// `up` on a mesh file of this text, in the world's namespace, begun by `prefix`; it must end by itself.
fn up(world: &World, text: &str, prefix: &[&str]) -> Output {
    std::fs::write(world.mesh_file(), text).unwrap();
    let mut up = world.kuma_dns().unwrap();
    up.args(["up", "--envoy", "none", "-f"]).arg(world.mesh_file());
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "30"]).args(prefix).arg(up.get_program()).args(up.get_args());
    world.netns().run(|| command.output()).unwrap()
}

fn world() -> World {
    World::builder().without_envoy().build().unwrap()
}

/// The exit code, every part in the message, no Rust in it, and no trace on the machine.
#[track_caller]
fn refused(world: &World, output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains("error: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    for noise in ["Error {", "Os {", "Some(", "panicked"] {
        assert!(!said.contains(noise), "{noise:?} in:\n{said}");
    }
    assert_eq!(traces(world), Vec::<PathBuf>::new(), "nothing is left of:\n{said}");
}

fn traces(world: &World) -> Vec<PathBuf> {
    let instance: Instance = world.instance().parse().unwrap();
    let socket = instance.socket(&world.dir().join("run"));
    let places =
        [instance.pins(Path::new("/sys/fs/bpf")), instance.cgroup(&cgroup::find_cgroup2().unwrap()), socket];
    places.into_iter().filter(|place| place.exists()).collect()
}

fn service(name: &str, rest: &str) -> String {
    format!("services:\n  - {{mesh: default, service: {name}, {rest}}}\n")
}

#[test]
fn a_mistake_in_the_file_names_file_field_value_and_next_step() {
    let world = world();
    let long_label = "a".repeat(64);
    let long_name = [&*"b".repeat(60); 5].join(".");
    let endpoints = "endpoints: [\"127.0.0.1:1\"]";
    let cases: [(String, &[&str]); 9] = [
        (service("redis", &format!("protocl: http, {endpoints}")), &["mesh.yaml:2", "protocl", "protocol"]),
        (
            format!("{GOOD}  - {{mesh: default, service: redis, {endpoints}}}\n"),
            &["mesh.yaml:3", "redis", "mesh.yaml:2"],
        ),
        (
            format!(
                "dnsServer: {{CIDR: 240.0.0.0/31}}\n{GOOD}  - {{service: b, {endpoints}}}\n  - {{service: c, {endpoints}}}\n"
            ),
            &["mesh.yaml:1", "dnsServer.CIDR", "2 addresses", "3 services"],
        ),
        (
            format!("dnsServer: {{CIDR: \"fd00::/16\", CIDR6: \"fd00:fd00::/64\"}}\n{GOOD}"),
            &["mesh.yaml:1", "dnsServer.CIDR6", "fd00:fd00::/64", "overlaps", "fd00::/16"],
        ),
        (
            format!("dnsServer: {{CIDR: 240.0.0.0/33}}\n{GOOD}"),
            &["mesh.yaml:1", "dnsServer.CIDR", "240.0.0.0/33", "240.0.0.0/4"],
        ),
        (service("redis", "endpoints: [\"nowhere\"]"), &["mesh.yaml:2", "endpoints[0]", "nowhere"]),
        (service("redis", "endpoints: [\"127.0.0.1:0\"]"), &["mesh.yaml:2", "endpoints[0]", "127.0.0.1:0"]),
        (service(&long_label, endpoints), &["mesh.yaml:2", "64 bytes", "63"]),
        (service(&long_name, endpoints), &["mesh.yaml:2", "service", "bytes", "253"]),
    ];
    for (text, parts) in cases {
        let output = up(&world, &text, &[]);
        refused(&world, &output, BAD_INPUT, parts);
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once() {
    let world = world();
    let text = "dnsServer: {ttl: -1}\nservices:\n  - {service: a, endpoints: [\"x\"]}\n  - {service: b, color: red, endpoints: []}\n";
    let output = up(&world, text, &[]);
    refused(&world, &output, BAD_INPUT, &["3 mistakes", "dnsServer.ttl", "endpoints[0]", "color"]);
}

#[test]
fn a_file_that_is_missing_or_no_yaml_is_named() {
    let world = world();
    let output = up(&world, "services: [\n", &[]);
    refused(&world, &output, BAD_INPUT, &["mesh.yaml", "YAML"]);
    let missing = world.kuma_dns().unwrap().args(["up", "-f", "/no/such.yaml"]).output().unwrap();
    refused(&world, &missing, BAD_INPUT, &["/no/such.yaml", "No such file"]);
}

#[test]
fn a_missing_capability_is_named() {
    let world = world();
    for (dropped, named) in [("-net_admin", "CAP_NET_ADMIN"), ("-sys_admin,-bpf", "CAP_BPF")] {
        let output = up(&world, GOOD, &["setpriv", "--bounding-set", dropped, "--inh-caps", dropped]);
        refused(&world, &output, NOT_SUPPORTED, &[named, "root"]);
    }
}

#[test]
fn a_machine_with_cgroup_v1_only_is_told_how_to_get_v2() {
    let world = world();
    let hide = "for point in $(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts); do umount $point; done; exec \"$@\"";
    let output = up(&world, GOOD, &["unshare", "--mount", "sh", "-c", hide, "sh"]);
    refused(&world, &output, NOT_SUPPORTED, &["cgroup v2", "mount -t cgroup2"]);
}

#[test]
fn a_kernel_without_btf_is_told_what_it_needs() {
    let world = world();
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let output = up(&world, GOOD, &["unshare", "--mount", "sh", "-c", hide, "sh"]);
    refused(&world, &output, NOT_SUPPORTED, &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let world = world();
    for (port, flag) in [(5678, "--xds-port"), (15053, "--dns-port")] {
        let taken = world.netns().run(move || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        let output = up(&world, GOOD, &[]);
        refused(&world, &output, FAILED, &[&port.to_string(), "in use", flag]);
        drop(taken);
    }
    for (port, flag) in [(15001, "--outbound-port"), (9901, "--admin-port")] {
        let taken = world.netns().run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::fs::write(world.mesh_file(), GOOD).unwrap();
        let mut command = world.kuma_dns().unwrap();
        command.args(["up", "--envoy"]).arg(binaries::envoy().unwrap()).arg("-f").arg(world.mesh_file());
        let mut limited = Command::new("timeout");
        limited.args(["--kill-after=5", "30"]).arg(command.get_program()).args(command.get_args());
        let output = world.netns().run(|| limited.output()).unwrap();
        refused(&world, &output, FAILED, &[&port.to_string(), "in use", flag]);
        drop(taken);
    }
}

#[test]
fn a_program_of_somebody_else_that_shares_with_nobody_is_named() {
    let world = world();
    let above = cgroup::find_cgroup2().unwrap().join("kuma-dns").join(world.instance());
    let guard = Cgroup::at(above).unwrap();
    let foreign = Foreign::attach(guard.path(), "gatekeeper", Sharing::Exclusive).unwrap();
    let output = up(&world, GOOD, &[]);
    drop((foreign, guard));
    refused(&world, &output, FAILED, &["gatekeeper", "connect4", world.instance(), "detach"]);
}

#[test]
fn pins_of_another_abi_version_are_left_alone_and_named() {
    let world = world();
    let instance: Instance = world.instance().parse().unwrap();
    let pins = instance.pins(Path::new("/sys/fs/bpf"));
    std::fs::create_dir_all(pins.join("v999/links")).unwrap();
    let output = up(&world, GOOD, &[]);
    let kept = pins.join("v999/links").exists();
    std::fs::remove_dir(pins.join("v999/links")).unwrap();
    std::fs::remove_dir(pins.join("v999")).unwrap();
    std::fs::remove_dir(&pins).unwrap();
    assert!(kept, "what we do not understand we do not touch");
    refused(&world, &output, FAILED, &["999", &pins.display().to_string(), "kuma-dns cleanup"]);
}

#[test]
fn a_second_up_of_the_same_instance_is_told_who_is_first() {
    let mut world = world();
    std::fs::write(world.mesh_file(), GOOD).unwrap();
    world.start().unwrap();
    harness::wait::wait_until(10, "the first listens", || {
        world.status().is_ok_and(|status| status["pid"] != 0)
    });
    let mut second = world.kuma_dns().unwrap();
    second
        .args(["up", "--envoy", "none", "--api-port", "0", "--xds-port", "5679", "--dns-port", "25053", "-f"])
        .arg(world.mesh_file());
    let output = world.netns().run(|| second.output()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(FAILED), "{said}");
    assert!(said.contains(world.instance()) && said.contains("--instance"), "{said}");
    assert!(world.status().unwrap()["pid"] != 0, "the first goes on");
}
