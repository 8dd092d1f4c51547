//! `kuma-dns control-plane` alone, as a real process in a network namespace of its own, with its files in a folder of its own.
//! Keeps: nothing of the caller's environment reaches it. Called by the tests of the control plane.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::binaries;
use crate::http::Http;
use crate::netns::Netns;
use crate::process::Process;
use crate::wait::holds_within;

/// How long a start may take on a busy machine.
const START_SECS: u64 = 30;
/// Where the API is unless it is told another port.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5681);

/// Where a control plane runs.
pub struct Place {
    netns: Arc<Netns>,
    dir: TempDir,
}

impl Place {
    /// A new one, with this mesh file.
    ///
    /// # Errors
    /// Not root, or no disk.
    pub fn new(mesh: &str) -> anyhow::Result<Self> {
        let place = Self { netns: Arc::new(Netns::new()?), dir: tempfile::tempdir()? };
        place.write("mesh.yaml", mesh)?;
        Ok(place)
    }

    /// Its namespace.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// Where a file of this name lies here.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Writes a file as an editor does, and says where it is.
    ///
    /// # Errors
    /// No disk.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let next = self.dir.path().join(format!(".{name}.next"));
        std::fs::write(&next, text)?;
        std::fs::rename(next, self.dir.path().join(name))?;
        Ok(self.path(name))
    }

    /// `control-plane` on the mesh file, with its data here.
    ///
    /// # Errors
    /// The binary does not build.
    pub fn command(&self, args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Command> {
        let mut command = Command::new(binaries::kuma_dns()?);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KUMA_")) {
            command.env_remove(name);
        }
        command
            .args(["--data", &self.path("data"), "control-plane", "-f", &self.path("mesh.yaml")])
            .args(args);
        command.envs(environment.iter().copied());
        Ok(command)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time: with what it said.
    pub fn start(&self, args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Process> {
        let command = self.command(args, environment)?;
        let log = self.dir.path().join("log");
        let mut process = self.netns.run(|| Process::start(command, &log))?;
        holds_within(START_SECS, || process.said().contains("ready") || process.ended().is_some());
        let said = process.said();
        ensure!(process.ended().is_none() && said.contains("ready"), "it is not ready:\n{said}");
        Ok(process)
    }

    /// Runs it to its end, which must come by itself.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn output(&self, args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
        let inner = self.command(args, environment)?;
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "20"]).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.netns.run(|| command.output()).context("cannot run timeout")
    }

    /// A client of its API.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn http(&self) -> anyhow::Result<Http> {
        Http::new(self.netns.clone(), API)
    }
}
