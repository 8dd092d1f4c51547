//! Resources as JSON: what REST is given, and the canonical form in which a document is kept.
//! Keeps: the same resource has the same octets, however its author ordered and spaced it; what others decide (times, kri,
//! status) is not in them. Called by cp::resources and cp::registry.

use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::cp::yaml::{Entry, Malformed, Node, Value};

/// Fields that stand first, as everybody writes them.
const FIRST: [&str; 4] = ["type", "mesh", "name", "labels"];
/// Fields that are not the author's to decide.
const OTHERS: [&str; 4] = ["creationTime", "modificationTime", "kri", "status"];

/// Reads a body.
///
/// # Errors
/// The first place where it stops being JSON.
pub(in crate::cp) fn parse(body: &[u8]) -> Result<Node, Malformed> {
    let parsed = serde_json::from_slice::<Json>(body).map(|json| json.0);
    parsed.map_err(|error| Malformed {
        line: u64::try_from(error.line()).unwrap_or(0),
        problem: error.to_string(),
    })
}

/// The document as canonical JSON: the common fields first, all others by name.
pub(in crate::cp) fn canonical(document: &Node) -> String {
    let mut text = String::with_capacity(256);
    match &document.value {
        Value::Map(entries) => {
            let mut fields = sorted(entries);
            fields.retain(|entry| !OTHERS.contains(&entry.key.as_str()));
            fields.sort_by_key(|entry| {
                FIRST.iter().position(|first| *first == entry.key).unwrap_or(FIRST.len())
            });
            write_map(&mut text, &fields);
        }
        other => write_value(&mut text, other),
    }
    text
}

/// Without what is null, which is as if it were absent, and by name; of two of one name the first.
fn sorted(entries: &[Entry]) -> Vec<&Entry> {
    let mut fields: Vec<&Entry> =
        entries.iter().filter(|entry| !matches!(entry.node.value, Value::Null)).collect();
    fields.sort_by(|a, b| a.key.cmp(&b.key));
    fields.dedup_by(|later, first| later.key == first.key);
    fields
}

fn write_map(text: &mut String, fields: &[&Entry]) {
    text.push('{');
    for (at, entry) in fields.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        write_text(text, &entry.key);
        text.push(':');
        write_value(text, &entry.node.value);
    }
    text.push('}');
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        // What is too large for JSON was a text to its author's reader, too.
        Value::Number(number) if number.parse::<f64>().is_ok_and(f64::is_finite) => text.push_str(number),
        Value::Number(number) => write_text(text, number),
        Value::Text(value) => write_text(text, value),
        Value::List(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write_value(text, &item.value);
            }
            text.push(']');
        }
        Value::Map(entries) => write_map(text, &sorted(entries)),
    }
}

fn write_text(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                write!(text, "\\u{:04x}", u32::from(c)).expect("a String takes every write");
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// A value without a place.
struct Json(Node);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(JsonVisitor)?;
        Ok(Self(Node { line: 0, at: 0, value }))
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
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

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Json(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, Json(node))) = map.next_entry::<String, Json>()? {
            entries.push(Entry { line: 0, key, node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cp::yaml;

    #[test]
    fn a_document_has_one_form_however_it_was_written() {
        let want = r#"{"type":"Mesh","name":"a","labels":{"x":"1"},"a":[1,{"b":true,"c":"\"\n"}],"z":1.5}"#;
        let yaml = "z: 1.5\nlabels: {x: '1'}\nname: a\nstatus: {a: b}\ncreationTime: now\na: [1, {c: \"\\\"\\n\", b: true}]\n\
                    none: ~\ntype: Mesh\n";
        assert_eq!(canonical(&yaml::parse(yaml).unwrap()[0]), want);
        assert_eq!(canonical(&parse(want.as_bytes()).unwrap()), want);
    }

    #[test]
    fn a_body_that_is_no_json_says_where() {
        for text in ["", "{", "{\"a\": 1,}", "a: b", "[1] 2", "{\"a\": \u{1}}"] {
            let malformed = parse(text.as_bytes()).unwrap_err();
            assert!(malformed.problem.contains("line"), "{text}: {}", malformed.problem);
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse(b"{\"a\": \"\xff\"}").is_err());
    }

    proptest! {
        #[test]
        fn canonical_json_reads_as_itself(texts in proptest::collection::vec(("\\PC{0,8}", any::<String>()), 0..5)) {
            let entry = |(key, text): (String, String)| {
                let node = |value| Node { line: 0, at: 0, value };
                Entry { line: 0, key, node: node(Value::List(vec![node(Value::Text(text))])) }
            };
            let value = Value::Map(texts.into_iter().map(entry).collect());
            let text = canonical(&Node { line: 0, at: 0, value });
            prop_assert_eq!(&canonical(&parse(text.as_bytes()).unwrap()), &text);
        }
    }
}
