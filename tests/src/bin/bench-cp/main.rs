//! Measures a control plane and an agent as real processes for `cargo xtask bench cp`: what it costs to begin, to begin again,
//! and to change one service among many. Keeps: everything stands in a network namespace of its own and is gone at the end.
//! Prints one line of JSON for each measurement; KUMA_DNS_BIN names the product.

mod client;
mod connect;
mod fan_out;
mod measure;
mod stores;
mod system;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-cp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>().with_context(|| format!("{text:?} is no number"));
    match words.as_slice() {
        ["system", size, changes, envoy] => system::measure(number(size)?, number(changes)?, envoy),
        ["stores", size] => stores::measure(number(size)?),
        ["fan-out", size, streams, changes] => {
            fan_out::measure(number(size)?, number(streams)?, number(changes)?)
        }
        ["connect"] => connect::answer(),
        _ => {
            bail!("usage: bench-cp system SIZE CHANGES ENVOY|none, stores SIZE, fan-out SIZE STREAMS CHANGES")
        }
    }
}
