//! What a real Envoy is given in either variant of xDS: all that it asks for in the state of the world, and in both the good
//! ones of what it refuses in part; and that it is given time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, ensure};
use harness::plain::PlainEnvoy;
use harness::wait::holds_within;
use harness::xds::{
    Agent, ControlPlane, Envoy, anywhere, eventually, in_own_netns, listeners, mesh, service,
};
use kuma_dns::cp::snapshot::{Listener, Protocol, Published};
use kuma_dns::wire::node::Role;
use nix::sys::signal::{Signal, kill};

const ENDPOINT: &[SocketAddr] = &[SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7001)];

async fn views_with(agent: &Agent, routes: usize) -> anyhow::Result<()> {
    eventually(10, "the agent's view", || async {
        ensure!(agent.routes() == Some(routes), "the agent has {:?} routes, not {routes}", agent.routes());
        Ok(())
    })
    .await
}

#[test]
fn an_envoy_that_asks_for_the_state_of_the_world_follows_what_comes_changes_and_goes() {
    in_own_netns(|| async {
        let of = |protocol, numbers: &[u16]| {
            let services = numbers.iter().map(|&n| service(n, protocol, ENDPOINT)).collect::<Vec<_>>();
            mesh(1, services)
        };
        let control_plane = ControlPlane::start(0, of(Protocol::Tcp, &[1, 2])).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = PlainEnvoy::start(control_plane.addr, "plain", 15001, 9901)?;
        views_with(&agent, 4).await?;
        control_plane.snapshots.send_replace(of(Protocol::Tcp, &[1, 2, 3]));
        views_with(&agent, 6).await?;
        let before = envoy.listeners().await?;
        for name in [1, 2, 3].into_iter().flat_map(listeners) {
            ensure!(before.contains_key(&name), "{name} is not active: {before:?}");
        }
        control_plane.snapshots.send_replace(of(Protocol::Http, &[1, 2, 3]));
        eventually(10, "listeners of the other protocol", || async {
            let modified = envoy.stat("listener_manager.listener_modified").await?;
            ensure!(modified == 6, "{modified} of 6 are modified");
            Ok(())
        })
        .await?;
        control_plane.snapshots.send_replace(of(Protocol::Http, &[1]));
        views_with(&agent, 2).await?;
        ensure!(envoy.listeners().await?.len() == 8, "the others rest two TTLs");
        eventually(10, "listeners and clusters that are gone", || async {
            let (listeners, clusters) = (envoy.listeners().await?, envoy.clusters().await?);
            ensure!(listeners.len() == 4 && clusters.len() == 1, "{listeners:?} {clusters:?}");
            Ok(())
        })
        .await?;
        ensure!(control_plane.refused().is_empty(), "{:?}", control_plane.refused());
        ensure!(envoy.stat("cluster_manager.cds.update_rejected").await? == 0, "a refused cluster");
        Ok(())
    });
}

/// Longer than a server that pings every 10 seconds and waits 5 for the answer bears.
const STANDSTILL_SECS: u64 = 20;

#[test]
fn an_envoy_that_stands_still_over_many_vips_keeps_its_stream() {
    in_own_netns(|| async {
        let good = |n| service(n, Protocol::Tcp, ENDPOINT);
        let control_plane = ControlPlane::start(0, mesh(1, [good(1)])).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 2).await?;
        let pid = envoy.pid().context("Envoy runs")?;
        kill(pid, Signal::SIGSTOP)?;
        let left =
            || !control_plane.status().views[0].clients.iter().any(|client| client.role == Role::Proxy);
        let has_left = tokio::task::block_in_place(|| holds_within(STANDSTILL_SECS, left));
        kill(pid, Signal::SIGCONT)?;
        ensure!(!has_left, "the stream was cut");
        control_plane.snapshots.send_replace(mesh(1, [good(1), good(2)]));
        views_with(&agent, 4).await?;
        envoy.stop().await
    });
}

/// Envoy takes neither a cluster without name nor a listener that leads there.
fn nameless(n: u16) -> (Arc<str>, Published) {
    let (name, published) = service(n, Protocol::Tcp, ENDPOINT);
    let mut entry = (*published.entry).clone();
    entry.listeners = [Listener { cluster: "".into(), ..entry.listeners[0].clone() }].into();
    (name, Published { entry: Arc::new(entry), ..published })
}

#[test]
fn one_bad_resource_holds_no_other_back_whichever_way_envoy_asks() {
    for is_plain in [false, true] {
        in_own_netns(|| async {
            let good = |n| service(n, Protocol::Tcp, ENDPOINT);
            let control_plane = ControlPlane::start(0, mesh(1, [good(1), nameless(2), good(3)])).await?;
            let agent = Agent::start(control_plane.addr, "agent");
            let (mut plain, mut ours) = (None, None);
            if is_plain {
                plain = Some(PlainEnvoy::start(control_plane.addr, "plain", 15001, 9901)?);
            } else {
                ours = Some(Envoy::start(control_plane.addr, "ours", 15001, 9901, anywhere())?);
            }
            views_with(&agent, 4).await?;
            let refused = control_plane.refused();
            ensure!(refused.iter().any(|(_, reason)| reason.contains("at least 1")), "{refused:?}");
            let waiting = control_plane.waiting().join(" ");
            ensure!(waiting.contains("refuses") || waiting.contains("not taken"), "{waiting}");

            control_plane.snapshots.send_replace(mesh(1, [good(1), nameless(2), good(3), good(4)]));
            views_with(&agent, 6).await?;
            control_plane.snapshots.send_replace(mesh(1, [good(1), good(2), good(3), good(4)]));
            views_with(&agent, 8).await?;
            eventually(10, "nothing is refused any more", || async {
                ensure!(control_plane.refused().is_empty(), "{:?}", control_plane.refused());
                Ok(())
            })
            .await?;
            drop(plain);
            if let Some(envoy) = ours {
                envoy.stop().await?;
            }
            Ok(())
        });
    }
}
