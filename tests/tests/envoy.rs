//! The xDS server against a real Envoy, and agents' feeds beside it: what is acknowledged, in which order, and what is
//! sent again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::ensure;
use harness::xds::{
    Agent, ControlPlane, Envoy, anywhere, eventually, in_own_netns, listeners, mesh, service,
};
use kuma_dns::cp::snapshot::Protocol;

const ENDPOINT: &[SocketAddr] = &[SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7001)];

async fn views_with(agent: &Agent, routes: usize) -> anyhow::Result<()> {
    eventually(10, "the agent's view", || async {
        ensure!(agent.routes() == Some(routes), "the agent has {:?} routes, not {routes}", agent.routes());
        Ok(())
    })
    .await
}

#[test]
fn agents_learn_of_a_service_when_a_real_envoy_has_its_listeners() {
    in_own_netns(|| async {
        let services = [service(1, Protocol::Http, ENDPOINT), service(2, Protocol::Tcp, ENDPOINT)];
        let control_plane = ControlPlane::start(0, mesh(1, services)).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        eventually(5, "the agent is connected", || async {
            let status = control_plane.status();
            ensure!(status.views.iter().any(|view| view.clients.len() == 1), "{status:?}");
            Ok(())
        })
        .await?;
        let waiting = control_plane.waiting();
        ensure!(waiting.iter().any(|words| words.contains("waiting for a proxy")), "{waiting:?}");
        ensure!(agent.routes().is_none(), "nothing is published without a proxy");

        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 4).await?;
        let active: BTreeMap<String, String> = envoy.listeners().await?;
        for name in listeners(1).into_iter().chain(listeners(2)) {
            ensure!(active.contains_key(&name), "{name} is not active: {active:?}");
        }
        ensure!(active.len() == 6, "four of ours and two with a socket: {active:?}");
        ensure!(control_plane.waiting().is_empty(), "{:?}", control_plane.waiting());
        ensure!(control_plane.refused().is_empty(), "{:?}", control_plane.refused());
        envoy.stop().await
    });
}
