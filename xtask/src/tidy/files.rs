//! Rules of single files: the first line says the job, the name says something, the length has a limit, `unsafe` stays
//! in its rooms. Pure. Called by tidy.

use super::Finding;
use super::source::Source;

/// Past this a file has more than one job.
const LINES_MAX: usize = 400;

/// A first line shorter than this says nothing.
const FIRST_LINE_MIN: usize = 20;

/// Names that say nothing about the contents.
const BANNED_NAMES: [&str; 6] = ["utils.rs", "util.rs", "types.rs", "helpers.rs", "common.rs", "misc.rs"];

/// Where `unsafe` may stand (invariant 7), and the tests, whose system calls need it.
const UNSAFE_PLACES: [&str; 4] =
    ["kuma-ebpf/src/maps.rs", "kuma-ebpf/src/ctx.rs", "kuma-userspace/src/kernel", "tests"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: usize, message: String| {
        findings.push(Finding { file: source.path.clone(), line, message });
    };
    let first = source.text.lines().next().unwrap_or_default();
    match first.strip_prefix("//!") {
        Some(text) if text.trim().len() >= FIRST_LINE_MIN => {}
        Some(_) => find(1, format!("the first line {first:?} does not say the file's one job")),
        None => find(1, "the first line must be `//!` and say the file's one job".to_owned()),
    }
    let name = source.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if BANNED_NAMES.contains(&name) {
        find(1, format!("the name {name} says nothing: name the file after its job"));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        find(LINES_MAX + 1, format!("{lines} lines, at most {LINES_MAX}: split the file by jobs"));
    }
    if !UNSAFE_PLACES.iter().any(|place| source.is_in(place)) {
        for line in &source.unsafe_lines {
            find(*line, format!("`unsafe` belongs only in {}", UNSAFE_PLACES.join(", ")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<(usize, String)> {
        let source = Source::parse(path.into(), text.into()).unwrap();
        check(&source).into_iter().map(|f| (f.line, f.message)).collect()
    }

    const DOC: &str = "//! Hands out addresses, one after the other.\n";

    #[test]
    fn a_file_that_says_its_job_passes() {
        assert_eq!(messages("kuma-userspace/src/cp/allocator.rs", DOC), []);
    }

    #[test]
    fn a_first_line_without_a_job_is_found() {
        assert!(messages("xtask/src/a.rs", "//! .\n")[0].1.contains("one job"));
        assert!(messages("xtask/src/a.rs", "fn f() {}\n")[0].1.contains("must be `//!`"));
    }

    #[test]
    fn names_that_say_nothing_and_long_files_are_found() {
        assert!(messages("xtask/src/utils.rs", DOC)[0].1.contains("utils.rs"));
        let long = format!("{DOC}{}", "\n".repeat(LINES_MAX));
        assert_eq!(messages("xtask/src/a.rs", &long)[0].0, LINES_MAX + 1);
    }

    #[test]
    fn unsafe_outside_its_rooms_is_found_with_its_line() {
        let text = format!("{DOC}fn f() {{\n    unsafe {{ g() }}\n}}\n");
        assert_eq!(messages("kuma-userspace/src/agent/apply.rs", &text)[0].0, 3);
        assert_eq!(messages("kuma-userspace/src/kernel/bpf.rs", &text), []);
        assert_eq!(messages("kuma-ebpf/src/ctx.rs", &text), []);
        assert_eq!(messages("kuma-ebpf/src/connect.rs", &text)[0].0, 3);
    }
}
