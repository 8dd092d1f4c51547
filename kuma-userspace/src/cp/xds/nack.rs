//! Which resources a NACK is about, and what became of the others of the same message. Pure. Envoy says it in text
//! only; what it does was tried with 1.40. Called by subscription.

/// How Envoy begins when it took the good resources of a message and left out the bad ones. Any other refusal (bytes
/// that do not decode, a validation rule) left out the whole message.
const PARTIAL: [&str; 2] = ["Error adding/updating listener(s)", "Error adding/updating cluster(s)"];

/// What a NACK says.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// The resources that are named in the text.
    pub(super) refused: Vec<String>,
    /// Were the others of the message taken?
    pub(super) others_taken: bool,
}

/// Reads the text of a NACK of a message that held the resources `names`.
pub(super) fn read<'a>(text: &str, names: impl Iterator<Item = &'a str> + Clone) -> Verdict {
    let mut all = names.clone();
    let only = match (all.next(), all.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    };
    let refused = match only {
        Some(only) => vec![only.to_owned()],
        None => names.filter(|name| mentions(text, name)).map(str::to_owned).collect(),
    };
    let others_taken = PARTIAL.iter().any(|start| text.contains(start)) && !refused.is_empty();
    Verdict { refused, others_taken }
}

/// Is `name` in the text as a whole word? `outbound:240.0.0.1:80` is not in `outbound:240.0.0.1:8080`.
fn mentions(text: &str, name: &str) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty()
        && text
            .match_indices(name)
            .any(|(at, _)| !text[..at].ends_with(in_name) && !text[at + name.len()..].starts_with(in_name))
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
            assert_eq!(
                verdict,
                Verdict { refused: refused.into_iter().map(str::to_owned).collect(), others_taken }
            );
        }
    }

    #[test]
    fn a_message_with_one_resource_needs_no_name() {
        let verdict = read("Error: bytes", NAMES[..1].iter().copied());
        assert_eq!(verdict.refused, [NAMES[0]]);
    }
}
