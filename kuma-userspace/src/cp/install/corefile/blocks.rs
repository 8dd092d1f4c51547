//! The grammar of a Corefile as far as server blocks go (Caddy's): words, quotes, comments, braces. Pure.
//! Keeps: whatever is not understood is an error with its line. Called by corefile.

use std::ops::Range;

use super::{CorefileError, DNS_PORT};
use crate::model::name::Hostname;

/// A server block: where it stands, what it serves, what is in it.
#[derive(Debug)]
pub(super) struct Block {
    /// From its first key to its closing brace.
    pub(super) range: Range<usize>,
    pub(super) line: usize,
    pub(super) keys: Vec<String>,
    pub(super) directives: Vec<Directive>,
}

/// A line of a block, without the block of its own that may follow.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) line: usize,
    pub(super) words: Vec<String>,
    pub(super) has_block: bool,
    /// The blanks in front of it.
    pub(super) indent: String,
}

impl Directive {
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

impl Block {
    /// The zones that it serves on plain DNS, with their ports.
    pub(super) fn zones(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keys.iter().filter(|key| !self.is_snippet(key)).filter_map(|key| zone(key))
    }

    pub(super) fn serves(&self, domain: &Hostname) -> bool {
        let own = |zone: &str| zone.strip_suffix('.').unwrap_or(zone).eq_ignore_ascii_case(domain.as_str());
        self.zones().any(|(zone, _)| own(zone))
    }

    /// Its keys as they stand there.
    pub(super) fn name(&self) -> String {
        self.keys.join(" ")
    }

    /// Why it is left alone.
    pub(super) fn foreign(&self) -> CorefileError {
        let known = super::KUMACTL_DIRECTIVES;
        let stranger = self.directives.iter().map(Directive::name).find(|name| !known.contains(name));
        CorefileError::Foreign {
            line: self.line,
            keys: self.name(),
            directive: stranger.unwrap_or("forward").to_owned(),
        }
    }

    fn is_snippet(&self, key: &str) -> bool {
        key.starts_with('(') && key.ends_with(')')
    }
}

/// `dns://mesh.:53` is zone `mesh.` on port 53; keys of other transports (`tls://`, `https://`) serve no plain DNS.
fn zone(key: &str) -> Option<(&str, &str)> {
    let rest = match key.split_once("://") {
        Some(("dns", rest)) => rest,
        Some(_) => return None,
        None => key,
    };
    Some(match rest.rsplit_once(':') {
        Some((zone, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (zone, port),
        _ => (rest, DNS_PORT),
    })
}

/// A word, and where it stands.
struct Word {
    text: String,
    range: Range<usize>,
    line: usize,
    /// Quoted braces are no braces.
    quoted: bool,
}

impl Word {
    fn is(&self, brace: &str) -> bool {
        !self.quoted && self.text == brace
    }
}

/// The server blocks and snippets of a Corefile, in order.
pub(super) fn blocks(text: &str) -> Result<Vec<Block>, CorefileError> {
    let words = words(text)?;
    let (mut blocks, mut at) = (Vec::new(), 0);
    while let Some(word) = words.get(at) {
        let line_end = words[at..].iter().take_while(|next| next.line == word.line).count() + at;
        if word.text == "import" && !words[at..line_end].iter().any(|word| word.is("{")) {
            at = line_end;
            continue;
        }
        let (block, next) = block(text, &words, at)?;
        blocks.push(block);
        at = next;
    }
    Ok(blocks)
}

fn block(text: &str, words: &[Word], first: usize) -> Result<(Block, usize), CorefileError> {
    let (line, start) = (words[first].line, words[first].range.start);
    let mut at = first;
    let mut keys = Vec::new();
    // A key line goes on in the next one only behind a comma.
    let mut open = true;
    loop {
        let named = || keys.join(" ");
        match words.get(at) {
            Some(word) if word.is("{") => break,
            Some(word) if word.is("}") => return Err(CorefileError::StrayBrace { line: word.line }),
            Some(word) if open || word.line == words[at - 1].line => {
                open = word.text.ends_with(',');
                keys.extend(word.text.split(',').filter(|key| !key.is_empty()).map(str::to_owned));
                at += 1;
            }
            _ => return Err(CorefileError::NoBraces { line, keys: named() }),
        }
    }
    let mut directives: Vec<Directive> = Vec::new();
    let (mut depth, mut last_line) = (0, words[at].line);
    for (number, word) in words.iter().enumerate().skip(at) {
        if word.is("{") {
            depth += 1;
            if let Some(directive) = directives.last_mut().filter(|_| depth == 2) {
                directive.has_block = true;
            }
        } else if word.is("}") {
            depth -= 1;
        } else if depth == 1 {
            match directives.last_mut().filter(|_| word.line == last_line) {
                Some(directive) => directive.words.push(word.text.clone()),
                None => directives.push(Directive {
                    line: word.line,
                    words: vec![word.text.clone()],
                    has_block: false,
                    indent: super::line_indent(text, word.range.start).to_owned(),
                }),
            }
        }
        last_line = word.line;
        if depth == 0 {
            return Ok((Block { range: start..word.range.end, line, keys, directives }, number + 1));
        }
    }
    Err(CorefileError::OpenBlock { line, keys: keys.join(" ") })
}

fn words(text: &str) -> Result<Vec<Word>, CorefileError> {
    let mut words = Vec::new();
    let mut line = 1;
    let mut rest = text.char_indices().peekable();
    while let Some((start, first)) = rest.next() {
        if first == '\n' {
            line += 1;
        } else if first == '#' {
            while rest.next_if(|(_, c)| *c != '\n').is_some() {}
        } else if first == '"' {
            let (began, mut inside) = (line, String::new());
            let end = loop {
                match rest.next() {
                    None => return Err(CorefileError::OpenQuote { line: began }),
                    Some((end, '"')) => break end + 1,
                    Some((_, '\\')) if rest.peek().is_some_and(|(_, c)| *c == '"') => {
                        inside.extend(rest.next().map(|(_, c)| c));
                    }
                    Some((_, c)) => {
                        line += usize::from(c == '\n');
                        inside.push(c);
                    }
                }
            };
            words.push(Word { text: inside, range: start..end, line: began, quoted: true });
        } else if !first.is_whitespace() {
            let mut end = start + first.len_utf8();
            while let Some((at, c)) = rest.next_if(|(_, c)| !c.is_whitespace()) {
                end = at + c.len_utf8();
            }
            words.push(Word { text: text[start..end].to_owned(), range: start..end, line, quoted: false });
        }
    }
    Ok(words)
}
