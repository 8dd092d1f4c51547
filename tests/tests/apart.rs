//! Control plane and agent as processes of their own: together they serve as `up` does, over TLS too, and what was served goes
//! on while there is no control plane. Through the binary, with a real Envoy.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use harness::backend::Speaks;
use harness::wait::wait_until;
use harness::world::World;
use nix::sys::signal::Signal;
use serde_json::Value;

fn curl(world: &World, family: &str, host: &str) -> String {
    let url = format!("http://{host}/");
    world.says(["curl", "--silent", "--max-time", "10", family, &url]).unwrap()
}

fn source(world: &World) -> Value {
    world.status().unwrap()["source"].clone()
}

fn current(world: &World) -> bool {
    source(world)["current"] == Value::Bool(true)
}

fn refused(world: &World, vip: &str) -> bool {
    let output = world.exec(["curl", "--silent", "--max-time", "1", &format!("http://{vip}/")]).unwrap();
    output.status.code() == Some(7)
}

#[test]
fn together_they_serve_as_up_does() {
    let mut world = World::builder().service("redis", Speaks::Http, 1).apart("").up().unwrap();
    for family in ["--ipv4", "--ipv6"] {
        assert!(curl(&world, family, "redis.mesh").starts_with("redis at"));
    }
    world.add("news", Speaks::Http, 1).unwrap();
    wait_until(10, "an added service resolves", || !world.resolves("news.mesh").unwrap().is_empty());
    assert!(curl(&world, "--ipv4", "news.mesh").starts_with("news at"));
    let vip = world.resolves("news.mesh").unwrap()[0];
    world.remove("news").unwrap();
    wait_until(10, "a removed one does not", || world.resolves("news.mesh").unwrap().is_empty());
    wait_until(10, "its VIP refuses", || refused(&world, &vip.to_string()));
    let source = source(&world);
    assert_eq!(
        (source["control_plane"].as_str(), source["view_age_secs"].as_u64()),
        (Some("127.0.0.1:5678"), Some(0))
    );
    assert!(current(&world), "{source}");
    let said = world.kuma_dns().unwrap().arg("status").output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("kept up to date by the control plane 127.0.0.1:5678"), "{said}");
    let vips = world.kuma_dns().unwrap().arg("vips").output().unwrap();
    assert!(String::from_utf8_lossy(&vips.stdout).contains("redis.mesh"));
}

#[test]
fn names_and_vips_go_on_without_a_control_plane_also_over_restarts_of_the_agent() {
    let mut world =
        World::builder().service("redis", Speaks::Http, 1).apart("").args(["--keep-datapath"]).up().unwrap();
    let vips = world.resolves("redis.mesh").unwrap();
    world.stop_plane(Signal::SIGKILL).unwrap();
    wait_until(20, "the agent notices", || !current(&world));
    assert!(curl(&world, "--ipv4", "redis.mesh").starts_with("redis at"));
    for end in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        world.stop(end).unwrap();
        world.start_agent(&["--control-plane", "http://127.0.0.1:5678"]).unwrap();
        world.wait_ready().unwrap();
        assert_eq!(world.resolves("redis.mesh").unwrap(), vips, "{end}");
        for family in ["--ipv4", "--ipv6"] {
            assert!(curl(&world, family, "redis.mesh").starts_with("redis at"), "{end}");
        }
        let source = source(&world);
        assert_eq!(
            (&source["current"], &source["remembered"]),
            (&Value::Bool(false), &Value::Bool(true)),
            "{source}"
        );
        assert!(source["reason"].as_str().unwrap().contains("cannot connect"), "{source}");
    }
    let old = || source(&world)["view_age_secs"].as_u64().unwrap() >= 1;
    wait_until(10, "the view's age is told", old);
    let said = world.kuma_dns().unwrap().arg("status").output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("no control plane") && said.contains("written down by an earlier agent"), "{said}");
    // What was removed and added meanwhile is corrected when it is back.
    world.remove("redis").unwrap();
    world.add("news", Speaks::Http, 1).unwrap();
    world.start_plane().unwrap();
    wait_until(30, "the view is the control plane's again", || current(&world));
    wait_until(10, "what was added resolves", || !world.resolves("news.mesh").unwrap().is_empty());
    assert!(curl(&world, "--ipv4", "news.mesh").starts_with("news at"));
    assert!(world.resolves("redis.mesh").unwrap().is_empty());
    wait_until(10, "what was removed refuses", || refused(&world, &vips[0].to_string()));
}

#[test]
fn over_tls_by_name_and_only_with_the_right_authority() {
    let config = "dpServer: {tlsMode: always}\n";
    let mut world = World::builder().service("redis", Speaks::Http, 1).apart(config).build().unwrap();
    world.start_plane().unwrap();
    let (ca, plane) = (world.dir().join("ca.pem"), world.plane_config());
    wait_until(20, "the control plane is ready", || world.plane_said().contains("ready"));
    let printed =
        world.kuma_dns().unwrap().args(["control-plane", "--print-ca", "-c"]).arg(plane).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    std::fs::write(&ca, printed.stdout).unwrap();
    let url = "https://localhost:5678";
    world.start_agent(&["--control-plane", url, "--ca-cert-file", ca.to_str().unwrap()]).unwrap();
    world.wait_ready().unwrap();
    assert!(curl(&world, "--ipv4", "redis.mesh").starts_with("redis at"));
    assert_eq!(source(&world)["control_plane"], "localhost:5678");
}

#[test]
fn what_it_cannot_use_is_refused_in_words() {
    let world = World::builder().apart("").build().unwrap();
    let token = world.dir().join("token");
    std::fs::write(&token, "abc.def.ghi\n").unwrap();
    let token = token.to_str().unwrap();
    for (args, parts) in [
        (&["--control-plane", "cp.example"][..], &["https://HOST:5678"][..]),
        (&["--control-plane", "https://cp.example"], &["--ca-cert-file", "https://cp.example:5678"]),
        (&["--control-plane", "http://cp.example", "--ca-cert-file", token], &["write https://"]),
        (&["--control-plane", "https://cp.example", "--ca-cert-file", token], &["BEGIN CERTIFICATE", token]),
        (&["--control-plane", "https://cp.example", "--ca-cert-file", "/nowhere"], &["cannot read /nowhere"]),
        (&["--control-plane", "http://cp.example", "--token-file", token], &["in plain", "cp.example:5678"]),
        (&[], &["--control-plane"]),
    ] {
        let output = world.kuma_dns().unwrap().arg("agent").args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in:\n{said}");
        }
    }
}
