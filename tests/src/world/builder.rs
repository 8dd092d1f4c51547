//! What a world is to have, and its making: namespaces, uplink, nameserver, services, mesh file. Called through world.

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

use super::{UPLINK_ADDRESSES, World};
use crate::backend::{Backends, Speaks};
use crate::binaries;
use crate::mesh::Mesh;
use crate::nameserver::Nameserver;
use crate::netns::{Netns, UPLINK};

/// The addresses at the other end of the uplink, and the nameserver there that `up` is told of.
const OUTSIDE_ADDRESSES: [(&str, u8); 3] = [("192.0.2.2", 24), (NAMESERVER, 24), ("2001:db8::2", 64)];
const NAMESERVER: &str = "192.0.2.53";
/// The first port of a world's backends; each has the namespace for itself.
const FIRST_BACKEND_PORT: u16 = 7001;
/// What a world is to have before `up` starts.
#[derive(Default)]
pub struct Builder {
    name: Option<String>,
    mesh: Mesh,
    services: Vec<(String, Speaks, u16)>,
    args: Vec<String>,
    without_envoy: bool,
    apart: Option<String>,
}

impl Builder {
    /// Another instance name than the one made up from our process id.
    pub fn name(mut self, instance: &str) -> Self {
        self.name = Some(instance.into());
        self
    }

    /// Adds a service with this many backends.
    pub fn service(mut self, name: &str, speaks: Speaks, backends: u16) -> Self {
        self.services.push((name.into(), speaks, backends));
        self
    }

    /// Changes the settings of the mesh file.
    pub fn mesh(mut self, change: impl FnOnce(&mut Mesh)) -> Self {
        change(&mut self.mesh);
        self
    }

    /// Adds flags to `kuma-dns up`.
    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.args.extend(args.map(String::from));
        self
    }

    /// A control plane and an agent as processes of their own; `configuration` is further YAML for the former.
    pub fn apart(mut self, configuration: &str) -> Self {
        self.apart = Some(configuration.into());
        self
    }

    /// `up --envoy none`.
    pub fn without_envoy(mut self) -> Self {
        self.without_envoy = true;
        self
    }

    /// Everything but `up` itself.
    ///
    /// # Errors
    /// Whatever is missing on this machine, in words.
    pub fn build(self) -> anyhow::Result<World> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let mut args = self.args;
        let envoy = if self.without_envoy { PathBuf::from("none") } else { binaries::envoy()? };
        args.extend(["--envoy".into(), envoy.display().to_string()]);
        let (server, netns, outside) = (Backends::new()?, Netns::new()?, Netns::new()?);
        let nameserver = connect(&netns, &outside, &server)?;
        let mut world = World {
            instance: self.name.unwrap_or_else(|| format!("w{}-{number}", std::process::id())),
            args,
            mesh: self.mesh,
            up: None,
            apart: self.apart,
            plane: None,
            starts: 0,
            backends: Vec::new(),
            server,
            next_port: FIRST_BACKEND_PORT,
            netns: netns.into(),
            outside,
            _nameserver: nameserver,
            dir: tempfile::Builder::new().prefix("kuma-dns-world-").tempdir()?,
        };
        for (name, speaks, backends) in self.services {
            world.add_service(&name, speaks, backends)?;
        }
        std::fs::write(world.dir.path().join("resolv.conf"), format!("nameserver {NAMESERVER}\n"))?;
        world.write_mesh()?;
        Ok(world)
    }

    /// The world with `up` ready.
    ///
    /// # Errors
    /// `up` ends or is not ready in time; its words are in the error.
    pub fn up(self) -> anyhow::Result<World> {
        let mut world = self.build()?;
        world.start()?;
        world.wait_ready()?;
        Ok(world)
    }
}

/// Gives the world an uplink to the outside, and the outside a nameserver.
fn connect(netns: &Netns, outside: &Netns, server: &Backends) -> anyhow::Result<Nameserver> {
    let parsed =
        |(address, prefix): (&str, u8)| (address.parse::<IpAddr>().expect("a constant address"), prefix);
    netns.join(outside, UPLINK)?;
    // Not only loopback: getaddrinfo asks only for families that the machine has (AI_ADDRCONFIG).
    netns.add_addresses(UPLINK, &UPLINK_ADDRESSES.map(parsed))?;
    outside.add_addresses(UPLINK, &OUTSIDE_ADDRESSES.map(parsed))?;
    let socket = outside.run(|| UdpSocket::bind((NAMESERVER, 53))).context("no socket for the nameserver")?;
    Nameserver::serve(server.handle(), socket)
}
