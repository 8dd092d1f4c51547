//! The store on disk under kill -9, and two processes that want one file.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use harness::history::wanted;
use harness::{documents, history};
use kuma_dns::cp::allocator::{Allocator, Lost};
use kuma_dns::cp::record::Record;
use kuma_dns::cp::settings::Settings;
use kuma_dns::cp::store::documents::Documents;
use kuma_dns::cp::store::{Embedded, MemoryDocuments, Store};
use kuma_dns::model::resource::ServiceKey;

/// How often the writer is killed.
const ROUNDS: u64 = 40;
/// How much later each blow falls.
const STEP: Duration = Duration::from_micros(100);

/// A writer that is killed (SIGKILL) when it is dropped.
struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Writer {
    fn start(directory: &Path, first: u64) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_store-writer"));
        Self::spawn(command.arg(directory).arg(first.to_string()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn acknowledged(&mut self) -> Option<u64> {
        self.lines.next().map(|line| line.unwrap().parse().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the store must hold after each change, found without a store and without a restart.
struct Expected {
    allocator: Allocator,
    records: BTreeMap<ServiceKey, Record>,
    number: u64,
}

impl Expected {
    fn new() -> Self {
        let settings = Settings::default();
        let restored = Allocator::restore(settings.pools, settings.rest_secs, Vec::new(), Lost::default(), 0);
        Self { allocator: restored.0, records: BTreeMap::new(), number: 0 }
    }

    fn after(&mut self, number: u64) -> Vec<Record> {
        while self.number <= number {
            let changes = self.allocator.align(wanted(self.number).keys(), self.number);
            for record in changes.deletes {
                self.records.remove(&record.service);
            }
            for mut record in changes.puts {
                record.version += 1;
                self.records.insert(record.service.clone(), record);
            }
            self.number += 1;
        }
        self.records.values().cloned().collect()
    }
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by(|a, b| a.service.cmp(&b.service));
    records
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (mut expected, mut next, mut ahead) = (Expected::new(), 0, 0);
    for round in 0..ROUNDS {
        let mut writer = Writer::start(directory.path(), next);
        let mut last = writer.acknowledged().expect("the writer works");
        for _ in 0..round % 9 {
            last = writer.acknowledged().expect("the writer works");
        }
        // Each round the blow falls at another moment of the next change, which takes a few milliseconds.
        let blow = Instant::now() + STEP * u32::try_from(round).unwrap();
        while Instant::now() < blow {
            std::hint::spin_loop();
        }
        writer.child.kill().unwrap();
        // Acknowledgements that were on their way count too.
        while let Some(number) = writer.acknowledged() {
            last = number;
        }
        drop(writer);
        let mut store = Embedded::open(directory.path()).unwrap();
        let (found, news) = (store.load().unwrap(), store.documents().read(None).unwrap());
        let quarantined = [found.quarantined, news.quarantined.clone()].concat();
        assert!(quarantined.is_empty(), "{quarantined:?}");
        let found = sorted(found.records);
        next = last + 1;
        let stored = documents::summary(&news).0;
        assert!(
            stored == history::documents(next)
                || (stored == history::documents(last) && found == expected.after(last)),
            "round {round}: the documents are those of neither change {last} nor the one after it: {stored:?}"
        );
        assert!(news.revision > last, "revision {} after change {last}: it went back", news.revision);
        if found != expected.after(last) {
            assert_eq!(
                found,
                expected.after(next),
                "round {round}: neither change {last} nor the one after it"
            );
            next += 1;
            ahead += 1;
        }
    }
    println!("{next} changes, {ROUNDS} kills, {ahead} of them between the commit and its acknowledgement");
}

#[test]
fn a_disk_that_was_full_costs_no_vip_and_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    // The shell lets the writer live through SIGXFSZ, with which the kernel would end it (setrlimit(2)).
    let script = "trap '' XFSZ; exec \"$0\" \"$1\" 0 5";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_store-writer")]).arg(directory.path());
    let mut writer = Writer::spawn(command.stderr(Stdio::piped()));
    let acknowledged: Vec<u64> = (0..9).map(|_| writer.acknowledged().expect("the writer goes on")).collect();
    assert_eq!(acknowledged, (0..9).collect::<Vec<_>>());
    writer.child.kill().unwrap();
    let last = writer.lines.by_ref().map(|line| line.unwrap().parse().unwrap()).last().unwrap_or(8);
    let mut said = String::new();
    writer.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.starts_with("cannot write store ") && said.contains("File too large"), "{said}");
    drop(writer);
    let found = sorted(Embedded::open(directory.path()).unwrap().load().unwrap().records);
    let mut expected = Expected::new();
    assert!(found == expected.after(last) || found == expected.after(last + 1));
}

#[test]
fn documents_are_written_as_a_whole_or_not_at_all_and_read_since_a_revision() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    for documents in [&store.documents() as &dyn Documents, &MemoryDocuments::default()] {
        documents::keeps_its_promises(documents, documents);
    }
}

#[test]
fn a_second_process_on_the_same_store_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(directory.path(), 0);
    writer.acknowledged().expect("the writer works");
    let error = Embedded::open(directory.path()).unwrap_err().to_string();
    let path = directory.path().join(Embedded::FILE);
    let wanted =
        format!("store {} is in use by another process: stop the other `kuma-dns up`", path.display());
    assert!(error.starts_with(&wanted), "{error}");
    drop(writer);
    Embedded::open(directory.path()).expect("a killed process holds nothing");
}
