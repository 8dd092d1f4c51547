//! kube-dns' `stubDomains`: a JSON object of domains and their nameservers. Pure.
//! Keeps: every octet outside our own domain's entry stays. Called by install.

use super::Forward;
use super::place;
use crate::cp::yaml::{self, Value};

/// Why the text is left alone.
#[derive(Debug, thiserror::Error)]
pub(super) enum StubDomainsError {
    #[error("it is no JSON (line {} of it): kube-dns would refuse it too", .0.line())]
    NotJson(#[source] serde_json::Error),
    #[error("it is no object of domains like {{\"acme.local\": [\"10.0.0.10\"]}}")]
    NotDomains,
    #[error("it names {0:?} twice: keep one of them")]
    Twice(String),
}

/// The text with our domain in it.
pub(super) fn patch(text: &str, forward: &Forward) -> Result<String, StubDomainsError> {
    let wanted = format!("[\"{}\"]", forward.to);
    if text.trim().is_empty() {
        return Ok(format!("{{\"{}\": {wanted}}}\n", forward.domain));
    }
    serde_json::from_str::<serde_json::Value>(text).map_err(StubDomainsError::NotJson)?;
    // JSON is YAML, and our YAML trees know where their values stand.
    let documents = yaml::parse(text).map_err(|_malformed| StubDomainsError::NotDomains)?;
    let [yaml::Node { at, value: Value::Map(entries), .. }] = &documents[..] else {
        return Err(StubDomainsError::NotDomains);
    };
    let is_servers = |node: &yaml::Node| match &node.value {
        Value::List(items) => items.iter().all(|item| matches!(item.value, Value::Text(_))),
        _ => false,
    };
    if !entries.iter().all(|entry| is_servers(&entry.node)) {
        return Err(StubDomainsError::NotDomains);
    }
    let own = |key: &str| key.strip_suffix('.').unwrap_or(key).eq_ignore_ascii_case(forward.domain.as_str());
    let mut ours = entries.iter().filter(|entry| own(&entry.key));
    match (ours.next(), ours.next()) {
        (Some(_), Some(second)) => Err(StubDomainsError::Twice(second.key.clone())),
        (Some(entry), None) => {
            let same = matches!(&entry.node.value, Value::List(items)
                if matches!(&items[..], [only] if matches!(&only.value, Value::Text(text) if *text == forward.to.to_string())));
            let range = place::bracketed(text, entry.node.at).ok_or(StubDomainsError::NotDomains)?;
            Ok(if same {
                text.to_owned()
            } else {
                format!("{}{wanted}{}", &text[..range.start], &text[range.end..])
            })
        }
        (None, _) => {
            let range = place::bracketed(text, *at).ok_or(StubDomainsError::NotDomains)?;
            let (front, inside) = (&text[..=range.start], &text[range.start + 1..range.end - 1]);
            let (kept, back) = (inside.trim_end(), &text[range.end - 1..]);
            let entry = format!("\"{}\": {wanted}", forward.domain);
            if entries.is_empty() {
                return Ok(format!("{front}{entry}{back}"));
            }
            // Entries in lines of their own get one more line.
            let gap = match &inside[..inside.len() - inside.trim_start().len()] {
                "" => " ",
                gap => gap,
            };
            Ok(format!("{front}{kept},{gap}{entry}{}{back}", &inside[kept.len()..]))
        }
    }
}
