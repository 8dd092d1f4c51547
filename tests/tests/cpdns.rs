//! The control plane's DNS server through real sockets: dig asks it over UDP and TCP for everything in the mesh domain and
//! outside of it, while resource files change. Each test in a network namespace of its own.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use harness::netns::Netns;
use harness::wait::wait_until;
use kuma_dns::cp::store::StoreConfig;
use kuma_dns::cp::{Config, ControlPlane, Serving, rest};
use kuma_dns::rt::{Drain, DrainTrigger, Ready};
use tempfile::TempDir;

const PORT: u16 = 5653;
/// A change must be answered within a second; the rest is for a busy machine.
const SECS: u64 = 10;

const TWO_MESHES: &str = "services:
- {service: redis_cache_svc_6379, endpoints: [\"127.0.0.1:1\"]}
- {service: web, endpoints: [\"127.0.0.1:1\"]}
- {mesh: other, service: web, endpoints: [\"127.0.0.1:2\"]}
- {mesh: other, service: only-there, endpoints: [\"127.0.0.1:2\"]}
";

/// A control plane in a namespace of its own.
struct Plane {
    netns: Arc<Netns>,
    dir: TempDir,
    trigger: DrainTrigger,
    running: Option<JoinHandle<()>>,
}

impl Plane {
    /// Serves a file that begins with `dnsServer`'s fields; the error, if it cannot be opened.
    fn start_in(netns: Arc<Netns>, dns_server: &str, services: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let plane = Self { netns, dir, trigger: Drain::pair().0, running: None };
        plane.write(dns_server, services);
        plane.run()
    }

    fn start(dns_server: &str, services: &str) -> Self {
        Self::start_in(Arc::new(Netns::new().unwrap()), dns_server, services).unwrap()
    }

    fn run(mut self) -> Result<Self, String> {
        let (trigger, drain) = Drain::pair();
        self.trigger = trigger;
        let config = Config {
            files: vec![self.file()],
            settings: None,
            store: StoreConfig::Memory,
            xds: "127.0.0.1:0".parse().unwrap(),
            serving: Serving::default(),
            api: rest::Config::default(),
            outbounds: None,
        };
        let (opened, open) = mpsc::sync_channel(1);
        let netns = self.netns.clone();
        self.running = Some(std::thread::spawn(move || {
            netns.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let plane = ControlPlane::open(config, &Ready::default()).await;
                    let error = plane.as_ref().err().map(ToString::to_string);
                    opened.send(error).unwrap();
                    if let Ok(plane) = plane {
                        plane.run(drain).await.unwrap();
                    }
                });
            });
        }));
        open.recv().unwrap().map_or(Ok(self), Err)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("mesh.yaml")
    }

    fn write(&self, dns_server: &str, services: &str) {
        fs::write(self.file(), format!("dnsServer: {{{dns_server}}}\n{services}")).unwrap();
    }

    /// What dig prints, asked without recursion being needed.
    fn dig(&self, args: &str) -> String {
        let port = PORT.to_string();
        let mut dig = Command::new("dig");
        dig.args(["-p", &port, "+tries=1", "+timeout=5"]).args(args.split_whitespace());
        let output = self.netns.run(|| dig.output()).unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        // Its columns depend on the lengths of names.
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    fn short(&self, name: &str, qtype: &str) -> String {
        self.dig(&format!("@127.0.0.1 +short {name} {qtype}")).trim().to_owned()
    }

    fn status(&self, name: &str) -> String {
        let said = self.dig(&format!("@127.0.0.1 {name} A"));
        said.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.trigger.request();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the control plane panicked");
        }
    }
}

#[test]
fn every_name_of_every_mesh_is_answered_over_both_transports_and_both_families() {
    let plane = Plane::start("port: 5653", TWO_MESHES);
    for server in ["@127.0.0.1", "@::1"] {
        for transport in ["+notcp", "+tcp"] {
            for (name, qtype, range) in [
                ("redis_cache_svc_6379.mesh", "A", "240.0.0."),
                ("redis.cache.svc.6379.mesh", "AAAA", "fd00:fd00::"),
                ("WEB.Mesh", "A", "240.0.0."),
                ("only-there.mesh", "A", "240.0.0."),
            ] {
                let said = plane.dig(&format!("{server} {transport} {name} {qtype}"));
                assert!(said.contains("status: NOERROR") && said.contains("ANSWER: 1"), "{said}");
                assert!(said.contains(&format!(" 60 IN {qtype} {range}")), "{said}");
                let flags = said.split("flags: ").nth(1).unwrap().split(';').next().unwrap();
                assert_eq!(flags, "qr aa rd", "authoritative, and recursion is not to be had");
            }
        }
    }
    assert_ne!(plane.short("web.mesh", "A"), plane.short("only-there.mesh", "A"));
}

#[test]
fn what_does_not_exist_is_denied_with_the_soa_and_what_is_not_ours_is_refused() {
    let plane = Plane::start("port: 5653", TWO_MESHES);
    for (name, qtype, status, authority) in [
        ("nobody.mesh", "A", "NXDOMAIN", 1),
        ("below.web.mesh", "A", "NXDOMAIN", 1),
        ("web.mesh", "TXT", "NOERROR", 1),
        ("svc.6379.mesh", "A", "NOERROR", 1),
        ("mesh", "A", "NOERROR", 1),
        ("example.com", "A", "REFUSED", 0),
        ("mesh.example.com", "A", "REFUSED", 0),
        (".", "NS", "REFUSED", 0),
    ] {
        for transport in ["+notcp", "+tcp"] {
            let said = plane.dig(&format!("@127.0.0.1 {transport} {name} {qtype}"));
            let counts = format!("ANSWER: 0, AUTHORITY: {authority}");
            assert!(said.contains(&format!("status: {status}")) && said.contains(&counts), "{said}");
            assert_eq!(said.contains(" IN SOA ns.mesh. hostmaster.mesh."), authority == 1, "{said}");
        }
    }
    assert!(plane.short("mesh", "SOA").starts_with("ns.mesh. hostmaster.mesh. "));
    assert_eq!(plane.short("mesh", "NS"), "ns.mesh.");
    assert_eq!(plane.short("ns.mesh", "A"), "127.0.0.1");
}

#[test]
fn names_follow_the_files() {
    let plane = Plane::start("port: 5653", "services: []\n");
    assert_eq!(plane.status("web.mesh"), "NXDOMAIN");
    plane.write("port: 5653", TWO_MESHES);
    wait_until(SECS, "an added service is answered", || plane.status("web.mesh") == "NOERROR");
    let vip = plane.short("web.mesh", "A");
    plane.write("port: 5653, domain: svc.example", TWO_MESHES);
    wait_until(SECS, "another domain is answered", || plane.short("web.svc.example", "A") == vip);
    assert_eq!(plane.status("web.mesh"), "REFUSED");
    plane.write("port: 5653", "services: []\n");
    wait_until(SECS, "a removed service is not", || plane.status("web.mesh") == "NXDOMAIN");
}

#[test]
fn without_a_port_there_is_no_server_and_without_an_address_it_listens_on_loopback_alone() {
    let outside = IpAddr::from([192, 0, 2, 7]);
    let free = |netns: &Netns, ip: IpAddr| netns.run(|| UdpSocket::bind((ip, PORT)).is_ok());
    for (dns_server, loopback, everywhere) in [
        ("domain: mesh", false, false),
        ("port: 0", false, false),
        ("port: 5653", true, false),
        ("port: 5653, address: 0.0.0.0", true, true),
    ] {
        let netns = Arc::new(Netns::new().unwrap());
        netns.add_addresses("lo", &[(outside, 32)]).unwrap();
        let plane = Plane::start_in(netns, dns_server, TWO_MESHES).unwrap();
        assert_eq!(free(&plane.netns, Ipv4Addr::LOCALHOST.into()), !loopback, "{dns_server}");
        assert_eq!(free(&plane.netns, outside), !everywhere, "{dns_server}");
        if everywhere {
            let said = plane.dig("@192.0.2.7 +short web.mesh A");
            assert!(said.starts_with("240.0.0."), "{said}");
        }
    }
}

#[test]
fn a_port_in_use_and_a_bad_setting_are_refused_in_words() {
    for (taken, dns_server, parts) in [
        (true, "port: 5653", &["127.0.0.1:5653 is in use", "dnsServer.port 5653", "ss -Hlnp"][..]),
        (false, "port: 70000", &["mesh.yaml:1: dnsServer.port", "0 to 65535"]),
        (false, "port: 5653, address: here", &["mesh.yaml:1: dnsServer.address", "\"here\""]),
        (
            false,
            "port: 5653, address: 198.51.100.1",
            &["dnsServer.address 198.51.100.1", "no address of this machine"],
        ),
        (false, "prt: 5653", &["\"prt\"", "\"port\""]),
    ] {
        let netns = Arc::new(Netns::new().unwrap());
        let _holder = taken.then(|| netns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap()));
        let error = Plane::start_in(netns, dns_server, TWO_MESHES).err().unwrap();
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }
}
