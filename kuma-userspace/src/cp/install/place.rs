//! Where a value of a YAML or JSON text begins and ends, and how another text is written in its place. Pure.
//! Keeps: only the value's own octets are replaced. Called by install and stub_domains.

use std::ops::Range;

use crate::cp::yaml::Entry;

/// The brackets or braces that begin at `at`, to their end.
pub(super) fn bracketed(text: &str, at: u32) -> Option<Range<usize>> {
    let start = usize::try_from(at).ok()?;
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (offset, c) in text.get(start..)?.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (offset > 0).then_some(start..start + offset + 1);
        }
    }
    None
}

/// How a text value is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Written {
    /// `|`, in lines of their own behind `indent`; `lines` are those of the content, blank ones at the end left out.
    Literal { lines: Range<usize>, indent: String, first_line: u64 },
    /// In quotes of either kind, at `range`.
    Quoted { range: Range<usize> },
}

/// The text value of a field. `None`: written in a way that we do not change (folded, plain, by an alias).
pub(super) fn written(text: &str, field: &Entry) -> Option<Written> {
    if let Some(header) = literal_header(text, field) {
        return literal(text, header, field.line);
    }
    let at = usize::try_from(field.node.at).ok()?;
    let rest = text.get(at..)?;
    match rest.chars().next()? {
        '"' => {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|&(_, c)| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            })?;
            Some(Written::Quoted { range: at..at + end.0 + 1 })
        }
        '\'' => {
            let mut end = 1;
            loop {
                end += rest.get(end..)?.find('\'')? + 1;
                // Two of them are one of the text.
                match rest[end..].strip_prefix('\'') {
                    Some(_) => end += 1,
                    None => return Some(Written::Quoted { range: at..at + end }),
                }
            }
        }
        _ => None,
    }
}

/// Where the `|` of a literal stands: behind its key, in the same line.
fn literal_header(text: &str, field: &Entry) -> Option<usize> {
    let start = line_offset(text, field.line)?;
    let line = text[start..].lines().next()?;
    let key = line.trim_start();
    let key = key.strip_prefix(&field.key).or_else(|| key.strip_prefix(&quoted(&field.key)))?;
    let value = key.trim_start().strip_prefix(':')?.trim_start();
    value.starts_with('|').then(|| start + line.len() - value.len())
}

fn literal(text: &str, at: usize, line: u64) -> Option<Written> {
    let key_indent = blanks(&text[line_start(text, at)..]).len();
    let begin = at + text[at..].find('\n')? + 1;
    let (mut end, mut indent): (usize, Option<&str>) = (begin, None);
    let mut next = begin;
    for content in text[begin..].split_inclusive('\n') {
        next += content.len();
        if content.trim().is_empty() {
            continue;
        }
        let depth = blanks(content);
        // The first line that is not deeper than the key is no content.
        if depth.len() <= key_indent {
            break;
        }
        indent.get_or_insert(depth);
        end = next;
    }
    let header = text[at + 1..begin].trim_start_matches(['+', '-']);
    let indent = match header.chars().next().and_then(|c| c.to_digit(10)) {
        Some(digit) => " ".repeat(key_indent + digit as usize),
        None => indent?.to_owned(),
    };
    Some(Written::Literal { lines: begin..end, indent, first_line: line + 1 })
}

/// `value` in the place of the old one.
pub(super) fn replaced(text: &str, old: &Written, value: &str) -> String {
    match old {
        Written::Literal { lines, indent, .. } => {
            let newline = if text[..lines.start].ends_with("\r\n") { "\r\n" } else { "\n" };
            let mut new = indented(value, indent, newline);
            if !text[..lines.end].ends_with('\n') {
                new.truncate(new.len() - newline.len());
            }
            format!("{}{new}{}", &text[..lines.start], &text[lines.end..])
        }
        Written::Quoted { range } => {
            let line = line_start(text, range.start);
            let indent = blanks(&text[line..]);
            let key = text[line..range.start].trim();
            let alone = key.ends_with(':') && !key.contains(['{', ',', '"', '\'']) && !key.starts_with('-');
            let rest = text[range.end..].lines().next().unwrap_or_default().trim();
            // What is written in quotes for its blanks and tabs is easier to read without them.
            let new = if alone && (rest.is_empty() || rest.starts_with('#')) && fits_literal(value) {
                let chomp = if value.ends_with('\n') { "|" } else { "|-" };
                let lines = indented(value, &format!("{indent}  "), "\n");
                let tail = text[range.end..].find('\n').map_or(text.len(), |end| range.end + end + 1);
                let comment = if rest.is_empty() { String::new() } else { format!(" {rest}") };
                return format!("{}{chomp}{comment}\n{lines}{}", &text[..range.start], &text[tail..]);
            } else {
                quoted(value)
            };
            format!("{}{new}{}", &text[..range.start], &text[range.end..])
        }
    }
}

/// A text in JSON's quotes, which are YAML's too.
pub(super) fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// The lines of a literal, each behind `indent`; blank lines stay blank.
pub(super) fn indented(value: &str, indent: &str, newline: &str) -> String {
    let lines = value.trim_end_matches('\n').split('\n');
    lines
        .map(|line| if line.is_empty() { newline.to_owned() } else { format!("{indent}{line}{newline}") })
        .collect()
}

/// Can a literal say it? Its first line tells how deep it stands, so it may not begin with a blank.
fn fits_literal(value: &str) -> bool {
    let plain = |c: char| matches!(c, '\n' | '\t' | ' '..='~') || (c > '\u{a0}' && !c.is_control());
    value.chars().all(plain) && !value.starts_with([' ', '\n', '\t']) && !value.ends_with("\n\n")
}

/// Where the line of `at` begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Where a line begins, counted from 1.
pub(super) fn line_offset(text: &str, line: u64) -> Option<usize> {
    match usize::try_from(line).ok()?.checked_sub(2) {
        None => (line == 1).then_some(0),
        Some(newlines) => text.match_indices('\n').nth(newlines).map(|(at, _)| at + 1),
    }
}

/// The blanks at the front of a line.
pub(super) fn blanks(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches(' ').len()]
}
