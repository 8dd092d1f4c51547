//! libFuzzer on one target of `harness::fuzzing`, which KUMA_DNS_FUZZ_TARGET names; good inputs to begin from are written to
//! the folder KUMA_DNS_FUZZ_SEEDS. Keeps: what must hold is said there, and is the same in the fuzz suite. Built and run by `cargo xtask fuzz`.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use harness::fuzzing::{TARGETS, Target, seeds, target};
use libfuzzer_sys::fuzz_target;

/// Chosen once: libFuzzer calls us a million times.
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("KUMA_DNS_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        panic!("KUMA_DNS_FUZZ_TARGET is {name:?}: use one of {}", known.join(", "))
    })
});

/// libFuzzer reads its folders after this.
fn write_seeds() {
    let Some(folder) = std::env::var_os("KUMA_DNS_FUZZ_SEEDS").map(PathBuf::from) else { return };
    let seeds = seeds::seeds(TARGET.name).expect("the repository has good inputs");
    for (at, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(at.to_string()), seed).expect("room for good inputs");
    }
}

fuzz_target!(init: write_seeds(), |data: &[u8]| (TARGET.run)(data));
