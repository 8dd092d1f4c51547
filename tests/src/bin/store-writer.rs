//! A control plane's store under load, to be killed at any moment: makes one change after another, of the documents and then
//! of the records, and says each number once the store has acknowledged both. Keeps: the changes follow from their numbers alone. Started by tests/store.rs.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use harness::history::{wanted, writes};
use kuma_dns::cp::allocator::{Allocator, Lost};
use kuma_dns::cp::settings::Settings;
use kuma_dns::cp::store::documents::Documents;
use kuma_dns::cp::store::{Embedded, Store};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("a directory is the first argument")?;
    let first: u64 = arguments.next().context("the first number is the second argument")?.parse()?;
    let stumble: Option<u64> = arguments.next().map(|number| number.parse()).transpose()?;
    let settings = Settings::default();
    let mut store = Embedded::open(Path::new(&directory))?;
    let (documents, records) = (store.documents(), store.load()?.records);
    let (mut allocator, _) =
        Allocator::restore(settings.pools, settings.rest_secs, records, Lost::default(), first);
    let mut out = std::io::stdout().lock();
    for number in first..u64::MAX {
        if stumble == Some(number) {
            allocator = refuse(&mut store, allocator, number)?;
        }
        documents.write(&writes(number))?;
        store.commit(&allocator.align(wanted(number).keys(), number))?;
        writeln!(out, "{number}")?;
        out.flush()?;
    }
    Ok(())
}

/// Lets the commit of one change fail as on a full disk, gives room again, and takes up what the store really holds.
fn refuse(store: &mut Embedded, mut allocator: Allocator, number: u64) -> Result<Allocator> {
    let changes = allocator.align(wanted(number).keys(), number);
    let room = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), ..room })?;
    let refused = store.commit(&changes);
    setrlimit(Resource::Fsize, room)?;
    let error = refused.err().context("a file that may not grow or change was written")?;
    eprintln!("{:#}", anyhow::Error::from(error));
    let settings = Settings::default();
    let records = store.load()?.records;
    Ok(Allocator::restore(settings.pools, settings.rest_secs, records, Lost::default(), number).0)
}
