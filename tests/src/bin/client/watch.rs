//! Watches one name: does it resolve, and does the VIP that it once had serve? Prints each change with its time.
//! Keeps: a state is printed only when it is sure. A name that resolved before *and* after its VIP refused broke the
//! promise of the mesh in either direction: on the way in it resolved too early, on the way out too long.

use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::ask;

#[derive(PartialEq, Eq, Debug)]
enum State {
    /// The name does not resolve; its last VIP, if it ever had one, refuses.
    Gone,
    /// The name does not resolve, its last VIP still serves.
    Nameless,
    /// The name resolves and its VIP serves; the body's first word.
    Serves(Ipv4Addr, String),
    /// The name resolves and its VIP does not serve.
    Broken(Ipv4Addr, String),
}

pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    let stop = end_of_input()?;
    let (mut last_vip, mut last_state, begin) = (None, None, Instant::now());
    let mut rounds: u64 = 0;
    while stop.try_recv() == Err(TryRecvError::Empty) {
        let state = observe(name, &mut last_vip)?;
        rounds += 1;
        if last_state.as_ref() != Some(&state) {
            println!("{} {state:?}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
            last_state = Some(state);
        }
    }
    println!("end {rounds} rounds in {} ms", begin.elapsed().as_millis());
    Ok(())
}

fn observe(name: &str, last_vip: &mut Option<Ipv4Addr>) -> anyhow::Result<State> {
    let before = ask::address(name)?;
    let Some(vip) = before.or(*last_vip) else { return Ok(State::Gone) };
    *last_vip = Some(vip);
    let visit = ask::visit(vip.into());
    let after = ask::address(name)?;
    Ok(match (before, visit) {
        (Some(vip), Ok(body)) => State::Serves(vip, body.split(' ').next().unwrap_or_default().to_owned()),
        (Some(vip), Err(error)) if after == before => State::Broken(vip, error.to_string()),
        (Some(_), Err(_)) => State::Gone,
        (None, Ok(_)) => State::Nameless,
        (None, Err(_)) => State::Gone,
    })
}

/// Disconnects when whoever started us closes our standard input.
fn end_of_input() -> anyhow::Result<Receiver<()>> {
    let (alive, stop) = sync_channel(0);
    std::thread::Builder::new().spawn(move || {
        let mut rest = Vec::new();
        // Closed or broken: both mean that nobody listens any more.
        let _ = std::io::stdin().read_to_end(&mut rest);
        drop(alive);
    })?;
    Ok(stop)
}
