//! The agent on the real kernel: it comes up in order, serves enrolled applications, says how it is, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use harness::binaries;
use harness::cgroup::unique_name;
use harness::fork::{Job, Place};
use harness::upstream::Upstream;
use harness::wait::{holds_within, wait_until};
use harness::xds::{ControlPlane, in_own_netns, mesh, service};
use kuma_dns::agent::proxy::{self, ProxyMode};
use kuma_dns::agent::{self, Config, Ports, ProxySetup};
use kuma_dns::cp::snapshot::Protocol;
use kuma_dns::kernel::{Kernel, cgroup, netns};
use kuma_dns::model::instance::Instance;
use kuma_dns::model::view::Port;
use kuma_dns::rt::{Drain, DrainTrigger, Ready};
use kuma_dns::wire::access::Access;
use kuma_dns::wire::local::{Answer, Enrolment, Status, Vip};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

/// A nameserver that does not exist: whoever is answered by it was redirected.
const NAMESERVER: &str = "192.0.2.53";
/// systemd-resolved's stub: on loopback, where a careless redirect would miss it or turn it on itself.
const LOOPBACK_NAMESERVER: &str = "127.0.0.53";
const TTL: u32 = 1;

/// An agent in the namespace of the test, and everything that it could leave behind.
struct World {
    dir: TempDir,
    instance: Instance,
    cgroup2: PathBuf,
    /// Of every agent that was started here, for the case that the test fails while one runs.
    triggers: Mutex<Vec<DrainTrigger>>,
}

struct Running {
    trigger: DrainTrigger,
    ready: Ready,
    ended: JoinHandle<Result<(), agent::Error>>,
}

impl World {
    fn new() -> Self {
        let instance = unique_name().to_lowercase().replace('_', "-").parse().unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            instance,
            cgroup2: cgroup::find_cgroup2().unwrap(),
            triggers: Mutex::default(),
        }
    }

    fn config(&self, control_plane: SocketAddr, envoy: ProxyMode) -> Config {
        let resolv_conf = self.dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "").unwrap();
        Config {
            instance: self.instance.clone(),
            run_dir: self.dir.path().into(),
            data_dir: self.dir.path().join("data"),
            bpffs: "/sys/fs/bpf".into(),
            cgroup2: self.cgroup2.clone(),
            netns: None,
            ports: Ports { outbound: Port::new(15001), dns: Port::new(15053) },
            view: "default".into(),
            name: None,
            control_plane: control_plane.into(),
            access: Access::default(),
            proxy: ProxySetup { envoy, admin_port: proxy::DEFAULT_ADMIN_PORT, concurrency: 1, uid: None },
            resolv_conf,
            vips_capacity: 1_024,
            bpf_log: None,
            keep_datapath: false,
            lasting: false,
            beside: None,
        }
    }

    fn start(&self, config: Config) -> Running {
        let ((trigger, drain), ready) = (Drain::pair(), Ready::default());
        self.triggers.lock().unwrap().push(trigger.clone());
        #[expect(clippy::disallowed_methods, reason = "the test is the supervisor")]
        let ended = tokio::spawn(agent::run(config, drain, ready.clone()));
        Running { trigger, ready, ended }
    }

    fn ask<T: DeserializeOwned>(&self, verb: &str) -> Result<T, String> {
        let mut stream =
            UnixStream::connect(self.instance.socket(self.dir.path())).map_err(|e| e.to_string())?;
        stream.write_all(format!("{{\"verb\":\"{verb}\"}}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        match serde_json::from_str(&line).unwrap() {
            Answer::Ok(value) => Ok(value),
            Answer::Error(why) => Err(why),
        }
    }

    /// Runs `job` as an enrolled application.
    fn app<T: serde::Serialize + DeserializeOwned>(&self, job: impl FnOnce() -> T) -> T {
        let (cgroup, netns) = (self.instance.workloads_cgroup(&self.cgroup2), netns::own().unwrap());
        Job::start(&Place { cgroup: &cgroup, netns: netns.as_fd() }, job).unwrap().join()
    }

    fn assert_nothing_is_left(&self) {
        for path in [
            self.instance.pins("/sys/fs/bpf".as_ref()),
            self.instance.cgroup(&self.cgroup2),
            self.instance.socket(self.dir.path()),
        ] {
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that failed may drop its world while an agent still holds the instance.
        let triggers = self.triggers.get_mut().unwrap_or_else(PoisonError::into_inner);
        triggers.iter().for_each(DrainTrigger::request);
        let removed = || Kernel::remove(&self.instance, "/sys/fs/bpf".as_ref()).is_ok();
        holds_within(20, removed);
        let _ = cgroup::remove(&self.instance.cgroup(&self.cgroup2));
    }
}

impl Running {
    async fn ready(&self) {
        let reached = tokio::time::timeout(Duration::from_secs(30), self.ready.reached()).await;
        assert!(
            reached.is_ok(),
            "still waiting for {:?}; ended: {}",
            self.ready.awaited(),
            self.ended.is_finished()
        );
    }

    async fn end(self) -> Result<(), agent::Error> {
        self.trigger.request();
        self.ended.await.unwrap()
    }
}

fn dig(args: &[&str]) -> String {
    let output = Command::new("dig").args(["+tries=1", "+timeout=5"]).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A service that greets whoever comes, until the test is over.
async fn greeter() -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _hung_up = stream.write_all(b"service-1").await;
        }
    });
    Ok(address)
}

fn greeting(at: &str) -> String {
    let answer = TcpStream::connect(at).and_then(|mut stream| {
        let mut octets = [0; 9];
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.read_exact(&mut octets)?;
        Ok(String::from_utf8_lossy(&octets).into_owned())
    });
    answer.unwrap_or_else(|error| error.kind().to_string())
}

#[test]
fn an_application_resolves_and_reaches_a_service_through_envoy_and_nothing_is_left() {
    in_own_netns(|| async {
        let (world, backend) = (World::new(), greeter().await?);
        let service = service(1, Protocol::Tcp, &[backend]);
        let control_plane = ControlPlane::start(0, mesh(TTL, [service])).await?;
        let envoy = ProxyMode::Path(binaries::envoy()?);
        let agent = world.start(world.config(control_plane.addr, envoy));
        agent.ready().await;
        let server = format!("@{NAMESERVER}");
        let (v4, v6, tcp) = world.app(|| {
            let short =
                |extra: &[&str]| dig(&[&[server.as_str(), "+short", "service-1.mesh"], extra].concat());
            (short(&["A"]), short(&["AAAA"]), short(&["A", "+tcp"]))
        });
        assert_eq!([v4.as_str(), &v6, &tcp], ["240.0.0.1", "fd00:fd00::1", "240.0.0.1"]);
        let (four, six) = world.app(|| (greeting("240.0.0.1:80"), greeting("[fd00:fd00::1]:80")));
        assert_eq!([four, six], ["service-1", "service-1"]);
        assert!(world.app(|| greeting("240.0.0.9:80")).contains("refused"), "an unknown VIP refuses");
        let unknown = world.app(|| dig(&[server.as_str(), "example.com"]));
        assert!(unknown.contains("SERVFAIL"), "no nameserver is known: {unknown}");

        let status: Status = world.ask("status").unwrap();
        assert!(status.ready && status.awaited.is_empty());
        assert_eq!((status.views[0].names, status.views[0].routes), (1, 2));
        assert!(!status.views[0].version.is_empty() && status.views[0].trouble.is_none());
        assert_eq!((status.enrolled.len(), status.enrolled[0].view.as_str()), (1, "default"));
        assert!(status.datapath.programs.len() >= 12, "{:?}", status.datapath.programs);
        assert!(
            status.datapath.counters.iter().any(|counter| counter.count > 0 && !counter.meaning.is_empty())
        );
        assert!(status.resolver.answered >= 3 && status.resolver.rcodes["SERVFAIL"] == 1);
        assert!(status.proxy.unwrap().pid.is_some());
        let vips: Vec<Vip> = world.ask("vips").unwrap();
        assert_eq!((vips[0].name.as_str(), vips[0].ports.as_slice()), ("service-1.mesh", &[80][..]));
        let enrolment: Enrolment = world.ask("enrol").unwrap();
        assert!(enrolment.ready && enrolment.workloads_cgroup.exists() && enrolment.netns.exists());

        agent.end().await?;
        world.assert_nothing_is_left();
        Ok(())
    });
}

#[test]
fn every_stub_asks_a_loopback_nameserver_and_gets_mesh_names_from_us_and_the_rest_from_it() {
    in_own_netns(|| async {
        let (world, backend) = (World::new(), greeter().await?);
        let upstream = Upstream::start(LOOPBACK_NAMESERVER.parse()?)?;
        let services = mesh(TTL, [service(1, Protocol::Tcp, &[backend])]);
        let control_plane = ControlPlane::start(0, services).await?;
        let config = world.config(control_plane.addr, ProxyMode::Path(binaries::envoy()?));
        std::fs::write(&config.resolv_conf, format!("nameserver {LOOPBACK_NAMESERVER}\n"))?;
        let agent = world.start(config.clone());
        agent.ready().await;
        let mounted =
            format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", config.resolv_conf.display());
        let stub = |command: &[&str]| {
            let output =
                Command::new("unshare").args(["--mount", "sh", "-c", &mounted, "sh"]).args(command).output();
            String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
        };
        let python =
            "import socket,sys; print(sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], 80)}))";
        for name in ["service-1.mesh", "SERVICE-1.MESH"] {
            let said = world.app(|| {
                [
                    stub(&["busybox", "nslookup", name]),
                    stub(&["python3", "-c", python, name]),
                    stub(&["getent", "ahosts", name]),
                    stub(&["dig", "+short", name, "A", name, "AAAA"]),
                    stub(&["dig", "+tcp", "+short", name, "A", name, "AAAA"]),
                ]
            });
            for said in said {
                assert!(said.contains("240.0.0.1") && said.contains("fd00:fd00::1"), "{name}: {said}");
            }
        }
        assert_eq!(upstream.exchanges().len(), 0, "mesh names stay here");
        let foreign = world.app(|| {
            [
                stub(&["busybox", "nslookup", "-type=a", "host.example"]),
                stub(&["getent", "hosts", "host.example"]),
                stub(&["dig", "host.example"]),
                stub(&["dig", "+tcp", "host.example"]),
            ]
        });
        for (number, said) in foreign.iter().enumerate() {
            assert!(said.contains(LOOPBACK_NAMESERVER), "{number}: {said}");
        }
        assert!(foreign[2].contains(&format!("SERVER: {LOOPBACK_NAMESERVER}#53")), "{}", foreign[2]);
        let status: Status = world.ask("status").unwrap();
        assert_eq!(status.resolver.upstreams, [LOOPBACK_NAMESERVER.parse::<IpAddr>()?]);
        agent.end().await?;
        world.assert_nothing_is_left();
        Ok(())
    });
}

#[test]
fn a_removed_service_stops_resolving_and_then_refuses() {
    in_own_netns(|| async {
        let (world, backend) = (World::new(), greeter().await?);
        let services = |numbers: &[u16]| {
            mesh(TTL, numbers.iter().map(|&n| service(n, Protocol::Tcp, &[backend])).collect::<Vec<_>>())
        };
        let control_plane = ControlPlane::start(0, services(&[1, 2])).await?;
        let agent = world.start(world.config(control_plane.addr, ProxyMode::Path(binaries::envoy()?)));
        agent.ready().await;
        assert_eq!(world.app(|| greeting("240.0.0.2:80")), "service-1");
        control_plane.snapshots.send_replace(services(&[1]));
        wait_until(5, "the VIP refuses", || world.app(|| greeting("240.0.0.2:80")).contains("refused"));
        let gone = world.app(|| dig(&[&format!("@{NAMESERVER}"), "+short", "service-2.mesh"]));
        assert_eq!(gone, "", "the name went before");
        assert_eq!(world.app(|| greeting("240.0.0.1:80")), "service-1");
        agent.end().await?;
        world.assert_nothing_is_left();
        Ok(())
    });
}

#[test]
fn a_port_in_use_is_said_in_words_and_nothing_is_left() {
    in_own_netns(|| async {
        let (world, _taken) = (World::new(), UdpSocket::bind("127.0.0.1:15055")?);
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = world.start(world.config(nobody, ProxyMode::None)).ended.await?.unwrap_err().to_string();
        assert!(
            error.contains("UDP port 127.0.0.1:15055 is in use") && error.contains("--dns-port"),
            "{error}"
        );
        world.assert_nothing_is_left();
        Ok(())
    });
}

#[test]
fn a_second_agent_of_an_instance_is_refused_and_the_first_goes_on() {
    in_own_netns(|| async {
        let world = World::new();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let first = world.start(world.config(nobody, ProxyMode::None));
        wait_until(20, "the first agent answers", || world.ask::<Enrolment>("enrol").is_ok());
        let enrolment: Enrolment = world.ask("enrol").unwrap();
        assert!(
            !enrolment.ready && enrolment.awaited[0].contains("the first view"),
            "{:?}",
            enrolment.awaited
        );
        let error = world.start(world.config(nobody, ProxyMode::None)).ended.await?.unwrap_err().to_string();
        assert!(error.contains("running already") && error.contains("--instance"), "{error}");
        assert!(
            world.ask::<Status>("status").unwrap().datapath.programs.len() >= 12,
            "its datapath is untouched"
        );
        first.end().await?;
        world.assert_nothing_is_left();
        Ok(())
    });
}

#[test]
fn a_kept_datapath_refuses_until_the_next_agent_adopts_it() {
    in_own_netns(|| async {
        let (world, backend) = (World::new(), greeter().await?);
        let control_plane =
            ControlPlane::start(0, mesh(TTL, [service(1, Protocol::Tcp, &[backend])])).await?;
        let config = world.config(control_plane.addr, ProxyMode::Path(binaries::envoy()?));
        let first = world.start(Config { keep_datapath: true, ..config.clone() });
        first.ready().await;
        first.end().await?;
        assert!(world.instance.pins("/sys/fs/bpf".as_ref()).exists(), "the datapath is kept");
        assert!(world.app(|| greeting("240.0.0.1:80")).contains("refused"), "it fails closed");
        let second = world.start(config);
        second.ready().await;
        assert_eq!(world.app(|| greeting("240.0.0.1:80")), "service-1");
        second.end().await?;
        world.assert_nothing_is_left();
        Ok(())
    });
}

#[test]
fn an_agent_that_comes_after_a_crash_answers_before_the_control_plane_has_spoken() {
    in_own_netns(|| async {
        let (world, backend) = (World::new(), greeter().await?);
        let control_plane = ControlPlane::start(0, mesh(60, [service(1, Protocol::Tcp, &[backend])])).await?;
        let config = world.config(control_plane.addr, ProxyMode::Path(binaries::envoy()?));
        let first = world.start(Config { keep_datapath: true, ..config.clone() });
        first.ready().await;
        first.end().await?;
        control_plane.stop().await?;
        let second = world
            .start(Config { proxy: ProxySetup { envoy: ProxyMode::None, ..config.proxy.clone() }, ..config });
        let named = || world.ask::<Status>("status").is_ok_and(|status| status.resolver.names == 1);
        wait_until(20, "the second agent serves what was remembered", named);
        let server = format!("@{NAMESERVER}");
        assert_eq!(world.app(|| dig(&[&server, "+short", "service-1.mesh"])), "240.0.0.1");
        let enrolment: Enrolment = world.ask("enrol").unwrap();
        assert!(!enrolment.ready, "new workloads wait for the control plane and the proxy");
        second.end().await?;
        world.assert_nothing_is_left();
        assert!(
            !world.instance.view(&world.dir.path().join("data")).exists(),
            "the memory went with the datapath"
        );
        Ok(())
    });
}
