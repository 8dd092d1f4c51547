//! Who gets in at the control plane: TLS with real Envoys and agents' feeds, certificates that are replaced while they are in
//! use, and those who do not get in. Each test in a network namespace of its own.

mod tokens;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use harness::binaries;
use harness::process::Process;
use harness::xds::{Agent, Door, Envoy, anywhere, eventually, in_own_netns, mesh, service};
use kuma_dns::cp::snapshot::Protocol;
use kuma_dns::cp::tls::{Files, Identity, Listener};
use kuma_dns::cp::xds::{self, Server};
use kuma_dns::rt::Drain;
use kuma_dns::wire::access::{Access, Trust};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

const ENDPOINT: &[SocketAddr] = &[SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7001)];

/// An xDS server with a certificate in files, which two services are published through.
struct Place {
    dir: TempDir,
    addr: SocketAddr,
    status: xds::StatusReader,
    _tasks: JoinSet<()>,
}

impl Place {
    /// The certificate is good for 127.0.0.1; returns what vouches for it.
    async fn start() -> anyhow::Result<(Self, Trust)> {
        let dir = TempDir::new()?;
        let trust = write_pair(dir.path())?;
        let (certificate, key) = pair(dir.path());
        let identity = Identity::open(Files { certificate, key, section: "dpServer" })?;
        let tls = identity.server_config(&[xds::PROTOCOL]);
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).await?.with_tls(Some(tls));
        let server = Server::on(listener);
        let (addr, status) = (server.local_addr(), server.status());
        let services = [service(1, Protocol::Tcp, ENDPOINT), service(2, Protocol::Http, ENDPOINT)];
        let (snapshots, published) = watch::channel(mesh(60, services));
        let (trigger, drain) = Drain::pair();
        let mut tasks = JoinSet::new();
        let ending = drain.clone();
        tasks.spawn(async move {
            let _both = (trigger, snapshots);
            server.run(published, ending).await.expect("it serves");
        });
        tasks.spawn(async move { identity.run(drain).await.expect("it follows its files") });
        Ok((Self { dir, addr, status, _tasks: tasks }, trust))
    }

    fn door(&self, trust: Option<Trust>) -> Door {
        Door { control_plane: self.addr, access: Access { trust, token: None } }
    }

    fn clients(&self) -> usize {
        self.status.read().views.iter().map(|view| view.clients.len()).sum()
    }
}

fn pair(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("cert.pem"), dir.join("key.pem"))
}

/// Writes a new pair, each file in one step, and returns what vouches for it.
fn write_pair(dir: &Path) -> anyhow::Result<Trust> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let pem = made.cert.pem();
    let (certificate, key) = pair(dir);
    for (path, text) in [(certificate, pem.clone()), (key, made.signing_key.serialize_pem())] {
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &path)?;
    }
    Ok(Trust::parse(&pem)?)
}

#[test]
fn envoy_and_agents_are_served_over_tls() {
    in_own_netns(|| async {
        let (place, trust) = Place::start().await?;
        let agent = Agent::start_at(place.door(Some(trust.clone())), "agent");
        let envoy = Envoy::start_at(place.door(Some(trust)), "proxy", 15001, 9901, anywhere())?;
        eventually(20, "the agent's view, which waits for the proxy", || async {
            ensure!(agent.routes() == Some(4), "{:?}", agent.routes());
            Ok(())
        })
        .await?;
        ensure!(place.clients() == 2, "{:?}", place.status.read());
        envoy.stop().await
    });
}

#[test]
fn who_speaks_plain_or_trusts_another_is_not_served_and_holds_nobody_back() {
    in_own_netns(|| async {
        let (place, trust) = Place::start().await?;
        // Connects and says nothing.
        let mut silent = TcpStream::connect(place.addr).await?;
        let plain = Agent::start_at(place.door(None), "plain");
        let stranger = write_pair(TempDir::new()?.path())?;
        let distrusts = Agent::start_at(place.door(Some(stranger)), "distrusts");
        let good = Agent::start_at(place.door(Some(trust)), "good");
        eventually(10, "the good one is connected", || async {
            ensure!(place.clients() == 1, "{:?}", place.status.read());
            Ok(())
        })
        .await?;
        let envoy = Envoy::start_at(place.door(None), "plain-proxy", 15001, 9901, anywhere())?;
        // The handshake limit ends the silent one; the others have tried more than once by then.
        let mut rest = Vec::new();
        tokio::time::timeout(std::time::Duration::from_secs(20), silent.read_to_end(&mut rest))
            .await
            .context("the silent connection is ended")??;
        ensure!(place.clients() == 1, "{:?}", place.status.read());
        ensure!(plain.routes().is_none() && distrusts.routes().is_none() && good.routes().is_none());
        envoy.stop().await
    });
}

#[test]
fn a_replaced_certificate_is_shown_to_the_next_client_and_a_broken_one_to_nobody() {
    in_own_netns(|| async {
        let (place, first) = Place::start().await?;
        let old = Agent::start_at(place.door(Some(first.clone())), "old");
        let one = || async { ensure_clients(&place, 1) };
        eventually(10, "a client with the first certificate", one).await?;

        let second = write_pair(place.dir.path())?;
        let new = Agent::start_at(place.door(Some(second.clone())), "new");
        let two = || async { ensure_clients(&place, 2) };
        eventually(10, "a client with the second certificate", two).await?;
        drop(new);
        eventually(10, "the first client stays", one).await?;

        std::fs::write(pair(place.dir.path()).1, "no key")?;
        let again = Agent::start_at(place.door(Some(second)), "again");
        eventually(10, "the second certificate stays when its files are broken", two).await?;
        drop((old, again));
        Ok(())
    });
}

/// `kuma-dns control-plane` on one service, with its data in `dir`.
fn control_plane(dir: &Path, args: &[&str]) -> anyhow::Result<Command> {
    let mesh = dir.join("mesh.yaml");
    std::fs::write(&mesh, "services:\n- {service: web, endpoints: [\"127.0.0.1:7001\"]}\n")?;
    let mut command = Command::new(binaries::kuma_dns()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KUMA_")) {
        command.env_remove(name);
    }
    command.arg("--data").arg(dir.join("data")).arg("control-plane").args(args).arg("-f").arg(mesh);
    Ok(command)
}

async fn started(dir: &Path, args: &[&str]) -> anyhow::Result<Process> {
    let mut process = Process::start(control_plane(dir, args)?, &dir.join("log"))?;
    eventually(20, "ready", || std::future::ready(ready(&mut process))).await?;
    Ok(process)
}

fn ready(process: &mut Process) -> anyhow::Result<()> {
    ensure!(process.said().contains("ready"), "{}", process.said());
    Ok(())
}

fn printed_ca(dir: &Path) -> anyhow::Result<String> {
    let output = control_plane(dir, &["--print-ca"])?.output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_control_plane_without_a_certificate_makes_its_own_and_keeps_its_authority() {
    in_own_netns(|| async {
        let dir = TempDir::new()?;
        let config = dir.path().join("open.yaml");
        std::fs::write(&config, "dpServer: {address: 0.0.0.0, authn: {dpProxy: {type: none}}}\n")?;
        let config = config.display().to_string();
        let args = ["-c", config.as_str()];
        let mut process = started(dir.path(), &args).await?;
        let ca = printed_ca(dir.path())?;
        let trust = Trust::parse(&ca)?;
        let control_plane = SocketAddr::from((Ipv4Addr::LOCALHOST, 5678));
        let door = || Door { control_plane, access: Access { trust: Some(trust.clone()), token: None } };
        let agent = Agent::start_at(door(), "agent");
        let envoy = Envoy::start_at(door(), "proxy", 15001, 9901, anywhere())?;
        let served = |agent: &Agent| {
            std::future::ready(match agent.routes() {
                Some(2) => Ok(()),
                other => Err(anyhow::anyhow!("{other:?} routes")),
            })
        };
        eventually(20, "the agent's view", || served(&agent)).await?;
        drop(agent);

        ensure!(process.terminate()?.code() == Some(0), "{}", process.said());
        let _again = started(dir.path(), &args).await?;
        ensure!(printed_ca(dir.path())? == ca, "a restart changes whom agents trust");
        let agent = Agent::start_at(door(), "agent");
        eventually(20, "the agent's view after a restart", || served(&agent)).await?;
        envoy.stop().await
    });
}

fn ensure_clients(place: &Place, count: usize) -> anyhow::Result<()> {
    ensure!(place.clients() == count, "{:?}", place.status.read());
    Ok(())
}
