//! What a developer reads of the programs' decisions when the log is on; when it is off, the programs hold none of it.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::datapath::World;
use kuma_dns::kernel::BpfLog;
use kuma_dns::rt::Drain;
use tracing_subscriber::util::SubscriberInitExt;

use crate::client::{call, knock};
use crate::{V4, V6};

/// How long the lines may take from the ring to the log.
const PATIENCE: Duration = Duration::from_secs(20);

/// A log that is kept in memory.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panics while writing")).into_owned()
    }

    /// Is there a line with all of these words?
    fn says(&self, words: &[&str]) -> bool {
        self.text().lines().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics while writing").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_decision_is_a_line_with_hook_reason_and_address() {
    let builder = World::builder().vips(&[V4, V6]).bpf_log(BpfLog::Debug);
    let mut world = builder.build().expect("the programs load with their log");
    let events = world.kernel().take_events().expect("the log was asked for");
    for vip in [V4, V6] {
        assert!(world.app(0, || call(vip)).is_ok(), "{vip}");
    }
    assert_eq!(world.app(0, || knock("240.0.0.9:81")), Err(libc::ECONNREFUSED));
    let lines: [&[&str]; 6] = [
        &["connect", "vip_indexed", "240.0.0.1", "port 80"],
        &["connect", "vip_tuple", "fd00:fd00::1", "port 80"],
        &["connect", "vip_unknown", "240.0.0.9", "port 81"],
        &["sockops", "tuple_published", "::1", "port 15001"],
        &["getsockopt", "original_answered", "127.64."],
        &["getpeername", "peer_shown", "127.64.", "port 15001"],
    ];
    let kept = Kept::default();
    let writer = kept.clone();
    let _here = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(move || writer.clone())
        .finish()
        .set_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (trigger, drain) = Drain::pair();
    runtime.block_on(async {
        let said = async {
            while !lines.iter().all(|words| kept.says(words)) {
                tokio::task::yield_now().await;
            }
            trigger.request();
        };
        let both = async { tokio::join!(events.run(drain), said) };
        let _ = tokio::time::timeout(PATIENCE, both).await;
    });
    for words in lines {
        assert!(kept.says(words), "no line says {words:?}:\n{}", kept.text());
    }
}

#[test]
fn without_the_log_there_is_no_ring_to_read() {
    let mut world = crate::world();
    assert!(world.kernel().take_events().is_none());
    assert!(world.app(0, || call(V4)).is_ok());
}
