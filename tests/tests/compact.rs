//! Both shapes of outbounds against a real Envoy: the same VIPs answer, and changing from one to the other under load is
//! seen by nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::live::{Live, ask, backend, wait_for_name};
use harness::xds::{
    Admin, Agent, ControlPlane, Envoy, anywhere, eventually, in_own_netns, listeners, service, shaped,
};
use kuma_dns::agent::proxy::DEFAULT_ADMIN_PORT;
use kuma_dns::cp::snapshot::{Outbounds, Protocol, Published, Snapshot};

const ENDPOINT: &[SocketAddr] = &[SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7001)];
/// The listeners with a socket.
const ENTRANCES: usize = 2;
/// Two families each: 1,000 VIPs and ports, the most that have a listener each.
const BORDER: u16 = 500;
const BUSY_CLIENTS: u16 = 4;

fn services(outbounds: Outbounds, upto: u16) -> Arc<Snapshot> {
    let one = |n| -> (Arc<str>, Published) { service(n, Protocol::Tcp, &[backend(n)]) };
    shaped(outbounds, 1, (1..=upto).map(one))
}

fn vips(n: u16) -> [SocketAddr; 2] {
    let (_, service) = service(n, Protocol::Tcp, &[]);
    let (v4, v6) =
        (service.addresses.v4.expect("both families"), service.addresses.v6.expect("both families"));
    [SocketAddr::from((v4, 80)), SocketAddr::from((v6, 80))]
}

/// Connects once to both VIPs of each service; what went wrong.
fn visit(all: impl Iterator<Item = u16>) -> Vec<String> {
    let visit = |(n, vip): (u16, SocketAddr)| match ask(vip) {
        Ok(said) if said == backend(n).to_string() => None,
        other => Some(format!("{vip}: {other:?}")),
    };
    all.flat_map(|n| vips(n).map(|vip| (n, vip))).filter_map(visit).collect()
}

/// Waits until this many VIPs and ports have a listener each, and none is changing.
async fn settled(live: &Live, envoy: &Admin, listeners: usize) -> anyhow::Result<()> {
    eventually(60, "the shape", || async {
        let status = live.control_plane.status();
        ensure!(status.views[0].changing_shape == 0, "{} change", status.views[0].changing_shape);
        let has = envoy.listeners().await?.len();
        ensure!(has == listeners + ENTRANCES, "Envoy has {has} listeners");
        Ok(())
    })
    .await
}

async fn nothing_was_refused(live: &Live, envoy: &Admin) -> anyhow::Result<()> {
    ensure!(live.control_plane.refused().is_empty(), "{:?}", live.control_plane.refused());
    for stat in ["cluster_manager.cds.update_rejected", "listener_manager.lds.update_rejected"] {
        ensure!(envoy.stat(stat).await? == 0, "{stat}");
    }
    Ok(())
}

fn admin() -> Admin {
    Admin((Ipv4Addr::LOCALHOST, DEFAULT_ADMIN_PORT.get()).into())
}

#[test]
fn a_vip_answers_in_either_shape_and_in_both_families() {
    in_own_netns(|| async {
        let live = Live::start(services(Outbounds::Compact, 20)).await?;
        let envoy = admin();
        settled(&live, &envoy, 0).await?;
        let all = live.workload(|| visit(1..=20))?;
        let wrong = tokio::task::block_in_place(|| all.join());
        ensure!(wrong.is_empty(), "compact: {wrong:?}");

        live.control_plane.snapshots.send_replace(services(Outbounds::Listeners, 20));
        settled(&live, &envoy, 40).await?;
        let all = live.workload(|| visit(1..=20))?;
        let wrong = tokio::task::block_in_place(|| all.join());
        ensure!(wrong.is_empty(), "listeners: {wrong:?}");
        nothing_was_refused(&live, &envoy).await?;
        live.stop().await
    });
}

#[test]
fn a_compact_vip_works_the_moment_its_name_resolves() {
    in_own_netns(|| async {
        let (first, last) = (10, 110);
        let live = Live::start(services(Outbounds::Compact, first)).await?;
        let prober = live.workload(move || {
            let probe = |n| {
                wait_for_name(&format!("service-{n}.mesh"), 30);
                visit(n..=n)
            };
            (first + 1..=last).flat_map(probe).collect::<Vec<_>>()
        })?;
        let mut rounds = tokio::time::interval(Duration::from_millis(100));
        for upto in (first + 5..=last).step_by(5) {
            rounds.tick().await;
            live.control_plane.snapshots.send_replace(services(Outbounds::Compact, upto));
        }
        let missed = tokio::task::block_in_place(|| prober.join());
        ensure!(missed.is_empty(), "{missed:?}");
        nothing_was_refused(&live, &admin()).await?;
        live.stop().await
    });
}

#[test]
fn crossing_the_border_of_auto_under_load_is_seen_by_nobody() {
    in_own_netns(|| async {
        let live = Live::start(services(Outbounds::Auto, BORDER)).await?;
        let envoy = admin();
        settled(&live, &envoy, 2 * usize::from(BORDER)).await?;
        let busy = live.workload(|| {
            let end = Instant::now() + Duration::from_secs(20);
            let client = move |nth: u16| {
                let (mut made, mut wrong) = (0, Vec::new());
                while Instant::now() < end {
                    made += 1;
                    wrong.extend(visit((1..=BORDER).skip(usize::from(nth)).step_by(50)));
                }
                (made, wrong)
            };
            let clients: Vec<_> =
                (0..BUSY_CLIENTS).map(|nth| std::thread::spawn(move || client(nth))).collect();
            clients.into_iter().map(|client| client.join().expect("a client")).collect::<Vec<_>>()
        })?;
        for _ in 0..2 {
            live.control_plane.snapshots.send_replace(services(Outbounds::Auto, BORDER + 1));
            settled(&live, &envoy, 0).await?;
            live.control_plane.snapshots.send_replace(services(Outbounds::Auto, BORDER));
            settled(&live, &envoy, 2 * usize::from(BORDER)).await?;
        }
        let busy = tokio::task::block_in_place(|| busy.join());
        for (made, wrong) in busy {
            let few: Vec<_> = wrong.iter().take(5).collect();
            ensure!(wrong.is_empty() && made > 0, "{} wrong in {made} rounds: {few:?}", wrong.len());
        }
        nothing_was_refused(&live, &envoy).await?;
        live.stop().await
    });
}

#[test]
fn http_keeps_its_listener_beside_compact_tcp() {
    in_own_netns(|| async {
        let services = [service(1, Protocol::Http, ENDPOINT), service(2, Protocol::Tcp, ENDPOINT)];
        let control_plane = ControlPlane::start(0, shaped(Outbounds::Compact, 1, services)).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 4).await?;
        let (active, clusters) = (envoy.listeners().await?, envoy.clusters().await?);
        ensure!(active.len() == 2 + ENTRANCES, "{active:?}");
        for name in listeners(1) {
            ensure!(active.contains_key(&name) && !clusters.contains_key(&name), "{name} has a listener");
        }
        for name in listeners(2) {
            ensure!(clusters.contains_key(&name), "{name} has a cluster: {clusters:?}");
        }
        envoy.stop().await
    });
}

#[test]
fn a_removed_compact_service_leaves_agents_first_and_envoy_two_ttls_later() {
    in_own_netns(|| async {
        let both = || [service(1, Protocol::Tcp, ENDPOINT), service(2, Protocol::Tcp, ENDPOINT)];
        let control_plane = ControlPlane::start(0, shaped(Outbounds::Compact, 1, both())).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 4).await?;
        let one = both().into_iter().take(1);
        control_plane.snapshots.send_replace(shaped(Outbounds::Compact, 1, one));
        views_with(&agent, 2).await?;
        let left = Instant::now();
        let [gone, _] = listeners(2);
        ensure!(envoy.clusters().await?.contains_key(&gone), "an answer from before is still believed");
        eventually(10, "the cluster goes", || async {
            ensure!(!envoy.clusters().await?.contains_key(&gone), "still there");
            Ok(())
        })
        .await?;
        ensure!(
            left.elapsed() >= Duration::from_millis(1900),
            "it went after {:?}, not two TTLs",
            left.elapsed()
        );
        ensure!(envoy.clusters().await?.contains_key(&listeners(1)[0]));
        envoy.stop().await
    });
}

async fn views_with(agent: &Agent, routes: usize) -> anyhow::Result<()> {
    eventually(10, "the agent's view", || async {
        ensure!(agent.routes() == Some(routes), "the agent has {:?} routes, not {routes}", agent.routes());
        Ok(())
    })
    .await
}
