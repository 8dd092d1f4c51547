//! One change to many agents: from a REST write until the first and until the last of them has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::plane::Place;
use harness::rest::Rest;
use kuma_dns::wire::node::Role;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::Client;
use super::measure::{rss_bytes, say, say_times};
use super::system::{only_service, services};

/// How long a change may take to reach everybody.
const DEADLINE: Duration = Duration::from_secs(120);
/// Streams that connect at once.
const AT_ONCE: usize = 50;

pub(crate) fn measure(size: usize, streams: usize, changes: usize) -> Result<()> {
    let place = Place::new(&services(size))?;
    let process = place.start(&[], &[])?;
    let mut rest = Rest::connect(place.netns())?;
    // Threads are where their maker is.
    let runtime = place.netns().run(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build()?;
        // The one worker must be started from in here.
        runtime.block_on(runtime.spawn(async {}))?;
        anyhow::Ok(runtime)
    })?;
    let (heard, mut hearing) = mpsc::channel(streams);
    let (wanted, wants) = watch::channel(Arc::<str>::from(""));
    let begin = Instant::now();
    let mut tasks = runtime.block_on(runtime.spawn(connect_all(streams, heard, wants)))??;
    say("all agents connected and in step", begin.elapsed().as_secs_f64(), "s")?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for change in 0..changes {
        let name = format!("fan-{change}");
        wanted.send(format!("default/{name}").into()).context("an agent has ended")?;
        let begin = Instant::now();
        rest.put_service(&name, only_service())?;
        for number in 0..streams {
            let next = runtime.block_on(async { timeout(DEADLINE, hearing.recv()).await });
            next.with_context(|| format!("{number} of {streams} agents have {name}"))?
                .context("an agent has ended")?;
            if number == 0 {
                first.push(begin.elapsed());
            }
        }
        last.push(begin.elapsed());
    }
    ensure!(tasks.try_join_next().is_none(), "an agent has ended");
    say_times("REST write to the first agent", &first)?;
    say_times("REST write to the last agent", &last)?;
    say("control plane RSS", rss_bytes(process.pid())? as f64 / f64::from(1 << 20), "MB")?;
    tasks.abort_all();
    runtime.shutdown_background();
    Ok(())
}

/// A proxy that stands in for Envoy, and agents that each say when they have what is wanted.
async fn connect_all(
    streams: usize,
    heard: mpsc::Sender<()>,
    wants: watch::Receiver<Arc<str>>,
) -> Result<JoinSet<Result<()>>> {
    let mut tasks = JoinSet::new();
    let mut proxy = Client::connect("proxy", Role::Proxy).await?;
    tasks.spawn(async move {
        loop {
            proxy.next().await?;
        }
    });
    for from in (0..streams).step_by(AT_ONCE) {
        let mut connecting = JoinSet::new();
        for number in from..(from + AT_ONCE).min(streams) {
            connecting.spawn(async move {
                let mut agent = Client::connect(&format!("agent-{number}"), Role::Agent).await?;
                agent.next().await?;
                anyhow::Ok(agent)
            });
        }
        while let Some(agent) = connecting.join_next().await {
            let (mut agent, heard, wants) = (agent??, heard.clone(), wants.clone());
            tasks.spawn(async move {
                loop {
                    let names = agent.next().await?;
                    let wanted = wants.borrow().clone();
                    if names.iter().any(|name| **name == *wanted) {
                        heard.send(()).await.context("the benchmark is over")?;
                    }
                }
            });
        }
    }
    Ok(tasks)
}
