//! The demo: a mesh of its own on this machine, told step by step, every step checked. Two processes: a guard that only waits
//! and cleans up, and the story below it. Keeps: whatever ends the story, an error or Ctrl-C at any moment, nothing of it is
//! left behind. Called by `cargo xtask demo`.

mod evidence;
mod guard;
mod story;

use std::process::ExitCode;

/// Tells the second process of this binary that it is the story: the value is its instance name.
const STORY: &str = "KUMA_DNS_DEMO_INSTANCE";

fn main() -> ExitCode {
    let ended = match std::env::var(STORY) {
        Ok(instance) => story::tell(&instance).map(|()| ExitCode::SUCCESS),
        Err(_) => guard::watch_over_the_story(),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
