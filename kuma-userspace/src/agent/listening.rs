//! Does the proxy listen? Readiness waits for its outbound listener, so that no workload starts to be refused.
//! Keeps: nothing is connected to; the kernel's own table of sockets is read. Started by agent/mod.rs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::interval;
use tracing::debug;

use crate::agent::resolver::{Inside, InsideError};
use crate::model::view::Port;
use crate::rt::{Awaited, Drain};

/// How often the table is read until the listener is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// IPv4 sockets of the namespace of the thread that reads it. Every proxy of ours listens on 0.0.0.0 (IPv4 VIPs need it).
const TABLE: &str = "/proc/thread-self/net/tcp";
/// TCP_LISTEN of the kernel's tcp_states.h, as the table prints it.
const LISTEN: &str = "0A";

/// Lets go of `awaited` when something listens on the port, then waits for the drain.
///
/// # Errors
/// The namespace cannot be entered.
pub(super) async fn watch(
    port: Port,
    inside: Inside,
    awaited: Awaited,
    drain: Drain,
) -> Result<(), InsideError> {
    let mut interval = interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = drain.requested() => return Ok(()),
        }
        let inside = inside.clone();
        if spawn_blocking(move || listens_inside(port, &inside)).await?? {
            debug!(%port, "the proxy listens");
            drop(awaited);
            drain.requested().await;
            return Ok(());
        }
    }
}

fn listens_inside(port: Port, inside: &Inside) -> Result<bool, InsideError> {
    let mut found = false;
    inside(&mut || {
        found = File::open(TABLE)
            .is_ok_and(|table| listens(BufReader::new(table).lines().map_while(Result::ok), port));
    })?;
    Ok(found)
}

/// Is there a listener on the port in a table like /proc/net/tcp (proc(5))?
fn listens(table: impl Iterator<Item = String>, port: Port) -> bool {
    let wanted = format!(":{:04X}", port.get());
    table.skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        local.is_some_and(|local| local.ends_with(&wanted)) && state == Some(LISTEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_on_the_very_port_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                        0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  5678        0 1 1 0\n\
                        1: 0100007F:C350 0100007F:3A9A 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0\n";
        let holds = |port| listens(table.lines().map(str::to_owned), Port::new(port));
        assert!(holds(15001));
        assert!(!holds(15002), "a peer's port is no listener");
        assert!(!holds(50000), "a connection is no listener");
    }
}
