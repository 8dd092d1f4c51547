//! The life of the datapath: load, adopt, upgrade, heal, unload; and what happens when something stands in the way.
//! Called by `cargo xtask test lifecycle`.

mod adopt;
mod heal;
mod obstacles;
mod routes;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use harness::datapath::{World, ask_original};
use harness::fork::Job;
use harness::netns::Netns;
use kuma_dns::kernel::{BpfLog, SourceAddresses, source_addresses};
use kuma_dns::rt::Drain;

const V4: &str = "240.0.0.1:80";
const V6: &str = "[fd00:fd00::1]:80";

/// Upgrades under load; each takes seconds in an emulated guest.
const UPGRADES: u32 = 8;

/// Every cause of an error in one line, as the command line prints it.
fn in_words(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn ask(world: &World, vip: &'static str) -> Result<String, String> {
    world.app(0, || ask_original(vip).map_err(|error| error.to_string()))
}

fn assert_routed(world: &World) {
    assert_eq!(ask(world, V4).as_deref(), Ok("240.0.0.1:80 [::ffff:240.0.0.1]:80"));
    assert_eq!(ask(world, V6).as_deref(), Ok("[fd00:fd00::1]:80 [fd00:fd00::1]:80"));
}

/// Connects from several threads to VIPs of both families until the file `stop` exists; returns how many connections there
/// were and what went wrong.
fn traffic(world: &World, stop: &Path) -> Job<(u32, Vec<String>)> {
    let stop: PathBuf = stop.into();
    world.start_app(0, move || {
        let client = |number: usize| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (vip, want) = [(V4, "240.0.0.1:80 "), (V6, "[fd00:fd00::1]:80 ")][number % 2];
                let (mut count, mut wrong) = (0, Vec::new());
                while !stop.exists() && wrong.len() < 10 {
                    count += 1;
                    match ask_original(vip) {
                        Ok(line) if line.starts_with(want) => {}
                        other => wrong.push(format!("{vip}: {other:?}")),
                    }
                }
                (count, wrong)
            })
        };
        let clients: Vec<_> = (0..2).map(client).collect();
        let results = clients.into_iter().map(|client| client.join().expect("a client ends"));
        results.fold((0, Vec::new()), |(count, wrong), (more, worse)| (count + more, [wrong, worse].concat()))
    })
}

#[test]
fn a_vip_reaches_the_proxy_with_its_original_destination() {
    let world = World::builder().vips(&[V4, V6]).build().unwrap();
    assert_routed(&world);
}

#[test]
fn a_pods_own_addresses_are_found_on_its_uplink_and_without_one() {
    for builder in [World::builder().uplink(), World::builder()] {
        let world = builder.build().unwrap();
        let pod = world.pod(0);
        let found = source_addresses(pod.netns.as_fd()).unwrap();
        assert_eq!((found.v4, found.v6), (Some(pod.addr4), Some(pod.addr6)));
    }
    let bare = Netns::new().unwrap();
    assert_eq!(source_addresses(bare.as_fd()).unwrap(), SourceAddresses::default());
}

#[test]
fn the_programs_speak_only_when_they_are_asked_to() {
    let mut silent = World::builder().vips(&[V4]).build().unwrap();
    assert!(silent.kernel().take_events().is_none());
    let mut world = World::builder().vips(&[V4]).bpf_log(BpfLog::Trace).build().unwrap();
    let events = world.kernel().take_events().expect("a log was asked for");
    assert!(world.kernel().take_events().is_none(), "the log is taken once");
    let said = Said::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(said.clone()).finish();
    let (trigger, drain) = Drain::pair();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(ask(&world, V4).as_deref(), Ok("240.0.0.1:80 [::ffff:240.0.0.1]:80"));
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let heard = async {
                let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
                while !said.text().contains("bpf") && tokio::time::Instant::now() < deadline {
                    tokio::task::yield_now().await;
                }
                trigger.request();
            };
            let (run, ()) = tokio::join!(events.run(drain), heard);
            run.unwrap();
        });
    });
    assert!(said.text().contains("bpf"), "{:?}", said.text());
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panics while writing a line")).into_owned()
    }
}

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics while writing a line").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Said {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
