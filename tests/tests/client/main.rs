//! `get`, `apply` and `delete` against a control plane over REST: what people type, what is printed, how it ends. Through the
//! binary; [`get`] and [`write`] against a scripted server, for what a healthy control plane rarely does, [`real`] against
//! the real one.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod get;
mod real;
mod write;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use harness::binaries;
use harness::scripted::{Asked, Reply};
use serde_json::{Value, json};

/// A command that knows nothing of the caller's environment.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binaries::kuma_dns().unwrap());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KUMA_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

fn run(args: &[&str]) -> Said {
    Said::of(&command(args).output().unwrap())
}

/// The same with a text on stdin.
fn run_with(args: &[&str], stdin: &str) -> Said {
    let mut child = command(args);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever does not read stdin does not wait for it.
    let _closed = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    Said::of(&child.wait_with_output().unwrap())
}

/// How a command ended, and what it said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The code, and every part on stderr.
    #[track_caller]
    fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is missing in:\n{}", self.err);
        }
    }

    /// Code 0; gives the lines of stdout as words.
    #[track_caller]
    fn rows(&self) -> Vec<Vec<&str>> {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self.out.lines().map(|line| line.split_whitespace().collect()).collect()
    }
}

/// A list of everything, as Kuma sends it.
fn list(items: &[Value]) -> Reply {
    Reply::json(200, &json!({ "total": items.len(), "items": items, "next": null }))
}

fn mesh_service(mesh: &str, name: &str, vip: &str) -> Value {
    json!({ "type": "MeshService", "mesh": mesh, "name": name, "spec": { "ports": [{ "port": 6379 }] },
            "status": { "vips": [{ "ip": vip }], "addresses": [{ "hostname": format!("{name}.svc.mesh.local") }] } })
}

/// Kuma's error object.
fn refusal(status: u16, title: &str, fields: &[(&str, &str)]) -> Reply {
    let fields: Vec<Value> = fields
        .iter()
        .map(|(field, reason)| json!({ "field": field, "reason": reason, "source": "body" }))
        .collect();
    let object = json!({ "type": "/std-errors", "status": status, "title": title, "detail": "", "invalid_parameters": fields });
    Reply::json(status, &object)
}

/// The last piece of a path.
fn name_of(asked: &Asked) -> &str {
    asked.path.rsplit('/').next().unwrap_or_default()
}
