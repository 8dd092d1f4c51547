//! The process that Envoy is: whose it is, what it may do, when it ends. In a file of its own: the supervisor runs in a
//! fork of the test, which must not have other tests' threads and their locks.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use harness::cgroup::Cgroup;
use harness::fork::{Job, Place};
use harness::netns::Netns;
use harness::wait::wait_until;
use harness::xds::{Envoy, eventually};
use kuma_dns::agent::proxy::DEFAULT_UID;
use kuma_dns::kernel::process::{self, Orphan};

#[test]
fn an_envoy_of_ours_has_no_privilege_lives_in_its_cgroup_and_dies_with_us() {
    let root = Cgroup::new().expect("a cgroup");
    let (ours, theirs) = (root.child("ours").expect("a cgroup"), root.child("proxy").expect("a cgroup"));
    let netns = Netns::new().expect("a namespace");
    let dir = tempfile::tempdir().expect("a folder");
    let pid_file = dir.path().join("pid");
    let place = Place { cgroup: &ours, netns: netns.as_fd() };
    let mut supervisor = Job::start(&place, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let cgroup = theirs.clone();
            let confine = Box::new(move |command: &mut std::process::Command| {
                process::confine(command, &cgroup, Some(DEFAULT_UID), Orphan::Ends)
            });
            let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 5678));
            let envoy = Envoy::start(nobody, "proxy", 15001, 9901, confine).expect("Envoy is installed");
            let pid = eventually(10, "Envoy runs", || async { envoy.pid().context("not yet") })
                .await
                .expect("it runs");
            std::fs::write(&pid_file, pid.to_string()).expect("a file");
            std::future::pending::<()>().await;
        });
    })
    .expect("a process");
    wait_until(20, "Envoy runs", || std::fs::read_to_string(&pid_file).is_ok_and(|pid| !pid.is_empty()));
    let envoy = Path::new("/proc").join(std::fs::read_to_string(&pid_file).expect("written above"));
    // Until exec is through it is still us.
    wait_until(10, "it is Envoy", || {
        std::fs::read_to_string(envoy.join("status"))
            .is_ok_and(|status| status.contains("Uid:\t5678\t5678\t5678\t5678"))
    });
    let status = std::fs::read_to_string(envoy.join("status")).expect("it lives");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let pid: i32 = envoy.file_name().and_then(|pid| pid.to_str()?.parse().ok()).expect("a number");
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).expect("it lives");
    assert_eq!(group.as_raw(), pid, "Ctrl-C on our terminal must not reach it");
    let limits = std::fs::read_to_string(envoy.join("limits")).expect("it lives");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let files: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(files[3], files[4], "soft and hard: {limits}");
    let inside = std::fs::read_to_string(envoy.join("cgroup")).expect("it lives");
    let name = root.path().file_name().expect("a name").to_string_lossy().into_owned();
    assert!(inside.contains(&format!("{name}/proxy")), "{inside}");
    supervisor.kill();
    wait_until(10, "Envoy is gone", || !envoy.exists());
}
