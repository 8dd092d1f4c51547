//! The status of a control plane that is asked over REST: who it is among its replicas, what it has, what troubles it, who
//! is connected. The text is pure. Called by status.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::cli::client::{self, Client};
use crate::cli::duration::human;
use crate::cli::outcome::Outcome;
use crate::cli::table::{self, OutputFormat};

/// Troubles of one sort that are shown; `-o json` has all that the control plane tells.
const MAX_SHOWN: usize = 10;

pub(super) fn run(client: &Client, output: OutputFormat) -> Outcome {
    client::block_on(async {
        let status = client.status().await?;
        match output {
            OutputFormat::Json => table::print_json(&status)?,
            OutputFormat::Table => table::print(&report(&client.address().to_string(), &status)),
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn report(address: &str, status: &Value) -> String {
    let plane = &status["controlPlane"];
    let mut text = format!("control plane at {address}{}\n", replica(&plane["replica"]));
    let number = |field: &str| plane[field].as_u64().unwrap_or_default();
    line(&mut text, &format!("{} of {} services have VIPs", number("published"), number("services")));
    for file in items(&plane["files"]).filter_map(Value::as_str) {
        line(&mut text, &format!("reads {file}"));
    }
    for trouble in troubles(plane) {
        line(&mut text, &trouble);
    }
    for view in items(&status["xds"]["views"]) {
        text.push_str(&self::view(view));
    }
    text
}

fn line(text: &mut String, said: &str) {
    writeln!(text, "  {said}").expect("a String takes all text");
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn word<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

fn replica(replica: &Value) -> String {
    match word(replica, "role") {
        "leader" => format!(": leads, epoch {}", replica["epoch"]),
        "follower" => format!(": follows {}", word(replica, "leader")),
        _ => String::new(),
    }
}

/// Everything that a person may have to do something about.
fn troubles(plane: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let mut tell = |list: &Value, say: &dyn Fn(&Value) -> String| {
        told.extend(items(list).take(MAX_SHOWN).map(|item| format!("trouble: {}", say(item))));
        if let more @ 1.. = items(list).count().saturating_sub(MAX_SHOWN) {
            told.push(format!("trouble: and {more} more of these"));
        }
    };
    tell(&plane["mistakes"], &|mistake| mistake.as_str().unwrap_or_default().to_owned());
    tell(&plane["starving"], &|starving| {
        let (service, mesh) = (word(starving, "service"), word(starving, "mesh"));
        format!("{service} of mesh {mesh} has no {} address: the pool is used up", word(starving, "family"))
    });
    tell(&plane["conflicts"], &|conflict| {
        let (name, mesh) = (word(conflict, "name"), word(conflict, "mesh"));
        let (winner, loser) = (word(conflict, "winner"), word(conflict, "loser"));
        format!("{name} of mesh {mesh} is {winner}'s, and not {loser}'s")
    });
    tell(&plane["conditions"], &|condition| {
        let (resource, generator) = (word(condition, "resource"), word(condition, "generator"));
        format!("{resource} has no name by {generator}: {}", word(condition, "message"))
    });
    tell(&plane["quarantined"], &|record| {
        format!("a record was set aside: {}: {}", word(record, "key"), word(record, "reason"))
    });
    told.extend(plane["storeError"].as_str().map(|error| format!("trouble: {error}")));
    told
}

fn view(view: &Value) -> String {
    let (working, wanted) = (&view["listeners_working"], &view["listeners_wanted"]);
    let mut text = format!("view {}: {working} of {wanted} VIPs and ports work\n", word(view, "view"));
    for waiting in items(&view["waiting"]).take(MAX_SHOWN).filter_map(Value::as_str) {
        line(&mut text, &format!("waiting: {waiting}"));
    }
    for client in items(&view["clients"]) {
        let since = human(Duration::from_secs(client["connected_secs"].as_u64().unwrap_or_default()));
        let pending: Vec<&str> = items(&client["pending"]).filter_map(Value::as_str).collect();
        let pending = if pending.is_empty() {
            "all acknowledged".to_owned()
        } else {
            format!("not yet acknowledged: {}", pending.join(" "))
        };
        let (role, node) = (word(client, "role"), word(client, "node"));
        line(&mut text, &format!("{role} {node}: connected for {since}, {pending}"));
        for refused in items(&client["refused"]).take(MAX_SHOWN) {
            let (kind, name) = (word(refused, "kind"), word(refused, "name"));
            line(&mut text, &format!("  refused {kind} {name}: {}", word(refused, "reason")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_says_who_what_and_what_is_wrong() {
        let mistakes: Vec<String> = (0..12).map(|n| format!("mesh.yaml:{n}: x")).collect();
        let status = json!({
            "controlPlane": {"services": 3, "published": 2, "files": ["mesh.yaml"], "mistakes": mistakes, "storeError": "disk is full",
                "starving": [{"mesh": "m", "service": "a", "family": "IPv4"}], "replica": {"role": "follower", "leader": "host/1"}},
            "xds": {"views": [{"view": "default", "listeners_working": 1, "listeners_wanted": 2, "waiting": ["b"],
                "clients": [{"node": "e", "role": "Proxy", "connected_secs": 75, "pending": ["CDS"], "refused": [{"kind": "LDS", "name": "x", "reason": "bad"}]}]}]},
        });
        let text = report("http://cp:5681", &status);
        for part in [
            "control plane at http://cp:5681: follows host/1\n",
            "2 of 3 services have VIPs",
            "trouble: mesh.yaml:9: x\n",
            "trouble: and 2 more of these",
            "a of mesh m has no IPv4 address",
            "trouble: disk is full",
            "view default: 1 of 2 VIPs and ports work",
            "waiting: b",
            "Proxy e: connected for 75 s, not yet acknowledged: CDS",
            "refused LDS x: bad",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(!text.contains("mesh.yaml:10"), "{text}");
    }

    #[test]
    fn a_control_plane_of_another_version_is_no_panic() {
        assert!(report("x", &json!([1])).contains("0 of 0 services"));
    }
}
