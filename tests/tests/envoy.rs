//! The xDS server against a real Envoy, and agents' feeds beside it: what is acknowledged, in which order, and what is
//! sent again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harness::xds::{
    Agent, ControlPlane, Envoy, anywhere, eventually, in_own_netns, listeners, mesh, service,
};
use kuma_dns::cp::snapshot::Protocol;
use kuma_dns::model::view::{Addresses, Port};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const ENDPOINT: &[SocketAddr] = &[SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7001)];

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
        let active = envoy.listeners().await?;
        for name in listeners(1).into_iter().chain(listeners(2)) {
            ensure!(active.contains_key(&name), "{name} is not active: {active:?}");
        }
        ensure!(active.len() == 6, "four of ours and two with a socket: {active:?}");
        ensure!(control_plane.waiting().is_empty(), "{:?}", control_plane.waiting());
        ensure!(control_plane.refused().is_empty(), "{:?}", control_plane.refused());
        envoy.stop().await
    });
}

#[test]
fn a_removed_service_leaves_agents_first_and_envoy_two_ttls_later() {
    in_own_netns(|| async {
        let both = || [service(1, Protocol::Http, ENDPOINT), service(2, Protocol::Http, ENDPOINT)];
        let control_plane = ControlPlane::start(0, mesh(1, both())).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 4).await?;

        control_plane.snapshots.send_replace(mesh(1, both().into_iter().take(1)));
        views_with(&agent, 2).await?;
        let left = Instant::now();
        let [gone, _] = listeners(2);
        ensure!(envoy.listeners().await?.contains_key(&gone), "an answer from before is still believed");
        eventually(10, "the listener goes", || async {
            ensure!(!envoy.listeners().await?.contains_key(&gone), "still there");
            Ok(())
        })
        .await?;
        ensure!(
            left.elapsed() >= Duration::from_millis(1900),
            "it went after {:?}, not two TTLs",
            left.elapsed()
        );
        eventually(10, "the cluster goes", || async {
            ensure!(!envoy.clusters().await?.contains_key("service-2"), "still there");
            Ok(())
        })
        .await?;
        ensure!(envoy.clusters().await?.contains_key("service-1"));
        envoy.stop().await
    });
}

#[test]
fn a_change_of_endpoints_changes_no_listener_and_no_cluster() {
    in_own_netns(|| async {
        let control_plane = ControlPlane::start(0, mesh(1, [service(1, Protocol::Http, ENDPOINT)])).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 2).await?;
        let before = (envoy.listeners().await?, envoy.clusters().await?);

        let moved = [SocketAddr::from(([127, 0, 0, 1], 7002)), SocketAddr::from(([127, 0, 0, 1], 7003))];
        control_plane.snapshots.send_replace(mesh(1, [service(1, Protocol::Http, &moved)]));
        eventually(5, "the new endpoints", || async {
            let clusters = envoy.get("/clusters").await?;
            ensure!(moved.iter().all(|endpoint| clusters.contains(&format!("::{endpoint}::"))), "{clusters}");
            ensure!(!clusters.contains("::127.0.0.1:7001::"), "the old one is gone");
            Ok(())
        })
        .await?;
        ensure!(before == (envoy.listeners().await?, envoy.clusters().await?), "neither is touched");
        ensure!(envoy.stat("listener_manager.listener_modified").await? == 0);
        envoy.stop().await
    });
}

#[test]
fn a_listener_that_envoy_refuses_is_named_and_the_others_work() {
    in_own_netns(|| async {
        let (name, mut clash) = service(9, Protocol::Tcp, ENDPOINT);
        // The address of the original-destination listener: Envoy refuses a second listener there.
        clash.addresses = Addresses { v4: Some(Ipv4Addr::UNSPECIFIED), v6: None };
        Arc::make_mut(&mut clash.entry).listeners[0].ports = [Port::new(15001)].into();
        let snapshot = mesh(
            1,
            [service(1, Protocol::Http, ENDPOINT), (name, clash), service(2, Protocol::Tcp, ENDPOINT)],
        );
        let control_plane = ControlPlane::start(0, snapshot).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 4).await?;
        let refused = control_plane.refused();
        ensure!(refused.len() == 1 && refused[0].0 == "outbound:0.0.0.0:15001", "{refused:?}");
        ensure!(refused[0].1.contains("duplicate address"), "{refused:?}");
        let waiting = control_plane.waiting();
        ensure!(waiting == [r#"proxy "proxy" refuses outbound:0.0.0.0:15001"#], "{waiting:?}");
        envoy.stop().await
    });
}

#[test]
fn a_cluster_without_a_name_is_found_one_by_one_and_the_others_work() {
    in_own_netns(|| async {
        let (name, mut nameless) = service(9, Protocol::Tcp, ENDPOINT);
        Arc::make_mut(&mut nameless.entry).listeners[0].cluster = "".into();
        let services =
            [service(1, Protocol::Http, ENDPOINT), (name, nameless), service(2, Protocol::Tcp, ENDPOINT)];
        let control_plane = ControlPlane::start(0, mesh(1, services)).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 4).await.with_context(|| format!("{:#?}", control_plane.status()))?;
        let refused = control_plane.refused();
        ensure!(refused.iter().any(|(name, _)| name.is_empty()), "{refused:?}");
        envoy.stop().await
    });
}

#[test]
fn after_a_restart_of_the_control_plane_only_what_changed_is_sent() {
    in_own_netns(|| async {
        let services: Vec<_> = (1..=50).map(|n| service(n, Protocol::Http, ENDPOINT)).collect();
        let control_plane = ControlPlane::start(5678, mesh(1, services.clone())).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 100).await?;
        let added = envoy.stat("listener_manager.listener_added").await?;
        let before = envoy.listeners().await?;
        control_plane.stop().await?;
        ensure!(agent.routes() == Some(100), "the view stays while the control plane is gone");

        let services: Vec<_> = services.into_iter().chain([service(51, Protocol::Tcp, ENDPOINT)]).collect();
        let control_plane = ControlPlane::start(5678, mesh(1, services)).await?;
        views_with(&agent, 102).await?;
        let after = envoy.listeners().await?;
        ensure!(
            before.iter().all(|(name, version)| after.get(name) == Some(version)),
            "versions are hashes of content"
        );
        ensure!(envoy.stat("listener_manager.listener_added").await? == added + 2, "two are new");
        ensure!(envoy.stat("listener_manager.listener_modified").await? == 0, "none was sent again");
        control_plane.stop().await?;
        envoy.stop().await
    });
}

#[test]
fn what_a_service_left_in_envoy_while_the_control_plane_was_gone_outlives_its_name() {
    in_own_netns(|| async {
        let both = [service(1, Protocol::Http, ENDPOINT), service(2, Protocol::Http, ENDPOINT)];
        let control_plane = ControlPlane::start(5678, mesh(1, both.clone())).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 4).await?;
        control_plane.stop().await?;

        let control_plane = ControlPlane::start(5678, mesh(1, both.into_iter().take(1))).await?;
        views_with(&agent, 2).await?;
        let [gone, _] = listeners(2);
        ensure!(envoy.listeners().await?.contains_key(&gone), "agents have only just dropped it");
        eventually(15, "it goes in the end", || async {
            ensure!(!envoy.listeners().await?.contains_key(&gone), "still there");
            Ok(())
        })
        .await?;
        control_plane.stop().await?;
        envoy.stop().await
    });
}

#[test]
fn an_envoy_that_dies_is_started_again_and_gets_everything_back() {
    in_own_netns(|| async {
        let control_plane = ControlPlane::start(0, mesh(1, [service(1, Protocol::Http, ENDPOINT)])).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 2).await?;
        let first = envoy.pid().context("it runs")?;
        nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL)?;
        eventually(10, "another Envoy with all listeners", || async {
            ensure!(envoy.pid().is_some_and(|pid| pid != first), "the first one");
            ensure!(envoy.listeners().await?.len() == 4);
            Ok(())
        })
        .await?;
        ensure!(agent.routes() == Some(2), "agents keep their view");
        envoy.stop().await
    });
}

#[test]
fn a_connection_that_was_meant_for_no_vip_is_closed_and_counted() {
    in_own_netns(|| async {
        let control_plane = ControlPlane::start(0, mesh(1, [service(1, Protocol::Http, ENDPOINT)])).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&agent, 2).await?;
        for (target, stat) in [
            (SocketAddr::from((Ipv4Addr::LOCALHOST, 15001)), "listener.0.0.0.0_15001.no_filter_chain_match"),
            (
                SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 15001)),
                "listener.[__]_15001.no_filter_chain_match",
            ),
        ] {
            let mut stream = TcpStream::connect(target).await?;
            let mut answer = Vec::new();
            // Closed or reset: both say that nobody is there.
            let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await?;
            ensure!(answer.is_empty(), "{answer:?}");
            ensure!(envoy.stat(stat).await? == 1, "{stat}");
        }
        envoy.stop().await
    });
}

#[test]
fn two_envoys_of_one_view_must_both_have_a_listener_before_agents_learn_of_it() {
    in_own_netns(|| async {
        let control_plane = ControlPlane::start(0, mesh(1, [service(1, Protocol::Http, ENDPOINT)])).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let first = Envoy::start(control_plane.addr, "first", 15001, 9901, anywhere())?;
        views_with(&agent, 2).await?;
        let second = Envoy::start(control_plane.addr, "second", 16001, 9902, anywhere())?;
        eventually(10, "the second has everything", || async {
            ensure!(second.listeners().await?.len() == 4);
            Ok(())
        })
        .await?;
        control_plane.snapshots.send_replace(mesh(
            1,
            [service(1, Protocol::Http, ENDPOINT), service(2, Protocol::Tcp, ENDPOINT)],
        ));
        views_with(&agent, 4).await?;
        let [new, _] = listeners(2);
        ensure!(first.listeners().await?.contains_key(&new) && second.listeners().await?.contains_key(&new));
        first.stop().await?;
        // One that is gone does not count.
        control_plane.snapshots.send_replace(mesh(1, (1..=3).map(|n| service(n, Protocol::Tcp, ENDPOINT))));
        views_with(&agent, 6).await?;
        second.stop().await
    });
}

#[test]
fn an_agent_that_cannot_apply_a_view_is_shown_with_its_reason_and_holds_nobody_back() {
    in_own_netns(|| async {
        let control_plane = ControlPlane::start(0, mesh(1, [])).await?;
        let (good, bad) = (Agent::start(control_plane.addr, "good"), Agent::start(control_plane.addr, "bad"));
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        views_with(&good, 0).await?;
        let _ = bad.answer.send_replace(Err("map VIPS is full".into()));
        control_plane.snapshots.send_replace(mesh(1, [service(1, Protocol::Http, ENDPOINT)]));
        views_with(&good, 2).await?;
        eventually(5, "the reason is shown", || async {
            let refused = control_plane.refused();
            ensure!(
                refused.iter().any(|(name, reason)| name == "default" && reason == "map VIPS is full"),
                "{refused:?}"
            );
            Ok(())
        })
        .await?;
        envoy.stop().await
    });
}

#[test]
fn while_somebody_else_has_envoys_port_nothing_is_published_and_the_listener_is_named() {
    in_own_netns(|| async {
        let control_plane = ControlPlane::start(0, mesh(1, [service(1, Protocol::Http, ENDPOINT)])).await?;
        let agent = Agent::start(control_plane.addr, "agent");
        let envoy = Envoy::start(control_plane.addr, "proxy", 15001, 9901, anywhere())?;
        // Our own look at the port came too early to see it.
        let _taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 15001))?;
        eventually(10, "the refusal", || async {
            let waiting = control_plane.waiting();
            ensure!(
                waiting == [r#"proxy "proxy" refuses outbound:original-destination:ipv4"#],
                "{waiting:?}"
            );
            Ok(())
        })
        .await?;
        ensure!(agent.routes().is_none(), "a name that leads nowhere is not told");
        envoy.stop().await
    });
}
