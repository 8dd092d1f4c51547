//! Resources as people read and write them: YAML documents with the common fields first. Keeps: what `get -o yaml` prints,
//! `apply -f -` takes. Called by get.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::list::Item;
use crate::cli::table;

/// Fields that stand first, as everybody writes them.
const FIRST: [&str; 4] = ["type", "mesh", "name", "labels"];

/// An item whose common fields stand first.
struct InOrder<'i>(&'i Value);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(fields) = self.0 else { return self.0.serialize(serializer) };
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
        let rest = fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
        for (name, value) in first.chain(rest) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A YAML document of a JSON value.
pub(in crate::cli) fn yaml(value: &Value) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(&InOrder(value));
    text.map_err(|error| anyhow::anyhow!("cannot write this as YAML: {error}"))
}

/// Prints each item as a document.
pub(in crate::cli) fn print_yaml(items: &[Item]) -> anyhow::Result<()> {
    let documents = items.iter().map(|item| yaml(&item.0)).collect::<anyhow::Result<Vec<_>>>()?;
    if !documents.is_empty() {
        table::print(&documents.join("---\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    use crate::cp::yaml as reader;

    /// What our own reader makes of a YAML text, as JSON.
    fn read(text: &str) -> Value {
        fn plain(value: &reader::Value) -> Value {
            match value {
                reader::Value::Null => Value::Null,
                reader::Value::Bool(value) => json!(value),
                reader::Value::Number(number) => serde_json::from_str(number).unwrap(),
                reader::Value::Text(text) => json!(text),
                reader::Value::List(items) => items.iter().map(|item| plain(&item.value)).collect(),
                reader::Value::Map(entries) => {
                    entries.iter().map(|entry| (entry.key.clone(), plain(&entry.node.value))).collect()
                }
            }
        }
        plain(&reader::parse(text).unwrap()[0].value)
    }

    #[test]
    fn common_fields_stand_first() {
        let item = json!({"creationTime": "2026-01-01T00:00:00Z", "labels": {"a": "1"}, "mesh": "m", "name": "x", "type": "T"});
        let text = yaml(&item).unwrap();
        let order: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(order, ["type", "mesh", "name", "labels", "creationTime"], "{text}");
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts() {
        let odd = [
            "yes",
            "no",
            "true",
            "null",
            "~",
            "010",
            "1.5",
            "0x1f",
            "1_000",
            "",
            " a",
            "a: b",
            "# x",
            "- x",
            "{{.a}}",
            "*",
            "&a",
            "a\nb",
            "é\u{1F600}",
            "2026-01-01",
            ".inf",
            "@x",
            "%y",
            "'",
            "\"",
            "\\",
            "\t",
            "12e3",
            "a #b",
            "on",
            "=",
            "<<",
        ];
        let item = json!({"type": "Mesh", "name": "m", "values": odd});
        assert_eq!(read(&yaml(&item).unwrap()), item);
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_as_what_it_was(texts in proptest::collection::vec(("[a-z/.]{1,8}", "\\PC{0,12}"), 1..6), number in any::<u32>()) {
            let labels: serde_json::Map<String, Value> = texts.into_iter().map(|(key, text)| (key, json!(text))).collect();
            let item = json!({"type": "Mesh", "labels": labels, "n": number, "list": [{"a": [1, 2]}, []], "map": {}});
            prop_assert_eq!(read(&yaml(&item).unwrap()), item);
        }
    }
}
