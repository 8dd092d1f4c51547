//! The allowed arrows between rooms, as data: which room may name which other, and which room owns which outside crate.
//! Pure. Called by tidy. The same table stands in the README.

use super::Finding;
use super::source::{Mention, Source};

/// Where the rooms lie.
const ROOMS_IN: &str = "kuma-userspace/src";

/// A room of kuma-userspace and the rooms that it may import, besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("rt", &[]),
    ("wire", &["model"]),
    ("dns", &["model", "rt"]),
    ("kernel", &["model", "rt"]),
    ("agent", &["model", "wire", "rt", "dns"]),
    ("cp", &["model", "wire", "rt", "dns"]),
    // exec enters the agent's namespace and cgroup; status and cleanup also work when no agent is left.
    ("cli", &["agent", "cp", "rt", "model", "wire", "dns", "kernel"]),
];

/// Single files that may import one room more.
const DOORS: &[(&str, &str)] = &[("kuma-userspace/src/agent/mod.rs", "kernel")];

/// An outside crate and the rooms of kuma-userspace that own it. A crate without a line is anybody's.
const OWNERS: &[(&str, &[&str])] = &[
    ("hickory_proto", &["dns"]),
    ("aya", &["kernel"]),
    ("aya_log", &["kernel"]),
    ("caps", &["kernel"]),
    ("redb", &["cp"]),
    ("sqlx", &["cp"]),
    ("notify_debouncer_full", &["cp"]),
    ("serde_saphyr", &["cp", "cli"]),
    ("gtmpl_ng", &["cp"]),
    ("tonic", &["wire", "agent", "cp"]),
    ("envoy_types", &["wire", "agent", "cp"]),
    ("prost", &["wire", "agent", "cp"]),
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli", "main"]),
    ("comfy_table", &["cli"]),
    ("anstream", &["cli", "main"]),
    ("anyhow", &["cli", "main"]),
    ("kuma_ebpf_common", &["model", "kernel"]),
];

/// Crates of the workspace and what they may import of ours.
const CRATES: &[(&str, &[&str])] = &[
    ("kuma-ebpf-common", &[]),
    ("kuma-ebpf", &["kuma_ebpf_common"]),
    ("kuma-userspace", &["kuma_ebpf_common", "kuma_dns"]),
    ("tests", &["kuma_ebpf_common", "kuma_dns", "harness"]),
    ("fuzz", &["harness"]),
    ("xtask", &["xtask"]),
];

/// The crates of this workspace as they are written in paths.
const OURS: [&str; 5] = ["kuma_ebpf_common", "kuma_ebpf", "kuma_dns", "harness", "xtask"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let room = room(source);
    source
        .mentions
        .iter()
        .filter_map(|mention| {
            let message = refuse_crate(source, mention)
                .or_else(|| refuse_room(source, room.as_deref()?, mention))
                .or_else(|| refuse_outside(room.as_deref()?, mention))?;
            Some(Finding { file: source.path.clone(), line: mention.line, message })
        })
        .collect()
}

/// The room of a file of kuma-userspace: its folder or file name. `lib.rs` is the map of all and belongs to none.
fn room(source: &Source) -> Option<String> {
    let rest = source.path.strip_prefix(ROOMS_IN).ok()?;
    let first = rest.iter().next()?.to_str()?.trim_end_matches(".rs");
    (first != "lib").then(|| first.to_owned())
}

fn refuse_crate(source: &Source, mention: &Mention) -> Option<String> {
    let package = source.path.iter().next()?.to_str()?;
    let named = mention.segments.first()?;
    let (_, allowed) = CRATES.iter().find(|(name, _)| *name == package)?;
    let refused = OURS.contains(&named.as_str()) && !allowed.contains(&named.as_str());
    refused.then(|| format!("{package} may not import {named}"))
}

fn refuse_room(source: &Source, room: &str, mention: &Mention) -> Option<String> {
    let [first, target, ..] = mention.segments.as_slice() else { return None };
    if first != "crate" && first != "kuma_dns" {
        return None;
    }
    let is_room = ARROWS.iter().any(|(name, _)| name == target);
    if !is_room || target == room {
        return None;
    }
    let from = if room == "main" { "cli" } else { room };
    let allowed = ARROWS.iter().find(|(name, _)| *name == from).map_or(&[][..], |(_, allowed)| allowed);
    let door = DOORS.iter().any(|(file, to)| source.is_in(file) && to == target);
    if door || target == from || allowed.contains(&target.as_str()) {
        return None;
    }
    let list = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
    Some(format!("{room} may not import {target} (only: {list})"))
}

fn refuse_outside(room: &str, mention: &Mention) -> Option<String> {
    let named = mention.segments.first()?;
    let (_, owners) = OWNERS.iter().find(|(name, _)| name == named)?;
    (!owners.contains(&room)).then(|| format!("{named} belongs to {}", owners.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(path.into(), text.into()).unwrap();
        check(&source).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn arrows_go_down_only() {
        let up = messages("kuma-userspace/src/model/name.rs", "use crate::rt::Drain;");
        assert_eq!(up, ["model may not import rt (only: none)"]);
        assert_eq!(messages("kuma-userspace/src/dns/zone.rs", "use crate::{model::name, rt};"), [""; 0]);
        let hidden = messages("kuma-userspace/src/dns/zone.rs", "fn f() { log!(crate::agent::X) }");
        assert_eq!(hidden, ["dns may not import agent (only: model, rt)"]);
    }

    #[test]
    fn agent_and_cp_meet_only_on_the_wire() {
        assert_eq!(messages("kuma-userspace/src/agent/feed.rs", "use crate::cp::X;").len(), 1);
        assert_eq!(messages("kuma-userspace/src/cp/xds/mod.rs", "use super::super::agent::X;").len(), 1);
        assert_eq!(messages("kuma-userspace/src/agent/feed.rs", "use crate::wire::view;"), [""; 0]);
    }

    #[test]
    fn the_kernel_is_entered_by_one_door() {
        assert_eq!(messages("kuma-userspace/src/agent/mod.rs", "use crate::kernel::Kernel;"), [""; 0]);
        assert_eq!(messages("kuma-userspace/src/agent/apply.rs", "use crate::kernel::Kernel;").len(), 1);
    }

    #[test]
    fn outside_crates_stay_with_their_owners() {
        let found = messages("kuma-userspace/src/agent/resolver.rs", "use hickory_proto::op::Message;");
        assert_eq!(found, ["hickory_proto belongs to dns"]);
        assert_eq!(messages("kuma-userspace/src/main.rs", "fn f() -> anyhow::Result<()> {}"), [""; 0]);
        assert_eq!(messages("kuma-userspace/src/cp/store.rs", "use anyhow::Result;").len(), 1);
    }

    #[test]
    fn crates_import_only_what_lies_below_them() {
        assert_eq!(messages("kuma-ebpf/src/main.rs", "use kuma_ebpf_common::abi;"), [""; 0]);
        assert_eq!(messages("kuma-ebpf-common/src/abi.rs", "use kuma_dns::model;").len(), 1);
        assert_eq!(messages("xtask/src/test.rs", "use kuma_dns::model;").len(), 1);
    }
}
