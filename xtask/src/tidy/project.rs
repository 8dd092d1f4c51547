//! Rules between files: members opt in to the lints, every map of the programs is in the contract's list, and the README
//! names only paths and tests that exist. Called by tidy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Finding;
use super::source::Source;

/// Where the programs declare their maps, and where the contract lists them.
const MAPS: &str = "kuma-ebpf/src/maps.rs";
const CONTRACT: &str = "kuma-ebpf-common/src/abi.rs";

/// Beginnings of what counts as a path of the repository in the README.
const PATH_ROOTS: [&str; 7] =
    ["kuma-ebpf", "kuma-userspace", "tests/", "xtask/", "deploy/", ".ci/", ".cargo/"];

pub(super) fn check(top: &Path, sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let workspace = std::fs::read_to_string(top.join("Cargo.toml")).context("cannot read Cargo.toml")?;
    for member in members(&workspace) {
        let file = Path::new(member).join("Cargo.toml");
        let text = std::fs::read_to_string(top.join(&file)).with_context(|| format!("{file:?}"))?;
        findings.extend(lints(file, &text));
    }
    let readme = std::fs::read_to_string(top.join("README.md")).context("cannot read README.md")?;
    let functions: BTreeSet<&str> =
        sources.iter().flat_map(|source| source.functions.iter().map(String::as_str)).collect();
    findings.extend(paths(&readme, |path| top.join(path).exists()));
    findings.extend(invariants(&readme, |test| functions.contains(test)));
    let find = |path: &str| sources.iter().find(|source| source.path == Path::new(path));
    if let (Some(maps), Some(contract)) = (find(MAPS), find(CONTRACT)) {
        findings.extend(map_names(maps, contract));
    }
    Ok(findings)
}

/// The folders in `members = […]`.
fn members(workspace: &str) -> impl Iterator<Item = &str> {
    let list = workspace.lines().find(|line| line.starts_with("members = ")).unwrap_or_default();
    list.split('"').skip(1).step_by(2)
}

/// Without this line the workspace's lints do not reach a member.
fn lints(file: PathBuf, text: &str) -> Option<Finding> {
    let mut lines = text.lines().skip_while(|line| line.trim() != "[lints]").skip(1);
    if lines.next().is_some_and(|line| line.trim() == "workspace = true") {
        return None;
    }
    let message = "needs `[lints]` with `workspace = true`".to_owned();
    Some(Finding { file, line: 1, message })
}

/// Pieces of the README in backticks, with their lines.
fn quoted(readme: &str) -> impl Iterator<Item = (usize, &str)> {
    readme
        .lines()
        .enumerate()
        .flat_map(|(at, line)| line.split('`').skip(1).step_by(2).map(move |piece| (at + 1, piece)))
}

fn paths(readme: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let pieces = quoted(readme).flat_map(|(line, piece)| {
        piece.split_whitespace().map(move |word| (line, word.trim_end_matches('/')))
    });
    let absent = pieces.filter(|(_, word)| {
        let is_path = PATH_ROOTS.iter().any(|root| word.starts_with(root));
        is_path && !word.contains(['*', '<', '{', '$']) && !exists(word)
    });
    absent
        .map(|(line, word)| Finding {
            file: "README.md".into(),
            line,
            message: format!("names {word}, which does not exist"),
        })
        .collect()
}

/// In the list of invariants each line names at least one test, as `test: name`.
fn invariants(readme: &str, is_function: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: usize, message: String| {
        findings.push(Finding { file: "README.md".into(), line, message });
    };
    let lines = readme.lines().enumerate().map(|(at, line)| (at + 1, line));
    let section = lines.skip_while(|(_, line)| !line.starts_with("## Invariants")).skip(1);
    for (at, line) in section.take_while(|(_, line)| !line.starts_with("## ")) {
        let numbered = line.split_once(". ").is_some_and(|(n, _)| n.trim().parse::<u8>().is_ok());
        let row = line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit());
        if !numbered && !row {
            continue;
        }
        let tests: Vec<&str> = line.split('`').skip(1).step_by(2).filter(|word| is_claim(word)).collect();
        if tests.is_empty() {
            find(at, "an invariant must name the test that holds it".to_owned());
        }
        for test in tests.into_iter().filter(|test| !is_function(test)) {
            find(at, format!("names the test {test}, which does not exist"));
        }
    }
    findings
}

/// A test's name is a claim: several lower-case words joined by underscores.
fn is_claim(word: &str) -> bool {
    word.matches('_').count() >= 2
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Every map static of the programs is a name of the contract, and the other way round.
fn map_names(maps: &Source, contract: &Source) -> Vec<Finding> {
    let declared: BTreeSet<&str> = declared_maps(&maps.text);
    let listed = listed_maps(&contract.text);
    let missing = declared.difference(&listed).map(|name| (MAPS, *name, "is not in abi::map::ALL"));
    let surplus = listed.difference(&declared).map(|name| (CONTRACT, *name, "is no map of the programs"));
    missing
        .chain(surplus)
        .map(|(file, name, what)| {
            let source = if file == MAPS { maps } else { contract };
            let line = source.text.lines().position(|line| line.contains(name)).map_or(1, |at| at + 1);
            Finding { file: file.into(), line, message: format!("map {name} {what}") }
        })
        .collect()
}

/// Names of statics under a `#[map]` or `#[btf_map]` attribute.
fn declared_maps(text: &str) -> BTreeSet<&str> {
    let mut lines = text.lines().map(str::trim);
    let mut names = BTreeSet::new();
    while let Some(line) = lines.next() {
        if !line.starts_with("#[map") && !line.starts_with("#[btf_map") {
            continue;
        }
        let item = lines.by_ref().find(|line| !line.starts_with("#[") && !line.starts_with("//"));
        let name =
            item.and_then(|item| item.split_once("static ")).and_then(|(_, rest)| rest.split(':').next());
        names.extend(name.map(|name| name.trim_start_matches("mut ").trim()));
    }
    names
}

/// The values of `pub const NAME: &str = "NAME";` inside `mod map`.
fn listed_maps(text: &str) -> BTreeSet<&str> {
    let section = text.split_once("pub mod map {").map_or("", |(_, rest)| rest);
    let section = section.split_once("\n}").map_or(section, |(inside, _)| inside);
    let consts = section.lines().filter(|line| line.contains(": &str = "));
    consts.filter_map(|line| line.split('"').nth(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_the_lints_is_found() {
        assert_eq!(members("members = [\"a\", \"b/c\"]\n").collect::<Vec<_>>(), ["a", "b/c"]);
        assert!(lints("a/Cargo.toml".into(), "[package]\n").is_some());
        assert!(lints("a/Cargo.toml".into(), "[package]\n[lints]\nworkspace = true\n").is_none());
    }

    #[test]
    fn a_path_of_the_readme_that_does_not_exist_is_found_with_its_line() {
        let readme = "text\n`kuma-userspace/src/gone.rs` and `xtask/src/main.rs`, `tests/tests/*.rs`\n";
        let found = paths(readme, |path| path == "xtask/src/main.rs");
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "README.md:2: names kuma-userspace/src/gone.rs, which does not exist"
        );
    }

    #[test]
    fn an_invariant_names_a_test_that_exists() {
        let readme = "## Invariants\n\n1. A VIP rests (`freed_vip_rests_here`).\n2. Nothing.\n3. `no_such_test_here`.\n## Ports\n1. x\n";
        let found: Vec<usize> =
            invariants(readme, |name| name == "freed_vip_rests_here").iter().map(|f| f.line).collect();
        assert_eq!(found, [4, 5]);
    }

    #[test]
    fn maps_and_the_contracts_list_agree() {
        let maps = "//! Maps of the programs, every one.\n#[map(name = \"PODS\")]\nstatic PODS: u8 = 0;\n#[btf_map]\n#[expect(x)]\nstatic NEW: u8 = 0;\n";
        let contract =
            "pub mod map {\n    pub const PODS: &str = \"PODS\";\n    pub const OLD: &str = \"OLD\";\n}\n";
        let source = |path: &str, text: &str| Source::parse(path.into(), text.into()).unwrap();
        let found = map_names(&source(MAPS, maps), &source(CONTRACT, contract));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "kuma-ebpf/src/maps.rs:6: map NEW is not in abi::map::ALL",
                "kuma-ebpf-common/src/abi.rs:3: map OLD is no map of the programs"
            ]
        );
    }
}
