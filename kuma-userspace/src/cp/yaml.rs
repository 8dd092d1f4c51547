//! YAML documents as trees that remember their lines, so that every mistake can be reported with its place.
//! Keeps: reading never panics and is bounded in size and depth. Called by cp::resources.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

/// The largest file that is read: 500,000 short services.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Nodes of one file: a service in the short form has about ten.
const MAX_NODES: usize = 8_000_000;
/// Parser events of one file: a map or list has an end beside its start.
const MAX_EVENTS: usize = 2 * MAX_NODES;
/// Documents of one file: a Dataplane each.
const MAX_DOCUMENTS: usize = 1_000_000;
/// Maps and lists within each other. Kuma's resources have ten at most, and each takes its part of a thread's stack.
const MAX_DEPTH: usize = 32;

/// Events that aliases stand for: 30,000 services can share defaults of ten, and an alias bomb stops early.
const MAX_REPLAYED: usize = 300_000;

/// A value and the place where it stands.
#[derive(Debug)]
pub struct Node {
    pub line: u64,
    /// Octets of the text in front of it. [`MAX_FILE_BYTES`] fits.
    pub at: u32,
    pub value: Value,
}

/// What stands there. Entries keep their order and their duplicates.
#[derive(Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A field of a map.
#[derive(Debug)]
pub struct Entry {
    pub line: u64,
    pub key: String,
    pub node: Node,
}

/// Why a text is no YAML, and where.
#[derive(Debug)]
pub struct Malformed {
    pub line: u64,
    pub problem: String,
}

/// Every document of `text`; empty ones are left out.
///
/// # Errors
/// The first place where it stops being YAML.
pub fn parse(text: &str) -> Result<Vec<Node>, Malformed> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: MAX_EVENTS,
            max_depth: MAX_DEPTH,
            max_documents: MAX_DOCUMENTS,
            max_aliases: MAX_REPLAYED,
            max_merge_keys: MAX_REPLAYED,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        with_snippet: false,
    };
    let documents: Vec<Node> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| Malformed {
            line: error.location().map_or(0, |location| location.line()),
            problem: first_line(&error.to_string()),
        })?;
    Ok(documents.into_iter().filter(|node| !matches!(node.value, Value::Null)).collect())
}

/// The parser's own sentence without its drawing and without its place, which we print in front.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

impl Value {
    /// The value in words, for messages: `"redis"`, `80`, `a list`.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => value.to_string(),
            Self::Number(text) => text.clone(),
            Self::Text(text) => format!("{text:?}"),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a map".into(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let at = spanned.referenced.span().byte_offset().and_then(|at| u32::try_from(at).ok());
        Ok(Self { line: spanned.referenced.line(), at: at.unwrap_or(u32::MAX), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(Entry { line: key.referenced.line(), key: key.value, node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("{other:?} is no map"),
        }
    }

    #[test]
    fn fields_keep_their_lines_their_order_and_their_duplicates() {
        let documents =
            parse("b: 1\na:\n  - x\n  - {c: yes, d: 0x10}\nb: 010\n---\n---\nsecond: ~\n").unwrap();
        assert_eq!(documents.len(), 2);
        let entries = map(&documents[0]);
        let seen: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.line)).collect();
        assert_eq!(seen, [("b", 1), ("a", 2), ("b", 5)]);
        assert!(matches!(&entries[2].node.value, Value::Text(text) if text == "010"));
        let Value::List(items) = &entries[1].node.value else { panic!("{entries:?}") };
        let inner = map(&items[1]);
        assert!(matches!(&inner[0].node.value, Value::Text(text) if text == "yes"), "{inner:?}");
        assert_eq!((items[1].line, inner[1].node.value.describe()), (4, "16".to_owned()));
        assert_eq!(map(&documents[1])[0].line, 8);
    }

    #[test]
    fn a_text_that_is_no_yaml_says_where() {
        for text in ["a: [1, 2\nb: 3\n", "a: b: c\n", "a: *nowhere\n", "a: \"x\n"] {
            let malformed = parse(text).unwrap_err();
            assert!(malformed.line >= 1, "{malformed:?}");
            assert!(!malformed.problem.is_empty() && !malformed.problem.contains('\n'), "{malformed:?}");
        }
    }

    #[test]
    fn long_comments_are_read_over_wherever_they_stand() {
        let comment = "# commented out\n".repeat(500);
        let text = format!(
            "{comment}services:\n{comment}- service:\n{comment}    redis\n{comment}  endpoints:\n{comment}  - a\n{comment}  - b\n{comment}"
        );
        let documents = parse(&text).unwrap();
        assert_eq!(documents.len(), 1);
        let nested = format!(
            "a:\n{comment}  b:\n{comment}    - c:\n{comment}        d\n{comment}      e: f\n{comment}g: h\n---\n{comment}"
        );
        assert_eq!(parse(&nested).unwrap().len(), 1);
        assert!(parse(&comment).unwrap().is_empty());
    }

    #[test]
    fn many_services_may_share_their_defaults() {
        let mut text = String::from("defaults: &d {mesh: default, protocol: http}\nservices:\n");
        text += &"- {<<: *d, service: a}\n".repeat(2_000);
        let documents = parse(&text).unwrap();
        let Value::List(services) = &map(&documents[0])[1].node.value else { panic!("{documents:?}") };
        assert!(services.iter().all(|service| map(service).len() == 3));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            text += &format!("a{i}: &a{i} [{refs}]\n");
        }
        assert!(parse(&text).is_err());
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        let refused = parse(&nested(MAX_DEPTH + 1)).unwrap_err();
        assert!(refused.problem.contains("depth"), "{refused:?}");
    }
}
