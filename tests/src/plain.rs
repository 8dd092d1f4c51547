//! A real Envoy that is not ours: no supervisor, and the state of the world instead of delta xDS. Called by the suites of xDS.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;

use anyhow::{Context, ensure};
use kuma_dns::agent::proxy::{self, ProxyMode};
use kuma_dns::model::view::Port;
use kuma_dns::wire::access::Access;
use kuma_dns::wire::envoy::Bootstrap;
use kuma_dns::wire::node::{Introduction, Role};

use crate::xds::{Admin, MESH};

/// A real Envoy that asks for the state of the world instead of what has changed, as any other than ours may.
pub struct PlainEnvoy {
    admin: Admin,
    /// Killed when dropped.
    _process: tokio::process::Child,
}

impl PlainEnvoy {
    /// Starts one on our own bootstrap with `api_type: GRPC`.
    ///
    /// # Errors
    /// No Envoy is installed.
    pub fn start(xds: SocketAddr, id: &str, outbound: u16, admin: u16) -> anyhow::Result<Self> {
        let binary = proxy::find(&ProxyMode::Auto)?.context("auto finds one or fails")?;
        let (id, view, outbound_port) = (id.into(), MESH.into(), Port::new(outbound));
        let node = Introduction { id, role: Role::Proxy, view, outbound_port };
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, admin));
        let (access, owner) = (Access::default(), "/run/kuma-dns/test".into());
        let bootstrap = Bootstrap { node, xds: xds.into(), access, admin, owner }.to_yaml();
        ensure!(bootstrap.contains("\"DELTA_GRPC\""), "{bootstrap}");
        let process = tokio::process::Command::new(binary.path())
            .args(["--config-yaml", &bootstrap.replace("DELTA_GRPC", "GRPC")])
            .args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning"])
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { admin: Admin(admin), _process: process })
    }
}

impl Deref for PlainEnvoy {
    type Target = Admin;

    fn deref(&self) -> &Admin {
        &self.admin
    }
}
