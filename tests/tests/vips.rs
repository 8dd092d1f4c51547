//! What a workload sees while services come and go: real datapath, real Envoy, real resolver, busy neighbours.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::live::{Live, ask, backend, resolve, resolves, wait_for_name};
use harness::xds::{in_own_netns, mesh, service};
use kuma_dns::cp::snapshot::{Protocol, Published, Snapshot};
use std::sync::Arc;

/// Services that are there from the start, and are kept busy.
const OLD: u16 = 20;
const BUSY_CLIENTS: u16 = 6;
const ROUNDS: u16 = 60;
const ADDED_A_ROUND: u16 = 5;

fn services(upto: u16) -> Arc<Snapshot> {
    let one = |n| -> (Arc<str>, Published) { service(n, Protocol::Tcp, &[backend(n)]) };
    mesh(1, (1..=upto).map(one))
}

fn vips(n: u16) -> [SocketAddr; 2] {
    let (_, service) = service(n, Protocol::Tcp, &[]);
    let (v4, v6) =
        (service.addresses.v4.expect("both families"), service.addresses.v6.expect("both families"));
    [SocketAddr::from((v4, 80)), SocketAddr::from((v6, 80))]
}

/// Connections of one busy client until `end`: how many, and what went wrong.
fn hammer(first: u16, end: Instant) -> (u64, Vec<String>) {
    let (mut made, mut wrong) = (0, Vec::new());
    let mut n = first;
    while Instant::now() < end {
        for vip in vips(1 + n % OLD) {
            made += 1;
            match ask(vip) {
                Ok(said) if said == backend(1 + n % OLD).to_string() => {}
                other => wrong.push(format!("{vip}: {other:?}")),
            }
        }
        n += 1;
    }
    (made, wrong)
}

#[test]
fn a_vip_works_the_moment_its_name_resolves_on_a_busy_machine() {
    in_own_netns(|| async {
        let live = Live::start(services(OLD)).await?;
        let total = OLD + ROUNDS * ADDED_A_ROUND;
        let prober = live.workload(move || {
            let mut missed = Vec::new();
            for n in OLD + 1..=total {
                wait_for_name(&format!("service-{n}.mesh"), 30);
                for vip in vips(n) {
                    match ask(vip) {
                        Ok(said) if said == backend(n).to_string() => {}
                        other => missed.push(format!("{vip}: {other:?}")),
                    }
                }
            }
            missed
        })?;
        let busy = live.workload(|| {
            let end = Instant::now() + Duration::from_secs(8);
            let clients: Vec<_> =
                (0..BUSY_CLIENTS).map(|n| std::thread::spawn(move || hammer(n * 3, end))).collect();
            clients.into_iter().map(|client| client.join().expect("a client")).collect::<Vec<_>>()
        })?;
        let mut rounds = tokio::time::interval(Duration::from_millis(100));
        for round in 1..=ROUNDS {
            rounds.tick().await;
            live.control_plane.snapshots.send_replace(services(OLD + round * ADDED_A_ROUND));
        }
        let missed = tokio::task::block_in_place(|| prober.join());
        ensure!(missed.is_empty(), "{} of {}: {missed:?}", missed.len(), 2 * ROUNDS * ADDED_A_ROUND);
        let busy = tokio::task::block_in_place(|| busy.join());
        for (made, wrong) in busy {
            ensure!(wrong.is_empty() && made > 0, "{} of {made}: {wrong:?}", wrong.len());
        }
        live.stop().await
    });
}

#[test]
fn a_removed_service_stops_resolving_first_and_then_refuses() {
    in_own_netns(|| async {
        let live = Live::start(services(2)).await?;
        let watcher = live.workload(|| {
            let mut log = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(30);
            while Instant::now() < deadline {
                let connected = match ask(vips(2)[0]) {
                    Ok(said) if said == backend(2).to_string() => true,
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
                    other => return vec![format!("{other:?}")],
                };
                // Asked after the connect: a name that still resolves now must have worked before.
                let named = resolves("service-2.mesh").expect("the resolver answers");
                if named && !connected {
                    log.push("the name still resolves but its VIP refuses".to_owned());
                }
                if !connected {
                    return log;
                }
            }
            vec!["it still works".into()]
        })?;
        live.control_plane.snapshots.send_replace(services(1));
        let wrong = tokio::task::block_in_place(|| watcher.join());
        ensure!(wrong.is_empty(), "{wrong:?}");
        let others = live.workload(|| ask(vips(1)[1]).map_err(|error| error.to_string()))?;
        ensure!(tokio::task::block_in_place(|| others.join()) == Ok(backend(1).to_string()));
        live.stop().await
    });
}

/// Service 1 with another IPv4 address, and the one it had, if it still has it.
fn renumbered(former: Option<SocketAddr>) -> Arc<Snapshot> {
    let (name, mut renumbered) = service(1, Protocol::Tcp, &[backend(1)]);
    renumbered.addresses.v4 = Some(NEW_VIP);
    renumbered.former = former.map(|former| former.ip()).into_iter().collect();
    mesh(1, [(name, renumbered)])
}

const NEW_VIP: Ipv4Addr = Ipv4Addr::new(240, 9, 0, 1);

#[test]
fn a_renumbered_service_works_at_both_addresses_without_a_gap() {
    in_own_netns(|| async {
        let live = Live::start(services(1)).await?;
        let old = vips(1)[0];
        let watcher = live.workload(move || {
            let works = |vip: SocketAddr| match ask(vip) {
                Ok(said) if said == backend(1).to_string() => Ok(()),
                other => Err(format!("{vip}: {other:?}")),
            };
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut seen_new = 0;
            while seen_new < 200 {
                works(old)?;
                let named = resolve("service-1.mesh").map_err(|error| error.to_string())?;
                let named = named.ok_or("the name resolves to nothing")?;
                works((named, 80).into())?;
                seen_new += u32::from(named == NEW_VIP);
                if Instant::now() > deadline {
                    return Err(format!("the name is {named}"));
                }
            }
            Ok(())
        })?;
        live.control_plane.snapshots.send_replace(renumbered(Some(old)));
        let watched = tokio::task::block_in_place(|| watcher.join());
        ensure!(watched == Ok(()), "{watched:?}");
        live.control_plane.snapshots.send_replace(renumbered(None));
        let ended = live.workload(move || {
            let deadline = Instant::now() + Duration::from_secs(30);
            while ask(old).is_ok() && Instant::now() < deadline {}
            let refused = ask(old).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            (refused, ask((NEW_VIP, 80).into()).ok())
        })?;
        let ended = tokio::task::block_in_place(|| ended.join());
        ensure!(ended == (true, Some(backend(1).to_string())), "{ended:?}");
        live.stop().await
    });
}
