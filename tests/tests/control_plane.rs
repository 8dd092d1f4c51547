//! `kuma-dns control-plane` alone: file, environment and flags in their order, names and VIPs that survive it, words for what
//! it refuses. Through the binary, each test in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::process::{Command, Output};

use harness::binaries;
use harness::netns::Netns;
use harness::process::Process;
use harness::wait::wait_until;
use tempfile::TempDir;

/// How long a start may take on a busy machine.
const SECS: u64 = 20;

const MESH: &str = "services:\n- {service: web, endpoints: [\"127.0.0.1:1\"]}\n- {mesh: b, service: db, endpoints: [\"127.0.0.1:2\"]}\n";

struct Place {
    netns: Netns,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { netns: Netns::new().unwrap(), dir: tempfile::tempdir().unwrap() };
        place.write("mesh.yaml", MESH);
        place
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// `control-plane` on the mesh file, with its data here and nothing of the caller's environment.
    fn command(&self, args: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(binaries::kuma_dns().unwrap());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KUMA_")) {
            command.env_remove(name);
        }
        command.args(["--data"]).arg(self.dir.path().join("data")).arg("control-plane");
        command.arg("-f").arg(self.dir.path().join("mesh.yaml")).args(args);
        command.envs(environment.iter().copied());
        command
    }

    fn start(&self, args: &[&str], environment: &[(&str, &str)]) -> Process {
        let command = self.command(args, environment);
        let log = self.dir.path().join("log");
        let mut process = self.netns.run(|| Process::start(command, &log)).unwrap();
        wait_until(SECS, "ready, or ended", || process.said().contains("ready") || process.ended().is_some());
        assert!(process.ended().is_none(), "{}", process.said());
        process
    }

    /// Runs it to its end, which must come by itself.
    fn output(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let inner = self.command(args, environment);
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "20"]).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.netns.run(|| command.output()).unwrap()
    }

    fn dig(&self, port: u16, name: &str) -> String {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &port.to_string(), "+short", "+tries=1", "+timeout=5", name, "A"]);
        String::from_utf8(self.netns.run(|| dig.output()).unwrap().stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn it_serves_names_and_xds_alone_and_a_restart_changes_no_vip() {
    let place = Place::new();
    let mut first = place.start(&[], &[]);
    let vips = (place.dig(5653, "web.mesh"), place.dig(5653, "db.mesh"));
    assert!(vips.0.starts_with("240.0.0.") && vips.1.starts_with("240.0.0."), "{vips:?}\n{}", first.said());
    let xds = place.netns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 5678)).is_ok());
    assert!(xds, "xDS is there:\n{}", first.said());

    let second = place.output(&["--dns-server-port", "0", "--dp-server-port", "5679"], &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another process"), "{second:?}");

    assert_eq!(first.terminate().unwrap().code(), Some(0), "{}", first.said());
    // The order in the file changes; the VIPs do not.
    place.write("mesh.yaml", "services:\n- {mesh: b, service: db, endpoints: [\"127.0.0.1:2\"]}\n- {service: a, endpoints: [\"127.0.0.1:3\"]}\n- {service: web, endpoints: [\"127.0.0.1:1\"]}\n");
    let _again = place.start(&[], &[]);
    assert_eq!((place.dig(5653, "web.mesh"), place.dig(5653, "db.mesh")), vips);
}

#[test]
fn the_file_the_environment_and_the_flags_each_have_their_say() {
    let place = Place::new();
    let config = place.write("cp.yaml", "dnsServer: {domain: file, port: 1053}\nstore: {type: memory}\n");
    let environment = [("KUMA_DNS_SERVER_DOMAIN", "env"), ("KUMA_DP_SERVER_PORT", "6678")];
    let process = place.start(&["-c", &config, "--dns-server-port", "2053"], &environment);
    assert!(place.dig(2053, "web.env").starts_with("240.0.0."), "{}", process.said());
    assert!(place.netns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 6678)).is_ok()));
    assert!(!place.dir.path().join("data").exists(), "a memory store leaves nothing behind");

    let printed = place.output(&["-c", &config, "--print-config", "--dns-server-port", "2053"], &environment);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success());
    for line in ["  domain: \"env\"\n", "  port: 2053\n", "  type: memory\n", "dpServer:\n  port: 6678\n"] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
}

#[test]
fn what_it_refuses_it_refuses_in_words() {
    let place = Place::new();
    let typo = place.write("typo.yaml", "dnsServer: {domian: mesh}\n");
    let own = place.write("own.yaml", "dnsServer: {ttl: 30}\nservices: []\n");
    let _taken = place.netns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 5653)).unwrap());
    for (args, environment, code, parts) in [
        (&["-c", &typo][..], &[][..], 2, &["typo.yaml:1: dnsServer.domian", "\"domain\""][..]),
        (&["-c", "/nowhere/cp.yaml"], &[], 2, &["/nowhere/cp.yaml: cannot be read"]),
        (
            &[],
            &[("KUMA_DNS_SERVER_DOMIAN", "x")],
            2,
            &["KUMA_DNS_SERVER_DOMIAN", "\"KUMA_DNS_SERVER_DOMAIN\""],
        ),
        (&[], &[("KUMA_DNS_SERVER_CIDR", "x")], 2, &["KUMA_DNS_SERVER_CIDR: \"x\" is no CIDR"]),
        (
            &["--store-type", "redis"],
            &[],
            2,
            &["--store-type: \"redis\" is no store", "memory, embedded, postgres"],
        ),
        (&["-f", &own], &[], 2, &["own.yaml:1: dnsServer", "the control plane's configuration"]),
        (&[], &[], 1, &["127.0.0.1:5653 is in use", "dnsServer.port"]),
    ] {
        let output = place.output(args, environment);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?} {environment:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in:\n{said}");
        }
    }
}
