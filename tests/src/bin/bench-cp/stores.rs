//! How fast VIPs are handed out from nothing and stored, in each store: a control plane in this process, so that starting one
//! does not count, and the reading of the file is taken off.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::postgres::Postgres;
use kuma_dns::cp::store::StoreConfig;
use kuma_dns::cp::{self, Config, ControlPlane, Serving, rest};
use kuma_dns::rt::Ready;

use super::measure::say;
use super::system::services;

pub(crate) fn measure(size: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("mesh.yaml");
    std::fs::write(&file, services(size))?;
    let files = vec![file];
    let begin = Instant::now();
    cp::check(&files, None)?;
    let reading = begin.elapsed();
    say("reading the file", reading.as_secs_f64(), "s")?;
    let postgres = Postgres::start()?;
    for (name, store) in [
        ("memory", StoreConfig::Memory),
        ("redb", StoreConfig::Embedded(dir.path().join("redb"))),
        ("PostgreSQL", StoreConfig::Postgres(postgres.settings())),
    ] {
        let took = open(&files, store.clone())?.saturating_sub(reading).as_secs_f64();
        say(&format!("allocation from nothing, {name}"), took, "s")?;
        // Two addresses each.
        say(&format!("allocations, {name}"), (2 * size) as f64 / took.max(1e-3), "/s")?;
        if name != "memory" {
            let again = open(&files, store)?.saturating_sub(reading).as_secs_f64();
            say(&format!("from stored to published, {name}"), again, "s")?;
        }
    }
    Ok(())
}

/// Opens a control plane: when it returns, everything is stored and published.
fn open(files: &[PathBuf], store: StoreConfig) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let xds = "127.0.0.1:0".parse()?;
    let serving = Serving::default();
    let config = Config {
        files: files.to_vec(),
        settings: None,
        store,
        xds,
        api: rest::Config::default(),
        serving,
        outbounds: None,
    };
    let begin = Instant::now();
    let plane = runtime.block_on(ControlPlane::open(config, &Ready::default()))?;
    let took = begin.elapsed();
    drop(plane);
    runtime.shutdown_timeout(Duration::from_secs(10));
    Ok(took)
}
