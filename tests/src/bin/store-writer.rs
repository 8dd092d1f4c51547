//! A control plane's store under load, to be killed at any moment: makes one change after another and says each number
//! once the store has acknowledged it. Keeps: the changes follow from their numbers alone. Started by tests/store.rs.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use harness::history::wanted;
use kuma_dns::cp::allocator::{Allocator, Lost};
use kuma_dns::cp::settings::Settings;
use kuma_dns::cp::store::{Embedded, Store};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("a directory is the first argument")?;
    let first: u64 = arguments.next().context("the first number is the second argument")?.parse()?;
    let settings = Settings::default();
    let mut store = Embedded::open(Path::new(&directory))?;
    let records = store.load()?.records;
    let (mut allocator, _) =
        Allocator::restore(settings.pools, settings.rest_secs, records, Lost::default(), first);
    let mut out = std::io::stdout().lock();
    for number in first..u64::MAX {
        store.commit(&allocator.step(&wanted(number), number))?;
        writeln!(out, "{number}")?;
        out.flush()?;
    }
    Ok(())
}
