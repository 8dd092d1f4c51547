//! The resolver in a namespace of its own, without datapath: it listens where a resolv.conf can point, on port 53.
//! Keeps: it ends with its guard. Called by tests of the resolver.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use kuma_dns::agent::resolver::bind;
use kuma_dns::dns::server::{Server, Shared};
use kuma_dns::dns::zone::Zone;
use kuma_dns::model::name::Hostname;
use kuma_dns::model::view::{Addresses, Changes, Header, MeshView, Part, Port, Route};
use kuma_dns::rt::{Drain, DrainTrigger};
use tempfile::TempDir;

use crate::netns::Netns;

/// The first of the resolver's ports.
pub const PORT: u16 = 53;
/// TTL of the mesh names.
pub const TTL: u32 = 60;
/// How long a client of ours waits for an answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A running resolver.
pub struct Resolver {
    pub netns: Arc<Netns>,
    pub shared: Arc<Shared>,
    dir: TempDir,
    trigger: DrainTrigger,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Resolver {
    /// Serves `names` in a new namespace; everything else goes to `nameservers`.
    ///
    /// # Errors
    /// Not root.
    pub fn start(names: &[(&str, Addresses)], nameservers: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(Arc::new(Netns::new()?), names, nameservers)
    }

    /// The same in a namespace that is there already.
    ///
    /// # Errors
    /// A port of the resolver is taken.
    pub fn start_in(
        netns: Arc<Netns>,
        names: &[(&str, Addresses)],
        nameservers: &[&str],
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let shared = Arc::new(Shared::new(Zone::new(&view(names)?)));
        let (trigger, drain) = Drain::pair();
        let inside = netns.clone();
        let sockets = bind(
            Port::new(PORT),
            &(Arc::new(move |job: &mut (dyn FnMut() + Send)| {
                inside.run(job);
                Ok(())
            }) as _),
        )?;
        let mut resolver = Self { netns, shared, dir, trigger, thread: None };
        resolver.write_resolv_conf(nameservers)?;
        let resolv_conf = Some(resolver.resolv_conf());
        let server = Server { sockets, shared: resolver.shared.clone(), resolv_conf };
        let inside = resolver.netns.clone();
        resolver.thread = Some(std::thread::spawn(move || {
            inside.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(server.run(drain))?)
            })
        }));
        Ok(resolver)
    }

    /// The file that the resolver takes its nameservers from.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }

    /// Replaces that file as tools do: by a rename.
    ///
    /// # Errors
    /// No room on the disk.
    pub fn write_resolv_conf(&self, nameservers: &[&str]) -> anyhow::Result<()> {
        write_nameservers(&self.resolv_conf(), nameservers)
    }

    /// Serves these names from now on.
    ///
    /// # Errors
    /// A name that is none.
    pub fn publish(&self, names: &[(&str, Addresses)]) -> anyhow::Result<()> {
        self.shared.zone.store(Arc::new(Zone::new(&view(names)?)));
        Ok(())
    }

    /// Runs a command inside, with a resolv.conf of its own that points at the resolver.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn command(&self, program: &str, args: &[&str]) -> anyhow::Result<Output> {
        let asks_us = self.dir.path().join("of-the-workload.conf");
        write_nameservers(&asks_us, &["127.0.0.1"])?;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            r#"mount --bind "$1" /etc/resolv.conf && shift && exec "$@""#,
            "sh",
        ]);
        command.arg(&asks_us).arg(program).args(args);
        self.netns.run(|| command.output()).with_context(|| format!("cannot run {program}"))
    }

    /// What `dig` prints for these arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn dig(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.command("dig", &[&["+tries=1", "+timeout=9"], args].concat())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A UDP socket inside, connected to the resolver over IPv4.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn client(&self) -> anyhow::Result<UdpSocket> {
        self.client_of(SocketAddr::from(([127, 0, 0, 1], PORT)))
    }

    /// The same to another of its addresses.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn client_of(&self, at: SocketAddr) -> anyhow::Result<UdpSocket> {
        self.netns.run(|| {
            let any: IpAddr =
                if at.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(at)?;
            socket.set_read_timeout(Some(CLIENT_TIMEOUT))?;
            Ok(socket)
        })
    }

    /// One query, one answer, over UDP.
    ///
    /// # Errors
    /// No answer in time.
    pub fn exchange(&self, query: &[u8]) -> anyhow::Result<Vec<u8>> {
        let client = self.client()?;
        client.send(query)?;
        receive(&client)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.trigger.request();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(Ok(())))), "the resolver ends in peace: {ended:?}");
        }
    }
}

/// The next datagram of a client.
///
/// # Errors
/// None in time.
pub fn receive(client: &UdpSocket) -> anyhow::Result<Vec<u8>> {
    let mut buffer = vec![0; 65_535];
    let bytes = client.recv(&mut buffer).context("no answer in time")?;
    buffer.truncate(bytes);
    Ok(buffer)
}

fn write_nameservers(path: &Path, nameservers: &[&str]) -> anyhow::Result<()> {
    let text: String = nameservers.iter().map(|ip| format!("nameserver {ip}\n")).collect();
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text)?;
    Ok(std::fs::rename(&fresh, path)?)
}

/// A view with these names, all on port 80.
///
/// # Errors
/// A name that is none.
pub fn view(names: &[(&str, Addresses)]) -> anyhow::Result<MeshView> {
    let ranges = vec!["240.0.0.0/4".parse()?, "fd00:fd00::/64".parse()?];
    let header = Header { domain: Hostname::parse("mesh")?, ttl_secs: TTL, ranges };
    let mut parts = BTreeMap::new();
    for (name, addresses) in names {
        let routes = addresses.iter().map(|vip| Route { vip, port: Port::new(80) }).collect();
        parts.insert(*name, Part::new(vec![Hostname::parse(name)?], *addresses, routes)?);
    }
    Ok(MeshView::new("default", header).with(Changes::adding(parts))?)
}
