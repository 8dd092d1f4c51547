//! What `up` and `agent` tell a person while they start: what they wait for, and once they are ready, what is where and what to
//! try. Keeps: nothing is told that the agent's own status does not say. In JSON logs it is one event.

use std::convert::Infallible;
use std::fmt::Write;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::info;

use crate::cli::duration::human;
use crate::cli::logs::Format;
use crate::cli::paths::Paths;
use crate::cli::{socket, table};
use crate::rt::Drain;
use crate::wire::local::{Status, Vip};

/// Pause between two looks at the agent's status.
const POLL: Duration = Duration::from_millis(20);
/// From here on a person wonders, and is told what is awaited.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many names are shown; `kuma-dns vips` shows all.
const NAMES_SHOWN: usize = 4;

/// How the control plane names a proxy among its clients.
const PROXY_ROLE: &str = "proxy";
/// A program that is attached to the workloads' cgroup and nowhere else.
const WORKLOAD_PROGRAM: &str = "connect4";

const BOLD: &str = "\x1b[1m";
const OFF: &str = "\x1b[0m";

/// Tells how a start goes.
pub(super) struct Story {
    paths: Paths,
    format: Format,
    began: Instant,
    /// What is served, in words: `2 services in mesh.yaml`.
    input: String,
}

impl Story {
    pub(super) fn new(paths: &Paths, format: Format, began: Instant, input: String) -> Self {
        Self { paths: paths.clone(), format, began, input }
    }

    /// Tells until it is ready, then waits for the end.
    pub(super) async fn tell(self, drain: Drain) -> Result<(), Infallible> {
        tokio::select! {
            () = drain.requested() => return Ok(()),
            () = self.until_ready() => {}
        }
        drain.requested().await;
        Ok(())
    }

    async fn until_ready(&self) {
        let mut told = Vec::new();
        loop {
            let status = self.ask(socket::status).await;
            match status {
                Some(status) if status.ready => {
                    let vips = self.ask(socket::vips).await.unwrap_or_default();
                    return self.ready(&status, &vips);
                }
                Some(status) if self.began.elapsed() > PATIENCE && status.awaited != told => {
                    told = status.awaited;
                    info!("not ready after {}: waiting for {}", human(self.began.elapsed()), told.join(", "));
                }
                _ => {}
            }
            sleep(POLL).await;
        }
    }

    /// The agent's socket is asked as anybody would; before it listens there is no answer.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Paths) -> Result<T, socket::SocketError> + Send + 'static,
    ) -> Option<T> {
        let paths = self.paths.clone();
        tokio::task::spawn_blocking(move || question(&paths)).await.ok()?.ok()
    }

    fn ready(&self, status: &Status, vips: &[Vip]) {
        let took = self.began.elapsed();
        match self.format {
            Format::Json => {
                info!(instance = %status.instance, took_ms = took.as_millis(), names = vips.len(), "ready")
            }
            Format::Text => table::tell(&self.text(status, vips, took)),
        }
    }

    fn text(&self, status: &Status, vips: &[Vip], took: Duration) -> String {
        let mut text = format!("\n{BOLD}ready in {}{OFF}: {}\n\n", human(took), self.input);
        let mut line = |what: &str, value: String| {
            writeln!(text, "  {what:<9} {value}").expect("a String takes all text")
        };
        if let [first, ..] = status.resolver.listen[..] {
            let domains: Vec<String> = status.views.iter().map(|view| format!("*.{}", view.domain)).collect();
            line("names", format!("{} answered on {first}, UDP and TCP", domains.join(" ")));
        }
        line("proxy", proxy(status));
        let programs = &status.datapath.programs;
        if let Some(program) = programs.iter().find(|program| program.name == WORKLOAD_PROGRAM) {
            let count = programs.len();
            line(
                "kernel",
                format!("{count} programs attached; workloads run in {}", program.cgroup.display()),
            );
        }
        for vip in vips.iter().take(NAMES_SHOWN) {
            let addresses: Vec<String> = [vip.v4.map(|v4| v4.to_string()), vip.v6.map(|v6| v6.to_string())]
                .into_iter()
                .flatten()
                .collect();
            line("VIP", format!("{}  {}", addresses.join("  "), vip.name));
        }
        if vips.len() > NAMES_SHOWN {
            line("", format!("and {} more names: kuma-dns vips", vips.len() - NAMES_SHOWN));
        }
        text.push_str(&self.invitation(vips));
        text
    }

    /// What to type next, in another terminal.
    fn invitation(&self, vips: &[Vip]) -> String {
        let flags = self.flags();
        let name = vips.first().map_or("NAME.mesh", |vip| vip.name.as_str());
        format!(
            "\nIn another terminal:\n  kuma-dns {flags}exec -- curl -s http://{name}/\n  kuma-dns {flags}status\n\
             Ctrl-C ends it in order.\n\n"
        )
    }

    /// The flags that name this instance to another command.
    fn flags(&self) -> String {
        let mut flags = String::new();
        if self.paths.instance != crate::model::instance::Instance::default() {
            write!(flags, "--instance {} ", self.paths.instance).expect("a String takes all text");
        }
        if self.paths.run_dir != std::path::Path::new("/run") {
            write!(flags, "--run-dir {} ", self.paths.run_dir.display()).expect("a String takes all text");
        }
        flags
    }
}

/// Which proxy is where: `envoy 1.40.0 (pid 7), VIP connections on 127.0.0.1:15001, admin on 127.0.0.1:9901`.
fn proxy(status: &Status) -> String {
    let clients = status.control_plane.iter().flat_map(|plane| &plane.clients);
    let software =
        clients.filter(|client| client.role == PROXY_ROLE).find_map(|client| client.software.clone());
    let mut text = software.unwrap_or_else(|| "connected".into());
    let Some(proxy) = &status.proxy else { return text };
    let at = |what: &str, address: Option<std::net::SocketAddr>| {
        address.map(|address| format!(", {what} on {address}")).unwrap_or_default()
    };
    text.push_str(&proxy.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default());
    text.push_str(&at("VIP connections", proxy.outbound));
    text.push_str(&at("admin", proxy.admin));
    text
}
