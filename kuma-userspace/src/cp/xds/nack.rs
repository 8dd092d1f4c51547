//! Which resources a NACK is about, and what became of the others of the same message. Pure. Envoy says it in text
//! only; what it does was tried with 1.40. Called by subscription.

use std::collections::BTreeMap;

use crate::wire::view;

/// How Envoy begins when it took the good resources of a message and left out the bad ones. Any other refusal (bytes
/// that do not decode, a validation rule) left out the whole message.
const PARTIAL: [&str; 2] = ["Error adding/updating listener(s)", "Error adding/updating cluster(s)"];

/// A reason is Envoy's own text, which can hold a whole resource; this much of it is kept.
const MAX_REASON_BYTES: usize = 1_024;

/// What a NACK says.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// The resources that are named in the text, and what is said of each.
    pub(super) refused: BTreeMap<String, String>,
    /// Were the others of the message taken?
    pub(super) others_taken: bool,
    /// What is said of the message as a whole, of which no resource is more at fault than the others.
    pub(super) whole: Option<String>,
}

/// Reads the text of a NACK of a message that held the resources `names`.
pub(super) fn read<'a>(text: &str, names: impl Iterator<Item = &'a str> + Clone) -> Verdict {
    let partial = PARTIAL.iter().any(|start| text.contains(start));
    let mut all = names.clone();
    if let (Some(only), None) = (all.next(), all.next()) {
        let at = mention(text, only).filter(|_| partial).unwrap_or(0);
        let refused = BTreeMap::from([(only.to_owned(), shortened(&text[at..]))]);
        return Verdict { refused, others_taken: partial, whole: None };
    }
    let mut mentions: Vec<(usize, &str)> =
        names.filter_map(|name| Some((mention(text, name)?, name))).collect();
    // At one place the longest name is meant, the others are its beginning.
    mentions.sort_unstable_by_key(|&(at, name)| (at, std::cmp::Reverse(name.len())));
    mentions.dedup_by_key(|(at, _)| *at);
    let mut refused = BTreeMap::new();
    for (nth, &(at, name)) in mentions.iter().enumerate() {
        let end = mentions.get(nth + 1).map_or(text.len(), |&(next, _)| next);
        // A list says it of each: "NAME: reason"; otherwise the whole text is about the resource.
        let said = if partial { &text[at..end] } else { text };
        refused.insert(name.to_owned(), shortened(said));
    }
    let others_taken = partial && !refused.is_empty();
    Verdict { refused, others_taken, whole: None }
}

/// Reads what an agent says of a message that held the resources `names` of `view`: it took nothing of it.
pub(super) fn read_view<'a>(text: &str, view: &str, names: impl Iterator<Item = &'a str>) -> Verdict {
    // Nothing is of use without the header.
    let part = view::blamed(text, names).filter(|name| *name != view);
    let refused = part.map(|part| (part.to_owned(), shortened(text))).into_iter().collect();
    let whole = part.is_none().then(|| shortened(text));
    Verdict { refused, others_taken: false, whole }
}

fn shortened(said: &str) -> String {
    let said = said.trim();
    if said.len() <= MAX_REASON_BYTES {
        return said.to_owned();
    }
    // Validation says what is wrong at the end, after the resource.
    format!("… {}", &said[said.ceil_char_boundary(said.len() - MAX_REASON_BYTES)..])
}

/// Where `name` is in the text as a whole word: `outbound:240.0.0.1:80` is not in `outbound:240.0.0.1:8080`, nor is `redis`
/// in `redis.cache` or `service:redis`.
fn mention(text: &str, name: &str) -> Option<usize> {
    if name.is_empty() {
        return None;
    }
    let whole = |&(at, _): &(usize, &str)| {
        let (before, after) = (text[..at].chars().rev(), text[at + name.len()..].chars());
        !goes_on(before) && !goes_on(after)
    };
    text.match_indices(name).find(whole).map(|(at, _)| at)
}

/// Does a name go on with these characters? Punctuation is part of a name only between other characters of it.
fn goes_on(mut next: impl Iterator<Item = char>) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match next.next() {
        Some(c) if in_name(c) => true,
        Some('.' | ':' | '/') => next.next().is_some_and(|c| in_name(c) || c == '['),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] =
        ["outbound:240.0.0.1:80", "outbound:240.0.0.1:8080", "outbound:[fd00:fd00::1]:80"];

    #[test]
    fn a_refusal_is_laid_at_the_door_of_the_resources_it_names() {
        let semantic = "Error adding/updating listener(s) outbound:240.0.0.1:8080: error adding listener: 'x' has duplicate address";
        let validation = "Proto constraint validation failed (FilterValidationError.Name: ...): name: \"outbound:[fd00:fd00::1]:80\" address {";
        for (text, refused, others_taken) in [
            (semantic, vec![NAMES[1]], true),
            (validation, vec![NAMES[2]], false),
            ("Error: bytes", vec![], false),
        ] {
            let verdict = read(text, NAMES.into_iter());
            let names: Vec<&str> = verdict.refused.keys().map(String::as_str).collect();
            assert_eq!((names, verdict.others_taken), (refused, others_taken), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_a_part_of_another_name_is_not_blamed_for_it() {
        let blamed = |text: &str, names: &[&str]| -> Vec<String> {
            read(text, names.iter().copied()).refused.into_keys().collect()
        };
        let list = |names: &str| format!("Error adding/updating cluster(s) {names}");
        let names = ["redis", "redis.cache", "redis-cache", "service:redis", "cache", "other"];
        for name in names {
            assert_eq!(blamed(&list(&format!("{name}: reason")), &names), [name]);
            assert_eq!(blamed(&format!("validation: name: \"{name}\" type: EDS"), &names), [name]);
        }
        assert_eq!(blamed(&list("redis: a, redis.cache: b"), &names), ["redis", "redis.cache"]);
        // The longer one is not among what was sent.
        assert!(blamed(&list("redis.cache: reason"), &["redis", "cache"]).is_empty());
        // A name may contain what names of others do not.
        assert_eq!(blamed(&list("a: b: reason"), &["a", "a: b"]), ["a: b"]);
    }

    #[test]
    fn each_refusal_of_a_list_has_its_own_reason() {
        let text = format!("Error adding/updating listener(s) {}: first\n{}: second\n", NAMES[0], NAMES[2]);
        let refused = read(&text, NAMES.into_iter()).refused;
        assert_eq!(refused[NAMES[0]], format!("{}: first", NAMES[0]));
        assert_eq!(refused[NAMES[2]], format!("{}: second", NAMES[2]));
    }

    #[test]
    fn the_end_of_a_long_reason_is_kept() {
        let text = format!("{} value length must be at least 1", "ä".repeat(MAX_REASON_BYTES));
        let reason = &read(&text, NAMES[..1].iter().copied()).refused[NAMES[0]];
        assert!(reason.len() < 2 * MAX_REASON_BYTES && reason.ends_with("at least 1"), "{reason}");
    }

    #[test]
    fn a_message_with_one_resource_needs_no_name() {
        let verdict = read("Error: bytes", NAMES[..1].iter().copied());
        assert!(verdict.refused.contains_key(NAMES[0]));
    }
}
