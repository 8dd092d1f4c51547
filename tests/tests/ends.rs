//! How `up` ends and what it leaves: in order, at once, by force; and what it says while it waits. Through the binary.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use harness::backend::Speaks;
use harness::wait::wait_until;
use harness::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn cleanup(world: &World, flags: &[&str]) -> Output {
    world.kuma_dns().unwrap().arg("cleanup").args(flags).output().unwrap()
}

/// The short name of a process.
fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn envoy_pid(world: &World) -> i32 {
    let pid = world.status().unwrap()["proxy"]["pid"].as_i64().expect("the status names Envoy's pid");
    i32::try_from(pid).unwrap()
}

#[test]
fn a_second_signal_does_not_wait_for_anybody() {
    let mut world = World::up(["redis"]).unwrap();
    let envoy = Pid::from_raw(envoy_pid(&world));
    // An Envoy that does not hear SIGTERM holds the orderly end up for seconds.
    kill(envoy, Signal::SIGSTOP).unwrap();
    let up = Pid::from_raw(world.up_pid().unwrap());
    kill(up, Signal::SIGINT).unwrap();
    wait_until(5, "the first signal is heard", || {
        world.up_said().contains("a second signal ends it at once")
    });
    kill(up, Signal::SIGINT).unwrap();
    assert_eq!(world.wait_up_ended(2).unwrap().code(), Some(1), "{}", world.up_said());
    assert!(world.up_said().contains("kuma-dns cleanup"), "{}", world.up_said());
    let done = cleanup(&world, &[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(traces(&world), Vec::<PathBuf>::new());
    wait_until(5, "Envoy is gone too", || !PathBuf::from(format!("/proc/{envoy}")).exists());
}

#[test]
fn keep_datapath_fails_closed_until_the_next_start() {
    let mut world =
        World::builder().service("redis", Speaks::Http, 1).args(["--keep-datapath"]).up().unwrap();
    let vip = world.resolves("redis.mesh").unwrap()[0];
    let mut inside = world
        .inside(["sh", "-c", "read go; exec curl --silent --max-time 10 \"$0\"", &format!("http://{vip}/")])
        .unwrap();
    let mut waiting = inside.stdin(std::process::Stdio::piped()).spawn().unwrap();
    wait_until(5, "the shell is inside", || comm(waiting.id()) == "sh");
    assert!(world.stop(Signal::SIGTERM).unwrap().success());
    assert!(!traces(&world).is_empty(), "the pins stay");
    drop(waiting.stdin.take());
    assert_eq!(waiting.wait().unwrap().code(), Some(7), "nobody serves the VIP: refused, not leaked");
    world.start().unwrap();
    world.wait_ready().unwrap();
    assert!(world.says(["curl", "--silent", "http://redis.mesh/"]).unwrap().starts_with("redis at"));
}

#[test]
fn whoever_waits_is_told_for_what() {
    let mut world = World::builder().without_envoy().service("redis", Speaks::Http, 1).build().unwrap();
    world.start().unwrap();
    wait_until(15, "`up` says what it waits for", || world.up_said().contains("waiting for"));
    let refused = world.kuma_dns().unwrap().args(["exec", "--wait", "100ms", "--", "true"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("not ready") && said.contains("proxy"), "{said}");
    let status = world.kuma_dns().unwrap().arg("status").output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(3), "{said}");
    assert!(said.contains("not ready") && said.contains("waiting for"), "{said}");
}

#[test]
fn json_logs_are_json_line_by_line() {
    let world =
        World::builder().service("redis", Speaks::Http, 1).args(["--log-format", "json"]).up().unwrap();
    wait_until(5, "the event `ready`", || world.up_said().contains("\"message\":\"ready\""));
    for line in world.up_said().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

/// Everything of an instance that could be seen on this machine.
fn traces(world: &World) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        matches!(kind, "bpf" | "cgroup2")
            .then(|| PathBuf::from(point).join("kuma-dns").join(world.instance()))
    });
    let socket = world.dir().join("run/kuma-dns").join(world.instance()).join("agent.sock");
    ours.chain([socket]).filter(|path| path.exists()).collect()
}

#[test]
fn ctrl_c_leaves_nothing_but_the_state_on_disk() {
    let mut world = World::up(["redis"]).unwrap();
    assert!(!traces(&world).is_empty());
    let envoy = world.status().unwrap()["proxy"]["pid"].as_u64().expect("the status names Envoy's pid");
    let ended = world.stop(Signal::SIGINT).unwrap();
    assert!(ended.success(), "{}", world.up_said());
    assert_eq!(traces(&world), Vec::<PathBuf>::new());
    assert!(!PathBuf::from(format!("/proc/{envoy}")).exists(), "Envoy ends with us");
    assert!(world.dir().join("data").join(world.instance()).exists(), "names keep their VIPs");
}

#[test]
fn cleanup_refuses_under_a_running_agent_and_otherwise_removes_all_of_it_twice_over() {
    let mut world = World::up(["redis"]).unwrap();
    let cleanup = |world: &World, flags: &[&str]| {
        world.kuma_dns().unwrap().arg("cleanup").args(flags).output().unwrap()
    };
    let refused = cleanup(&world, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&world.up_pid().unwrap().to_string()) && said.contains("--force"), "{said}");
    let mut sleeper = world.inside(["sleep", "600"]).unwrap().spawn().unwrap();
    wait_until(5, "sleep is inside", || comm(sleeper.id()) == "sleep");
    world.stop(Signal::SIGKILL).unwrap();
    let done = cleanup(&world, &[]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains(&format!("process {} (sleep)", sleeper.id())), "a stranger is named: {said}");
    assert!(sleeper.try_wait().unwrap().is_none(), "and goes on");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_eq!(traces(&world), Vec::<PathBuf>::new(), "{said}");
    let again = cleanup(&world, &[]);
    assert!(again.status.success());
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to remove"), "{again:?}");
}

#[test]
fn who_may_not_ask_the_agent_may_not_clean_up_under_it_either() {
    let world = World::up(["redis"]).unwrap();
    // Nobody may not be able to reach the folder that we were built in.
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let binary = folder.path().join("kuma-dns");
    std::fs::copy(harness::binaries::kuma_dns().unwrap(), &binary).unwrap();
    for subcommand in ["status", "vips", "cleanup"] {
        let mut as_nobody = std::process::Command::new("setpriv");
        as_nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
        let output = as_nobody.args(world.kuma_dns().unwrap().get_args()).arg(subcommand).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{subcommand}: {said}");
        assert!(said.contains("no right to ask the agent") && said.contains("root"), "{subcommand}: {said}");
    }
    assert!(world.says(["curl", "--silent", "http://redis.mesh/"]).unwrap().starts_with("redis at"));
}

#[test]
fn an_agent_whose_socket_lies_elsewhere_is_not_cleaned_up_either() {
    let world = World::up(["redis"]).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(harness::binaries::kuma_dns().unwrap());
    command.args(["cleanup", "--force", "--instance", world.instance(), "--run-dir"]).arg(elsewhere.path());
    let output = command.arg("--data").arg(elsewhere.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains(world.instance()), "{said}");
    assert!(world.says(["curl", "--silent", "http://redis.mesh/"]).unwrap().starts_with("redis at"));
}
