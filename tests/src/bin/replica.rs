//! One control plane of several on a PostgreSQL, to be killed and paused at any moment: says in a line of JSON whatever it
//! publishes, and which part it has. Started by tests/replicas.rs: `replica FILE HOST PORT USER DATABASE`.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use kuma_dns::cp::store::{StoreConfig, postgres::Settings};
use kuma_dns::cp::{Config, ControlPlane, Serving, rest};
use kuma_dns::model::view::Port;
use kuma_dns::rt::{Drain, Ready};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, host, port, user, database] = words.as_slice() else {
        bail!("usage: replica FILE HOST PORT USER DATABASE");
    };
    let store = StoreConfig::Postgres(Settings {
        host: host.clone(),
        port: Port::new(port.parse().context("the port is no number")?),
        user: user.clone(),
        db_name: database.clone(),
        ..Settings::default()
    });
    let xds = "127.0.0.1:0".parse()?;
    let config = Config {
        files: vec![file.into()],
        settings: None,
        store,
        xds,
        serving: Serving::default(),
        api: rest::Config::default(),
        outbounds: None,
    };
    let plane = ControlPlane::open(config, &Ready::default()).await?;
    let (mut snapshots, mut status) = (plane.snapshots(), plane.status());
    let mut end = signal(SignalKind::terminate())?;
    let (trigger, drain) = Drain::pair();
    let speak = async {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let services = snapshot.meshes.get("default").into_iter().flat_map(|mesh| &mesh.vips);
            let vips: serde_json::Map<String, serde_json::Value> =
                services.map(|(name, service)| (name.to_string(), json!(service.addresses.v4))).collect();
            let replica = status.borrow_and_update().replica.clone();
            let at_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let line = json!({"at_secs": at_secs, "replica": replica, "vips": vips});
            writeln!(std::io::stdout(), "{line}")?;
            tokio::select! {
                changed = snapshots.changed() => changed?,
                changed = status.changed() => changed?,
                _ = end.recv() => trigger.request(),
            }
        }
    };
    tokio::select! {
        biased;
        ended = plane.run(drain) => ended.context("the control plane ended"),
        spoken = speak => spoken,
    }
}
