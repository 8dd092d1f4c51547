//! The table of suites: what each needs, and whether this machine has it. Keeps: every file of tests/tests is a suite,
//! also one that nobody entered here. Called by test.

use anyhow::{Context as _, Result};
use xtask::{is_root, root};

use crate::setup::{self, Part};
use crate::vmtest;

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// tidy, rustfmt, clippy.
    Lint,
    /// The tests beside the code, and the examples in its documentation.
    Unit,
    /// One file of tests/tests.
    File,
    /// The socket suites again, on other kernels.
    Vm,
}

/// A set of tests with one name and one set of needs.
pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) about: String,
    pub(super) kind: Kind,
    pub(super) parts: &'static [Part],
    pub(super) privilege: Privilege,
    pub(super) order: Order,
}

/// Whose rights the suite needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Privilege {
    Anyone,
    Root,
}

/// May the tests of one suite run side by side?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Parallel,
    /// One after the other: they measure time or fill the machine.
    Serial,
}

/// Files of tests/tests that need less than everything, or the machine for themselves.
const FILES: &[(&str, &[Part], Privilege, Order)] = &[
    ("apply", &[], Privilege::Anyone, Order::Parallel),
    ("dns_allocations", &[], Privilege::Anyone, Order::Parallel),
    ("fuzz", &[], Privilege::Anyone, Order::Parallel),
    ("client", &[], Privilege::Root, Order::Parallel),
    ("control_plane", &[Part::Clients], Privilege::Root, Order::Parallel),
    ("diagnostics", &[Part::Clients], Privilege::Root, Order::Parallel),
    ("rest", &[Part::Clients], Privilege::Root, Order::Parallel),
    ("cpdns", &[Part::Clients], Privilege::Root, Order::Parallel),
    ("install", &[], Privilege::Anyone, Order::Parallel),
    ("replicas", &[Part::Postgres], Privilege::Anyone, Order::Parallel),
    ("dns", &[Part::Clients], Privilege::Root, Order::Parallel),
    ("access", &[Part::Envoy], Privilege::Root, Order::Parallel),
    ("envoy", &[Part::Envoy], Privilege::Root, Order::Parallel),
    ("variants", &[Part::Envoy], Privilege::Root, Order::Parallel),
    ("proxy", &[Part::Envoy], Privilege::Root, Order::Parallel),
    ("sockets", &[Part::Bpf], Privilege::Root, Order::Parallel),
    ("lifecycle", &[Part::Bpf], Privilege::Root, Order::Parallel),
    ("many", &[Part::Bpf, Part::Envoy], Privilege::Root, Order::Serial),
    ("load", &[Part::Bpf, Part::Envoy, Part::Clients], Privilege::Root, Order::Serial),
];

/// What a file needs that has no line of its own: everything that most of them need.
const EVERYTHING: (&[Part], Privilege, Order) =
    (&[Part::Bpf, Part::Envoy, Part::Clients], Privilege::Root, Order::Parallel);

/// All suites in the order in which they run: the quick ones first.
pub(super) fn all() -> Result<Vec<Suite>> {
    let fixed = |name, about: &str, kind, parts| Suite {
        name,
        about: about.to_owned(),
        kind,
        parts,
        privilege: Privilege::Anyone,
        order: Order::Parallel,
    };
    let mut suites = vec![
        fixed("lint", "tidy, rustfmt, clippy", Kind::Lint, &[]),
        fixed("unit", "the tests beside the code, and documented examples", Kind::Unit, &[]),
    ];
    suites.extend(files()?);
    suites.push(fixed(
        "vm",
        "the socket suites on the oldest and the newest kernel",
        Kind::Vm,
        &[Part::Bpf, Part::Vm],
    ));
    Ok(suites)
}

fn files() -> Result<Vec<Suite>> {
    let folder = root().join("tests/tests");
    let mut suites = Vec::new();
    for entry in folder.read_dir().into_iter().flatten() {
        let mut path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        // As cargo does it: a file, or a folder with a main.rs.
        if path.is_dir() {
            path.push("main.rs");
        }
        if path.extension().is_none_or(|extension| extension != "rs") || !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
        suites.push(file(&stem, &text));
    }
    suites.sort_by_key(|suite| {
        let place = FILES.iter().position(|(name, ..)| *name == suite.name);
        (place.unwrap_or(FILES.len() - 1), suite.name)
    });
    Ok(suites)
}

fn file(stem: &str, text: &str) -> Suite {
    let known = FILES.iter().find(|(name, ..)| *name == stem);
    let (parts, privilege, order) =
        known.map_or(EVERYTHING, |(_, parts, privilege, order)| (*parts, *privilege, *order));
    let doc =
        text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect::<Vec<_>>().join(" ");
    let end = [". ", ": ", "; "].iter().filter_map(|mark| doc.find(mark)).min().unwrap_or(doc.len());
    let about = doc[..end].trim_end_matches('.').to_owned();
    // Lives as long as the process: there are a dozen, read once.
    let name = known.map_or_else(|| &*String::leak(stem.to_owned()), |(name, ..)| name);
    Suite { name, about, kind: Kind::File, parts, privilege, order }
}

impl Suite {
    /// Why this suite cannot run here, if so.
    pub(super) fn hindrance(&self) -> Result<Option<String>> {
        if self.privilege == Privilege::Root && !is_root() {
            return Ok(Some("needs root: it loads BPF programs and makes namespaces".to_owned()));
        }
        let lacking = setup::lacks(self.parts)?;
        if !lacking.is_empty() {
            return Ok(Some(format!("needs {}", lacking.join(", "))));
        }
        Ok(if self.kind == Kind::Vm { vmtest::hindrance() } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nobody_entered_is_a_suite_that_needs_everything() {
        let suite = file("new", "//! New behaviour\n//! holds: more.\n");
        assert_eq!((suite.name, suite.about.as_str()), ("new", "New behaviour holds"));
        assert_eq!((suite.parts, suite.privilege, suite.order), EVERYTHING);
    }

    #[test]
    fn every_test_file_is_listed_once() {
        let names: Vec<&str> = all().unwrap().iter().map(|suite| suite.name).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
    }
}
