//! Load generator and echo server of `cargo xtask bench vip`. Keeps: nothing but system calls between two readings of the
//! clock, and the same server for every variant. Called by xtask, which chooses namespace, cgroup and CPU.
//!
//! - `vip-load serve ADDR…` echoes what it reads; prints `ready` once it listens.
//! - `vip-load connect ADDR COUNT` connects, sends 64 bytes, reads 64 back, closes; prints the median in nanoseconds.
//! - `vip-load rounds ADDR SIZE COUNT` does round trips over one connection; prints the median in nanoseconds.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

mod serve;

/// A request of the connect measurement.
const REQUEST_BYTES: usize = 64;

/// The largest message of the round-trip measurement.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The first operations of a process fill caches; they are not counted.
const WARM_UP: usize = 20;

/// A peer that is silent for so long is broken.
const SILENCE_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vip-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["serve", addresses @ ..] if !addresses.is_empty() => {
            let addresses = addresses.iter().map(|text| address(text)).collect::<Result<Vec<_>>>()?;
            serve::run(&addresses)
        }
        ["connect", target, count] => {
            let (target, count) = (address(target)?, number(count)?);
            report(count, || connect(target))
        }
        ["rounds", target, size, count] => {
            let (size, count) = (number(size)?, number(count)?);
            ensure!((1..=MESSAGE_BYTES_MAX).contains(&size), "size {size} is not in 1..={MESSAGE_BYTES_MAX}");
            let mut stream = open(address(target)?)?;
            stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
            let message = vec![b'x'; size];
            let mut reply = vec![0; size];
            report(count, || round(&mut stream, &message, &mut reply))
        }
        _ => bail!("usage: vip-load serve ADDR… | connect ADDR COUNT | rounds ADDR SIZE COUNT"),
    }
}

/// One new connection: connect, ask, read the answer, close.
fn connect(target: SocketAddr) -> Result<Duration> {
    let message = [b'x'; REQUEST_BYTES];
    let mut reply = [0; REQUEST_BYTES];
    let start = Instant::now();
    let mut stream = TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))?;
    stream.write_all(&message).context("cannot send")?;
    stream.read_exact(&mut reply).context("no answer")?;
    drop(stream);
    Ok(start.elapsed())
}

/// One round trip over a connection that stays.
fn round(stream: &mut TcpStream, message: &[u8], reply: &mut [u8]) -> Result<Duration> {
    let start = Instant::now();
    stream.write_all(message).context("cannot send")?;
    stream.read_exact(reply).context("no answer")?;
    Ok(start.elapsed())
}

fn open(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))?;
    stream.set_read_timeout(Some(SILENCE_MAX)).context("cannot set a time-out")?;
    Ok(stream)
}

/// Runs an operation `count` times and prints the median of what it took.
fn report(count: usize, mut operation: impl FnMut() -> Result<Duration>) -> Result<()> {
    ensure!(count > 0, "count must be at least 1");
    for _ in 0..WARM_UP {
        operation()?;
    }
    let mut times = (0..count).map(|_| operation()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    println!("{}", times[times.len() / 2].as_nanos());
    Ok(())
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("{text:?} is no address with a port"))
}

fn number(text: &str) -> Result<usize> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}
