//! What the demo shows as proof: the kernel's counters before and after, Envoy's own word on its listeners, the packet
//! filters' rules. Called by story.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, ensure};
use harness::world::World;
use serde_json::Value;

/// Envoy's admin interface in the demo's namespace.
const ADMIN: &str = "127.0.0.1:9901";

/// How often each reason of the datapath was given.
pub(crate) struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads them from `kuma-dns status -o json`.
    pub(crate) fn read(world: &World) -> anyhow::Result<Self> {
        let status = world.status()?;
        let counters = status["datapath"]["counters"].as_array().context("the status has no counters")?;
        let pairs = counters
            .iter()
            .filter_map(|one| Some((one["name"].as_str()?.to_owned(), one["count"].as_u64()?)));
        Ok(Self(pairs.collect()))
    }

    /// How much one reason grew since `before`.
    pub(crate) fn grown(&self, before: &Self, reason: &str) -> u64 {
        let of = |counters: &Self| counters.0.get(reason).copied().unwrap_or(0);
        of(self).saturating_sub(of(before))
    }
}

/// The names of Envoy's listeners, from its admin interface.
pub(crate) fn listeners(world: &World) -> anyhow::Result<Vec<String>> {
    let body = world.netns().run(|| admin("/listeners?format=json"))?;
    let json: Value = serde_json::from_str(&body).with_context(|| format!("Envoy said: {body}"))?;
    let statuses = json["listener_statuses"].as_array().context("Envoy has no listener")?;
    Ok(statuses.iter().filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect())
}

/// The version of Envoy, from its admin interface: `<commit>/<version>/…`.
pub(crate) fn envoy_version(world: &World) -> anyhow::Result<String> {
    let body = world.netns().run(|| admin("/server_info"))?;
    let json: Value = serde_json::from_str(&body).with_context(|| format!("Envoy said: {body}"))?;
    let version = json["version"].as_str().context("Envoy has no version")?;
    Ok(version.split('/').nth(1).unwrap_or(version).to_owned())
}

fn admin(path: &str) -> anyhow::Result<String> {
    let url = format!("http://{ADMIN}{path}");
    let asked = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "10", &url])
        .output();
    let output = asked.context("cannot run curl")?;
    ensure!(output.status.success(), "Envoy's admin interface: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("Envoy answered no text")
}

/// Every rule of iptables and nftables in the demo's namespace, one line each; which tools were asked.
pub(crate) fn packet_filters(world: &World) -> anyhow::Result<(Vec<&'static str>, String)> {
    const TOOLS: [(&str, &[&str]); 3] =
        [("iptables-save", &[]), ("ip6tables-save", &[]), ("nft", &["list", "ruleset"])];
    let (mut asked, mut rules) = (Vec::new(), String::new());
    for (tool, args) in TOOLS {
        let ran = world.netns().run(|| {
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            Command::new(tool).args(args).env("PATH", path).output()
        });
        match ran {
            Ok(output) => {
                ensure!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
                rules.push_str(&String::from_utf8_lossy(&output.stdout));
                asked.push(tool);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(tool),
        }
    }
    ensure!(!asked.is_empty(), "neither iptables-save nor nft is here to ask");
    Ok((asked, rules))
}
