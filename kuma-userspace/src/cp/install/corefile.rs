//! A Corefile as its server blocks, and the one block of ours in it. Pure.
//! Keeps: every octet outside our own block stays; a block of somebody else's is never changed. Called by install.

mod blocks;

use self::blocks::{Block, blocks};
use super::Forward;

/// The port that DNS is asked on, unless a block says another one.
const DNS_PORT: &str = "53";
/// Stands in the first line of a block of ours, so that it is known again.
const MARK: &str = "# kuma-dns:";
/// What a block of ours is indented by where nothing else is indented.
const DEFAULT_INDENT: &str = "    ";
/// How long CoreDNS may keep an answer, in seconds; Kuma's choice: less than anybody notices.
const CACHE_SECS: u32 = 3;
/// All that a block written by `kumactl install dns` has in it.
const KUMACTL_DIRECTIVES: [&str; 4] = ["errors", "cache", "forward", "proxy"];

/// Why a Corefile is left alone.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum CorefileError {
    #[error("the Corefile is empty: no server answers anything with it")]
    Empty,
    #[error("line {line} of the Corefile: the quote is not closed")]
    OpenQuote { line: usize },
    #[error("line {line} of the Corefile: the block {keys:?} is not closed")]
    OpenBlock { line: usize, keys: String },
    #[error("line {line} of the Corefile: a closing brace without a block")]
    StrayBrace { line: usize },
    #[error("line {line} of the Corefile: {keys:?} has no braces: put its directives between {{ and }}")]
    NoBraces { line: usize, keys: String },
    #[error(
        "line {line} of the Corefile: the block {keys:?} serves {domain} and other zones: give {domain} a block of its own"
    )]
    Shared { line: usize, keys: String, domain: String },
    #[error(
        "line {line} of the Corefile: the block {keys:?} is not ours (it has {directive:?}): remove it, or choose another --domain"
    )]
    Foreign { line: usize, keys: String, directive: String },
    #[error("line {line} of the Corefile: a second block for {domain}: remove one of them")]
    Twice { line: usize, domain: String },
    #[error(
        "line {line} of the Corefile: `bind` with a block of its own is not understood: write `bind ADDRESS…` in one line"
    )]
    BindBlock { line: usize },
    #[error("no block of the Corefile serves \".\", and the others use several ports: {ports}")]
    WhichPort { ports: String },
}

impl CorefileError {
    /// The line of the Corefile that it is about.
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Self::Empty | Self::WhichPort { .. } => None,
            Self::OpenQuote { line }
            | Self::OpenBlock { line, .. }
            | Self::StrayBrace { line }
            | Self::NoBraces { line, .. }
            | Self::Shared { line, .. }
            | Self::Foreign { line, .. }
            | Self::Twice { line, .. }
            | Self::BindBlock { line } => Some(*line),
        }
    }
}

/// The Corefile with our block in it.
pub(super) fn patch(text: &str, forward: &Forward) -> Result<String, CorefileError> {
    let blocks = blocks(text)?;
    if text.trim().is_empty() {
        return Err(CorefileError::Empty);
    }
    let old = ours(&blocks, text, forward)?;
    let others: Vec<&Block> =
        blocks.iter().filter(|block| old.is_none_or(|old| old.range != block.range)).collect();
    let context = Context::of(&others)?;
    Ok(match old {
        Some(old) => {
            let block = render(forward, &context, line_indent(text, old.range.start));
            format!("{}{block}{}", &text[..old.range.start], &text[old.range.end..])
        }
        None => {
            let kept = text.trim_end();
            format!("{kept}\n{}{}", render(forward, &context, ""), &text[kept.len()..])
        }
    })
}

/// A file of server blocks that a Corefile imports: nothing but ours. `others` are its neighbours, imported as well.
pub(super) fn fragment(others: &[&str], forward: &Forward) -> Result<String, CorefileError> {
    let mut neighbours = Vec::new();
    for text in others {
        neighbours.extend(blocks(text)?);
    }
    let neighbours: Vec<&Block> = neighbours.iter().collect();
    if let Some(block) = neighbours.iter().find(|block| block.serves(&forward.domain)) {
        return Err(block.foreign());
    }
    Ok(format!("{}\n", render(forward, &Context::of(&neighbours)?, "")))
}

/// The block for the domain, if it is ours to change.
fn ours<'b>(blocks: &'b [Block], text: &str, forward: &Forward) -> Result<Option<&'b Block>, CorefileError> {
    let mut found = None;
    for block in blocks.iter().filter(|block| block.serves(&forward.domain)) {
        let domain = || forward.domain.to_string();
        if found.is_some() {
            return Err(CorefileError::Twice { line: block.line, domain: domain() });
        }
        let stranger = |name: &str| !KUMACTL_DIRECTIVES.contains(&name);
        if block.keys.len() > 1 {
            return Err(CorefileError::Shared { line: block.line, keys: block.name(), domain: domain() });
        }
        if !text[block.range.clone()].contains(MARK)
            && block.directives.iter().any(|directive| stranger(directive.name()))
        {
            return Err(block.foreign());
        }
        found = Some(block);
    }
    Ok(found)
}

/// What the other blocks say about how ours must look.
struct Context {
    /// Where the pods of CoreDNS listen: the Service in front of them sends port 53 there.
    port: String,
    indent: String,
    /// Addresses of a node-local cache: without them our block would not be reached.
    binds: Vec<String>,
    /// CoreDNS before 1.5 says `proxy`.
    verb: &'static str,
}

impl Context {
    fn of(blocks: &[&Block]) -> Result<Self, CorefileError> {
        let root = blocks.iter().find(|block| block.zones().any(|(zone, _)| zone == "."));
        let mut ports: Vec<&str> = match root {
            Some(root) => root.zones().filter(|(zone, _)| *zone == ".").map(|(_, port)| port).collect(),
            None => blocks.iter().flat_map(|block| block.zones()).map(|(_, port)| port).collect(),
        };
        ports.sort_unstable();
        ports.dedup();
        let port = match ports[..] {
            [] => DNS_PORT,
            [only] => only,
            _ if root.is_some() && ports.contains(&DNS_PORT) => DNS_PORT,
            _ => return Err(CorefileError::WhichPort { ports: ports.join(", ") }),
        };
        let directives = || blocks.iter().flat_map(|block| &block.directives);
        let uses = |verb| directives().any(|directive| directive.name() == verb);
        let mut binds = Vec::new();
        for directive in root.iter().flat_map(|root| &root.directives).filter(|d| d.name() == "bind") {
            if directive.has_block {
                return Err(CorefileError::BindBlock { line: directive.line });
            }
            binds.push(directive.words.join(" "));
        }
        Ok(Self {
            port: port.to_owned(),
            indent: directives().next().map_or(DEFAULT_INDENT, |first| &first.indent).to_owned(),
            binds,
            verb: if uses("proxy") && !uses("forward") { "proxy" } else { "forward" },
        })
    }
}

/// Our block, from its first key to its closing brace, as it stands behind `outer` blanks.
fn render(forward: &Forward, context: &Context, outer: &str) -> String {
    let Context { port, indent, binds, verb } = context;
    let mut lines = vec![format!(
        "{MARK} mesh names, answered by {}; `kuma-dns install dns` writes this block",
        forward.service
    )];
    lines.extend(binds.iter().cloned());
    lines.push("errors".into());
    lines.push(format!("cache {CACHE_SECS}"));
    lines.push(format!("{verb} . {}", forward.to));
    let mut block = format!("{}:{port} {{\n", forward.domain);
    for line in lines {
        block.push_str(&format!("{outer}{indent}{line}\n"));
    }
    block + outer + "}"
}

/// The blanks in front of what stands at `at`, if nothing else does.
fn line_indent(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let before = &text[start..at];
    if before.trim().is_empty() { before } else { "" }
}

#[cfg(test)]
mod tests;
