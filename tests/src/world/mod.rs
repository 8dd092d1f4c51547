//! A whole system of its own: a network namespace, services, a mesh file, `kuma-dns up` with a real Envoy.
//! Keeps: nothing of it is left when it is dropped, also by a panic. Called by the tests through the front door, and by
//! the demo.

mod builder;

pub use builder::Builder;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::backend::{Backend, Backends, Speaks};
use crate::binaries;
use crate::mesh::{Mesh, Service};
use crate::nameserver::Nameserver;
use crate::netns::Netns;
use crate::process::Process;

/// How long `up` may take until it is ready, on a busy machine with a real Envoy.
const READY_SECS: u64 = 60;
/// The addresses of a world's uplink (RFC 5737, RFC 3849). There is no default route: what is not redirected goes nowhere.
pub const UPLINK_ADDRESSES: [(&str, u8); 2] = [("192.0.2.1", 24), ("2001:db8::1", 64)];
/// Proxies of the machine that would hijack the tests' HTTP.
const PROXY_VARIABLES: [&str; 6] =
    ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// A running system.
pub struct World {
    instance: String,
    args: Vec<String>,
    mesh: Mesh,
    up: Option<Process>,
    /// Two processes in place of `up`: a control plane of this further configuration, and an agent.
    apart: Option<String>,
    plane: Option<Process>,
    starts: u32,
    backends: Vec<(String, Backend)>,
    server: Backends,
    next_port: u16,
    netns: Arc<Netns>,
    /// The other end of the uplink; a nameserver that knows no name is there.
    outside: Netns,
    _nameserver: Nameserver,
    dir: TempDir,
}

impl World {
    /// A world to be described.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A world with these HTTP services of one backend each, ready.
    ///
    /// # Errors
    /// See [`Builder::up`].
    pub fn up<const N: usize>(services: [&str; N]) -> anyhow::Result<Self> {
        services.into_iter().fold(Self::builder(), |world, name| world.service(name, Speaks::Http, 1)).up()
    }

    /// Its instance name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Its folder: mesh file, state, logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The mesh file.
    pub fn mesh_file(&self) -> PathBuf {
        self.dir.path().join("mesh.yaml")
    }

    /// The network namespace that everything runs in.
    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// The namespace at the other end of the uplink.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// Starts backends and puts the service into the mesh; [`World::edit`] or the start of `up` makes it known.
    fn add_service(&mut self, name: &str, speaks: Speaks, backends: u16) -> anyhow::Result<()> {
        let mut endpoints = Vec::new();
        for _ in 0..backends {
            let address = SocketAddr::from(([127, 0, 0, 1], self.next_port));
            self.next_port += 1;
            let listener = self.netns.run(move || TcpListener::bind(address));
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            let backend = self.server.serve(name, speaks, listener)?;
            endpoints.push(backend.address);
            self.backends.push((name.into(), backend));
        }
        self.mesh.services.insert(name.into(), Service { speaks, endpoints });
        Ok(())
    }

    /// Adds a running service by editing the mesh file.
    ///
    /// # Errors
    /// No port or no disk.
    pub fn add(&mut self, name: &str, speaks: Speaks, backends: u16) -> anyhow::Result<()> {
        self.add_service(name, speaks, backends)?;
        self.write_mesh()
    }

    /// Removes a service by editing the mesh file; its backends go on.
    ///
    /// # Errors
    /// No disk.
    pub fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.edit(|mesh| {
            mesh.services.remove(name);
        })
    }

    /// Changes the mesh file as an editor does: a new file, renamed over the old one.
    ///
    /// # Errors
    /// No disk.
    pub fn edit(&mut self, change: impl FnOnce(&mut Mesh)) -> anyhow::Result<()> {
        change(&mut self.mesh);
        self.write_mesh()
    }

    fn write_mesh(&self) -> anyhow::Result<()> {
        let next = self.dir.path().join(".mesh.yaml.next");
        let text = if let Some(more) = &self.apart {
            std::fs::write(self.plane_config(), format!("{}{more}", self.mesh.settings()))?;
            self.mesh.resources()
        } else {
            self.mesh.to_yaml()
        };
        std::fs::write(&next, text)?;
        Ok(std::fs::rename(next, self.mesh_file())?)
    }

    /// `kuma-dns` with this world's places, in the machine's own namespace.
    ///
    /// # Errors
    /// The binary does not build.
    pub fn kuma_dns(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(binaries::kuma_dns()?);
        for variable in PROXY_VARIABLES {
            command.env_remove(variable);
        }
        command.args(["--instance", &self.instance, "--run-dir"]).arg(self.dir.path().join("run"));
        command.arg("--data").arg(self.dir.path().join("data"));
        Ok(command)
    }

    /// Starts `up` in the world's namespace, or a control plane and an agent; does not wait.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.apart.is_some() {
            self.start_plane()?;
            return self.start_agent(&["--control-plane", "http://127.0.0.1:5678"]);
        }
        let mut command = self.kuma_dns()?;
        command.arg("up").arg("-f").arg(self.mesh_file());
        self.up = Some(self.start_machine(command, "up")?);
        Ok(())
    }

    /// The configuration of the control plane, where it is a process of its own.
    pub fn plane_config(&self) -> PathBuf {
        self.dir.path().join("control-plane.yaml")
    }

    /// Starts the control plane of a world whose parts are apart; does not wait.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_plane(&mut self) -> anyhow::Result<()> {
        let mut command = self.kuma_dns()?;
        command.arg("control-plane").arg("-c").arg(self.plane_config()).arg("-f").arg(self.mesh_file());
        self.plane = Some(self.start_process(command, "control-plane")?);
        Ok(())
    }

    /// Starts the agent of such a world; does not wait. The other functions that speak of `up` mean it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent(&mut self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = self.kuma_dns()?;
        command.arg("agent").args(args);
        self.up = Some(self.start_machine(command, "agent")?);
        Ok(())
    }

    fn start_machine(&mut self, mut command: Command, name: &str) -> anyhow::Result<Process> {
        command.args(&self.args).arg("--resolv-conf").arg(self.dir.path().join("resolv.conf"));
        self.start_process(command, name)
    }

    fn start_process(&mut self, command: Command, name: &str) -> anyhow::Result<Process> {
        self.starts += 1;
        let log = self.dir.path().join(format!("{name}-{}.log", self.starts));
        self.netns.run(move || Process::start(command, &log))
    }

    /// Ends the control plane of a world whose parts are apart.
    ///
    /// # Errors
    /// There is none, or it still runs after the deadline.
    pub fn stop_plane(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        let mut plane = self.plane.take().context("the control plane was not started")?;
        plane.signal(signal);
        plane.wait(READY_SECS)
    }

    /// What the control plane printed since its last start, where it is a process of its own.
    pub fn plane_said(&self) -> String {
        self.plane.as_ref().map(Process::said).unwrap_or_default()
    }

    /// Waits until `exec` would run a command.
    ///
    /// # Errors
    /// `up` ends or is not ready in time; its words are in the error.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        self.wait_ready_within(READY_SECS)
    }

    /// The same, where there is more to do than usual.
    ///
    /// # Errors
    /// See [`Self::wait_ready`].
    pub fn wait_ready_within(&mut self, secs: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(secs);
        loop {
            let output = self.kuma_dns()?.args(["exec", "--wait", "500ms", "--", "true"]).output()?;
            if output.status.success() {
                return Ok(());
            }
            if let Some(ended) = self.up_process()?.ended() {
                bail!("`up` ended before it was ready: {ended}\n{}", self.up_said());
            }
            if let Some(ended) = self.plane.as_mut().and_then(Process::ended) {
                bail!("the control plane ended: {ended}\n{}", self.plane_said());
            }
            let refused = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(Instant::now() < deadline, "{refused}`up` said:\n{}", self.up_said());
        }
    }

    fn up_process(&mut self) -> anyhow::Result<&mut Process> {
        self.up.as_mut().context("`up` was not started")
    }

    /// The process id of `up`.
    ///
    /// # Errors
    /// It was not started.
    pub fn up_pid(&self) -> anyhow::Result<i32> {
        Ok(self.up.as_ref().context("`up` was not started")?.pid())
    }

    /// The process id of the control plane, where it is a process of its own.
    ///
    /// # Errors
    /// It was not started.
    pub fn plane_pid(&self) -> anyhow::Result<i32> {
        Ok(self.plane.as_ref().context("the control plane was not started")?.pid())
    }

    /// The port of a service's first backend, on 127.0.0.1.
    ///
    /// # Errors
    /// There is no such service.
    pub fn backend_port(&self, service: &str) -> anyhow::Result<u16> {
        let backend = self.backends.iter().find(|(name, _)| name == service);
        backend.map(|(_, backend)| backend.address.port()).with_context(|| format!("no service {service}"))
    }

    /// What `up` printed since its last start.
    pub fn up_said(&self) -> String {
        self.up.as_ref().map(Process::said).unwrap_or_default()
    }

    /// Waits until `up` ends by itself.
    ///
    /// # Errors
    /// It still runs after the deadline.
    pub fn wait_up_ended(&mut self, secs: u64) -> anyhow::Result<ExitStatus> {
        self.up_process()?.wait(secs)
    }

    /// Ends `up` by a signal and waits.
    ///
    /// # Errors
    /// It still runs after the deadline.
    pub fn stop(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        let up = self.up_process()?;
        up.signal(signal);
        up.wait(READY_SECS)
    }

    /// A command inside the mesh, to be run or spawned by the caller.
    ///
    /// # Errors
    /// The binary does not build.
    pub fn inside<const N: usize>(&self, command: [&str; N]) -> anyhow::Result<Command> {
        let mut exec = self.kuma_dns()?;
        exec.args(["exec", "--"]).args(command);
        Ok(exec)
    }

    /// Runs a command inside the mesh: all that it did and said.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn exec<const N: usize>(&self, command: [&str; N]) -> anyhow::Result<Output> {
        Ok(self.inside(command)?.output()?)
    }

    /// Runs a command inside the mesh that must succeed: what it printed.
    ///
    /// # Errors
    /// It fails; its words are in the error.
    pub fn says<const N: usize>(&self, command: [&str; N]) -> anyhow::Result<String> {
        let output = self.exec(command)?;
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
        Ok(said.into_owned())
    }

    /// The addresses of a name, as the C library inside the mesh finds them.
    ///
    /// # Errors
    /// `getent` cannot be run.
    pub fn resolves(&self, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for database in ["ahostsv4", "ahostsv6"] {
            let output = self.exec(["getent", database, name])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let addresses =
                text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<IpAddr>().ok());
            // getent gives v4-mapped addresses to a name without AAAA.
            found.extend(addresses.map(|address| address.to_canonical()));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// `kuma-dns status -o json`.
    ///
    /// # Errors
    /// It prints no JSON.
    pub fn status(&self) -> anyhow::Result<Value> {
        let output = self.kuma_dns()?.args(["status", "-o", "json"]).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&said)
            .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Ends `up`, then removes all that could be left of it.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn tear_down(&mut self) -> anyhow::Result<()> {
        if let Some(mut up) = self.up.take() {
            up.terminate()?;
        }
        if let Some(mut plane) = self.plane.take() {
            plane.terminate()?;
        }
        let output = self.kuma_dns()?.args(["cleanup", "--force", "--purge"]).output()?;
        ensure!(output.status.success(), "cleanup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} `up` said:\n{}{}", self.instance, self.up_said(), self.plane_said());
        }
        if let Err(error) = self.tear_down() {
            eprintln!("world {}: {error:#}", self.instance);
        }
    }
}
