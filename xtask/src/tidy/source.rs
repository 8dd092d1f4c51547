//! One Rust file as tidy sees it: its text and every path that its code mentions, resolved to the crate's root.
//! Keeps: use trees, inline paths, `super` and paths inside macros are all seen, because tokens are read, not items.
//! Called by tidy and its rules.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A file, its place in the crate and what it mentions.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) mentions: Vec<Mention>,
    /// Lines with the keyword `unsafe`.
    pub(super) unsafe_lines: Vec<usize>,
    /// Names of all functions, with their lines.
    pub(super) functions: Vec<String>,
    /// `static` items, with their lines.
    pub(super) statics: Vec<(String, usize)>,
}

/// A path in the code, as seen from the root of its crate: `crate::agent::apply`, `aya::Ebpf`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mention {
    /// At least one segment; the first is `crate` for paths of our own crate.
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

impl Source {
    pub(super) fn parse(path: PathBuf, text: String) -> Result<Self> {
        let tokens: TokenStream =
            text.parse().map_err(|error| anyhow!("{error}")).with_context(|| format!("{path:?}"))?;
        let module = module_of(&path);
        let mut source = Self {
            path,
            text,
            mentions: Vec::new(),
            unsafe_lines: Vec::new(),
            functions: Vec::new(),
            statics: Vec::new(),
        };
        source.scan(tokens, &module);
        Ok(source)
    }

    /// Is this file the given one, or below the given folder?
    pub(super) fn is_in(&self, place: &str) -> bool {
        self.path.starts_with(place)
    }

    fn scan(&mut self, tokens: TokenStream, module: &[String]) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            match &trees[at] {
                TokenTree::Ident(ident) => {
                    let word = ident.to_string();
                    self.note_item(&word, &trees, at);
                    if word == "mod" && self.scan_inline_module(&trees, at, module) {
                        at += 3;
                    } else if begins_path(&trees, at) {
                        at = self.scan_path(&trees, at, &[], module);
                    } else {
                        at += 1;
                    }
                }
                TokenTree::Group(group) => {
                    self.scan(group.stream(), module);
                    at += 1;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    fn note_item(&mut self, word: &str, trees: &[TokenTree], at: usize) {
        let line = trees[at].span().start().line;
        let name = || match trees.get(at + 1) {
            Some(TokenTree::Ident(name)) => Some(name.to_string()),
            _ => None,
        };
        match word {
            "unsafe" => self.unsafe_lines.push(line),
            "fn" => self.functions.extend(name()),
            "static" => self.statics.extend(name().map(|name| (name, line))),
            _ => {}
        }
    }

    /// `mod name { … }`: paths inside are relative to it.
    fn scan_inline_module(&mut self, trees: &[TokenTree], at: usize, module: &[String]) -> bool {
        let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
            (trees.get(at + 1), trees.get(at + 2))
        else {
            return false;
        };
        let inner: Vec<String> = module.iter().cloned().chain([name.to_string()]).collect();
        self.scan(body.stream(), &inner);
        true
    }

    /// Reads `a::b::{c, d::e}` from `at` and gives the place after it.
    fn scan_path(
        &mut self,
        trees: &[TokenTree],
        mut at: usize,
        before: &[String],
        module: &[String],
    ) -> usize {
        let line = trees[at].span().start().line;
        let mut segments = before.to_vec();
        while let Some(TokenTree::Ident(ident)) = trees.get(at) {
            segments.push(ident.to_string());
            at += 1;
            if !is_double_colon(trees, at) {
                break;
            }
            at += 2;
        }
        if let Some(TokenTree::Group(group)) = trees.get(at)
            && group.delimiter() == Delimiter::Brace
            && is_double_colon(trees, at.wrapping_sub(2))
        {
            self.scan_tree(group.stream(), &segments, module);
            return at + 1;
        }
        let segments = resolve(&segments, module);
        self.mentions.push(Mention { segments, line });
        at
    }

    /// The inside of a use tree's braces: paths that begin with `before`.
    fn scan_tree(&mut self, tokens: TokenStream, before: &[String], module: &[String]) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            match &trees[at] {
                TokenTree::Ident(ident) if ident == "as" => at += 2,
                TokenTree::Ident(_) => at = self.scan_path(&trees, at, before, module),
                TokenTree::Punct(_) | TokenTree::Group(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }
}

/// Words that may stand before a leading `::` without being part of the path.
const KEYWORDS: [&str; 12] =
    ["use", "return", "as", "dyn", "impl", "in", "else", "move", "mut", "if", "match", "while"];

/// An identifier followed by `::` that is the first of its path.
fn begins_path(trees: &[TokenTree], at: usize) -> bool {
    let TokenTree::Ident(ident) = &trees[at] else { return false };
    let is_first = at < 2 || !is_double_colon(trees, at - 2) || !follows_path(trees, at);
    is_double_colon(trees, at + 1) && is_first && !KEYWORDS.contains(&ident.to_string().as_str())
}

/// Is the `::` before `at` the middle of a path, such as `Vec::<u8>::new`, rather than its beginning?
fn follows_path(trees: &[TokenTree], at: usize) -> bool {
    match at.checked_sub(3).and_then(|before| trees.get(before)) {
        Some(TokenTree::Ident(ident)) => !KEYWORDS.contains(&ident.to_string().as_str()),
        Some(TokenTree::Punct(punct)) => punct.as_char() == '>',
        Some(TokenTree::Group(_)) => true,
        Some(TokenTree::Literal(_)) | None => false,
    }
}

fn is_double_colon(trees: &[TokenTree], at: usize) -> bool {
    let colon = |tree: Option<&TokenTree>| matches!(tree, Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(trees.get(at)) && colon(trees.get(at + 1))
}

/// `self` and `super` become paths from `crate`.
fn resolve(segments: &[String], module: &[String]) -> Vec<String> {
    let mut place = module.to_vec();
    let mut rest = segments;
    match segments.first().map(String::as_str) {
        Some("self" | "super") => {}
        _ => return segments.to_vec(),
    }
    while let Some(first) = rest.first() {
        match first.as_str() {
            "self" => {}
            "super" => drop(place.pop()),
            _ => break,
        }
        rest = &rest[1..];
    }
    ["crate".to_owned()].into_iter().chain(place).chain(rest.iter().cloned()).collect()
}

/// The module path of a file: `kuma-userspace/src/agent/apply.rs` is `agent::apply`.
fn module_of(path: &Path) -> Vec<String> {
    let parts: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let after_src = parts.iter().position(|part| part == "src").map_or(0, |at| at + 1);
    let mut module = parts[after_src..].to_vec();
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentions(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(path.into(), text.into()).unwrap();
        source.mentions.iter().map(|m| format!("{}:{}", m.line, m.segments.join("::"))).collect()
    }

    #[test]
    fn nested_use_trees_inline_paths_and_macros_are_seen() {
        let text = "use crate::{model::{name::Hostname, view}, rt};\n\
                    fn f() { crate::kernel::open(); }\n\
                    fn g() { tracing::info!(\"{}\", crate::dns::zone::X); }\n";
        assert_eq!(
            mentions("kuma-userspace/src/cp/mod.rs", text),
            [
                "1:crate::model::name::Hostname",
                "1:crate::model::view",
                "1:crate::rt",
                "2:crate::kernel::open",
                "3:tracing::info",
                "3:crate::dns::zone::X"
            ]
        );
    }

    #[test]
    fn super_is_resolved_from_the_files_place_and_from_inline_modules() {
        let file = "kuma-userspace/src/agent/apply.rs";
        assert_eq!(mentions(file, "use super::super::cp::X;"), ["1:crate::cp::X"]);
        assert_eq!(mentions(file, "use super::feed;"), ["1:crate::agent::feed"]);
        assert_eq!(mentions(file, "mod t { use super::X; }"), ["1:crate::agent::apply::X"]);
        assert_eq!(
            mentions("kuma-userspace/src/agent/mod.rs", "use self::feed::F;"),
            ["1:crate::agent::feed::F"]
        );
    }

    #[test]
    fn the_middle_of_a_path_begins_no_other() {
        assert_eq!(mentions("src/a.rs", "let x = Vec::<u8>::aya::new();"), ["1:Vec"]);
        assert_eq!(mentions("src/a.rs", "use ::aya::Ebpf;"), ["1:aya::Ebpf"]);
        assert_eq!(mentions("src/a.rs", "use aya::{self, Ebpf as E};"), ["1:aya::self", "1:aya::Ebpf"]);
    }

    #[test]
    fn unsafe_functions_and_statics_are_noted_and_strings_are_not() {
        let text = "//! unsafe\nfn claim() {}\n// unsafe\nfn f() { \"unsafe\"; unsafe { g() } }\nstatic MAP: u8 = 0;\n";
        let source = Source::parse("a.rs".into(), text.into()).unwrap();
        assert_eq!(source.unsafe_lines, [4]);
        assert_eq!(source.functions, ["claim", "f"]);
        assert_eq!(source.statics, [("MAP".to_owned(), 5)]);
    }
}
