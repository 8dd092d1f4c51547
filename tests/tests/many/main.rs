//! A real Envoy follows many VIPs of a real control plane: while services come, move and go through the API and clients
//! connect all the time, no connection is wrong or refused, and Envoy refuses nothing.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod changes;
mod clients;
mod tally;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use harness::fork::{Job, Place};
use harness::http::Http;
use harness::live::{BACKEND_PORT, serve_backends};
use harness::wait::wait_until;
use harness::world::World;
use kuma_dns::kernel::cgroup;
use kuma_dns::model::instance::Instance;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::changes::Changer;
use crate::clients::Clients;
use crate::tally::Tally;

/// Set by `cargo xtask test many --long`.
const LONG_ENV: &str = "KUMA_DNS_TEST_LONG";
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5681);
const ENVOY_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
/// How long it may take until Envoy has all VIPs of a start, on a busy machine and in a debug build.
const START_SECS: u64 = 120;
/// How long one change may take on average, in the same place; only a hang is longer.
const CHANGE_LIMIT: Duration = Duration::from_secs(2);
/// The number of a backend is the low part of its address; 127.0.0.1 is everybody's.
const FIRST_BACKEND: u32 = 0x7f00_0010;

/// What is done.
#[derive(Clone, Copy)]
struct Form {
    outbounds: &'static str,
    services: u32,
    changes: u32,
}

/// What came of it.
#[derive(Serialize, Deserialize)]
struct Outcome {
    stable: Tally,
    changed: Tally,
    /// From each REST write until traffic went right, sorted.
    took: Vec<Duration>,
}

/// Where the backend of this number listens; it says its own address.
fn backend(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(FIRST_BACKEND + number), BACKEND_PORT))
}

/// The service of this number, that stays as it is.
fn stable(number: u32) -> String {
    format!("s{number:06}")
}

#[test]
fn changes_among_many_compact_vips_break_no_connection() {
    let short = [Form { outbounds: "compact", services: 1_500, changes: 100 }];
    let long = [10_000, 100_000].map(|services| Form { outbounds: "compact", services, changes: 1_000 });
    follow_each(&short, &long);
}

#[test]
fn changes_among_many_vips_with_listeners_break_no_connection() {
    let short = [Form { outbounds: "listeners", services: 400, changes: 100 }];
    // 10,000 VIPs and ports: Envoy adds listeners in quadratic time.
    let long = [Form { outbounds: "listeners", services: 5_000, changes: 1_000 }];
    follow_each(&short, &long);
}

fn follow_each(short: &[Form], long: &[Form]) {
    let forms = if std::env::var_os(LONG_ENV).is_some() { long } else { short };
    forms.iter().for_each(follow);
}

fn follow(form: &Form) {
    let args = ["--outbounds", form.outbounds];
    let builder = World::builder().mesh(|mesh| mesh.more = services(form.services)).args(args);
    let mut world = builder.build().unwrap();
    world.netns().run(serve_backends).unwrap();
    let begin = Instant::now();
    world.start().unwrap();
    world.wait_ready_within(START_SECS).unwrap();
    let mut api = Http::new(world.netns().clone(), API).unwrap();
    let routes = u64::from(form.services) * 2;
    wait_until(START_SECS, "Envoy has all VIPs", || {
        let view = &status(&mut api)["views"][0];
        view["listeners_working"] == routes && view["listeners_wanted"] == routes
    });
    let ready = begin.elapsed();

    let instance: Instance = world.instance().parse().unwrap();
    let workloads = instance.workloads_cgroup(&cgroup::find_cgroup2().unwrap());
    let place = Place { cgroup: &workloads, netns: world.netns().as_fd() };
    let job = Job::start(&place, || work(form)).unwrap();
    let outcome = job.join_within(CHANGE_LIMIT * form.changes);
    let nacks = nacks(&mut api) + rejected(&mut Http::new(world.netns().clone(), ENVOY_ADMIN).unwrap());
    report(form, ready, &outcome, nacks);

    let Outcome { stable, changed, took } = outcome;
    assert!(stable.is_clean(), "services that stay: {stable:?}");
    assert!(changed.is_clean(), "services that change: {changed:?}");
    assert_eq!(nacks, 0, "{}\n{}", status(&mut api), world.up_said());
    assert!(stable.connections > u64::from(form.changes) && took.len() > form.changes as usize / 3);
}

/// Runs in the mesh: changes, one after the other, and clients all the while.
fn work(form: &Form) -> Outcome {
    let clients = Clients::start(form.services);
    let mut changer = Changer::new(form.services);
    (0..form.changes).for_each(|_| changer.change());
    let (changed, mut took) = changer.finish();
    took.sort();
    Outcome { stable: clients.stop(), changed, took }
}

/// The services that stay, in the short form.
fn services(count: u32) -> String {
    let mut text = String::from("services:\n");
    for number in 0..count {
        let (name, backend) = (stable(number), backend(number));
        writeln!(text, "- {{service: {name}, endpoints: [\"{backend}\"]}}").unwrap();
    }
    text
}

fn status(api: &mut Http) -> Value {
    api.get("/status").unwrap().json()["xds"].take()
}

/// Resources that a proxy or the agent does not take, as the control plane knows.
fn nacks(api: &mut Http) -> u64 {
    let status = status(api);
    let clients = status["views"][0]["clients"].as_array().expect("the status names clients");
    assert!(clients.len() >= 2, "the proxy and the agent: {status}");
    clients.iter().map(|client| client["refused"].as_array().unwrap().len() as u64).sum()
}

/// Messages that Envoy has refused, as it says itself.
fn rejected(envoy: &mut Http) -> u64 {
    let answer = envoy.get("/stats?filter=update_rejected").unwrap();
    let text = std::str::from_utf8(&answer.body).unwrap();
    let counts = text.lines().map(|line| line.rsplit_once(": ").expect("a stat and its value").1);
    let counts: Vec<u64> = counts.map(|count| count.trim().parse().unwrap()).collect();
    assert!(counts.len() >= 2, "clusters and listeners have such a stat: {text:?}");
    counts.iter().sum()
}

/// Past libtest, which keeps what a passed test prints.
fn report(form: &Form, ready: Duration, outcome: &Outcome, nacks: u64) {
    let Form { outbounds, services, changes } = form;
    let Outcome { stable, changed, took } = outcome;
    let at = |part: usize| took.get(took.len() * part / 100).map_or(f64::NAN, Duration::as_secs_f64) * 1e3;
    let line = format!(
        "\n{outbounds}, {services} services x 2 families: {changes} changes, {} connections, {} wrong, {} refused, \
         {nacks} NACKs; all VIPs {:.1} s after the start; REST write to right traffic {:.0} ms, p95 {:.0} ms\n",
        stable.connections + changed.connections,
        stable.wrong + changed.wrong,
        stable.refused + changed.refused,
        ready.as_secs_f64(),
        at(50),
        at(95),
    );
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}
