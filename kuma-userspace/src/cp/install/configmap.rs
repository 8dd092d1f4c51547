//! Finds the ConfigMaps of CoreDNS and kube-dns in a text of Kubernetes resources, and proves what a patch has changed.
//! Pure. Called by install.

use std::collections::BTreeSet;

use super::place;
use crate::cp::violation::{FieldPath, Reader};
use crate::cp::yaml::{self, Entry, Node, Value};

/// The ConfigMap that AKS and others import server blocks from.
const CUSTOM_NAME: &str = "coredns-custom";
/// The ConfigMap of kube-dns.
const KUBE_DNS_NAME: &str = "kube-dns";
/// Who has this label with [`RECONCILED`] is written back by the cluster.
const ADDON_LABEL: &str = "addonmanager.kubernetes.io/mode";
const RECONCILED: &str = "Reconcile";
/// Keys of a custom ConfigMap that are imported as server blocks.
const FRAGMENT_SUFFIX: &str = ".server";

/// Whose ConfigMap it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    CoreDns,
    CoreDnsCustom,
    KubeDns,
}

impl Kind {
    /// The key of `data` that is patched.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::CoreDns => "Corefile",
            Self::CoreDnsCustom => "kuma-dns.server",
            Self::KubeDns => "stubDomains",
        }
    }
}

/// A ConfigMap that we patch.
pub(super) struct ConfigMap<'n> {
    pub(super) kind: Kind,
    pub(super) name: &'n str,
    pub(super) line: u64,
    /// Where it says that the cluster writes it back.
    pub(super) managed: Option<u64>,
    /// Document and item in it: where it is found again after a change elsewhere.
    way: String,
    node: &'n Node,
    data: Option<&'n Entry>,
}

/// Every ConfigMap of CoreDNS or kube-dns, also in a List; whatever else is there is left alone.
pub(super) fn find<'n>(reader: &mut Reader<'_>, documents: &'n [Node]) -> Option<Vec<ConfigMap<'n>>> {
    let mut found = Vec::new();
    for (number, document) in documents.iter().enumerate() {
        let kind = text_of(document, "kind");
        match (kind, field(document, "items").map(|items| &items.node.value)) {
            (Some(kind), Some(Value::List(items))) if kind.ends_with("List") => {
                let numbered = items.iter().enumerate();
                found.extend(
                    numbered.filter_map(|(item, node)| configmap(node, format!("{number}.items[{item}]"))),
                );
            }
            _ => found.extend(configmap(document, number.to_string())),
        }
    }
    let mut sound = true;
    for configmap in &found {
        let mut seen = BTreeSet::new();
        for entry in configmap.entries().iter().filter(|entry| !seen.insert(&entry.key)) {
            let data = FieldPath::Document.field("data");
            reader.report(entry.line, &data.field(&entry.key), "the key is given twice: keep one of them");
            sound = false;
        }
    }
    sound.then_some(found)
}

fn configmap(node: &Node, way: String) -> Option<ConfigMap<'_>> {
    if text_of(node, "kind") != Some("ConfigMap") {
        return None;
    }
    let metadata = &field(node, "metadata")?.node;
    let name = text_of(metadata, "name")?;
    let data = field(node, "data");
    let has = |key| data.is_some_and(|data| field(&data.node, key).is_some());
    let kind = match name {
        CUSTOM_NAME => Kind::CoreDnsCustom,
        _ if has(Kind::CoreDns.key()) => Kind::CoreDns,
        KUBE_DNS_NAME => Kind::KubeDns,
        _ if has(Kind::KubeDns.key()) => Kind::KubeDns,
        _ => return None,
    };
    let label = field(metadata, "labels").and_then(|labels| field(&labels.node, ADDON_LABEL));
    let reconciled =
        label.filter(|label| matches!(&label.node.value, Value::Text(mode) if mode == RECONCILED));
    let managed = reconciled.filter(|_| kind == Kind::CoreDns).map(|label| label.line);
    Some(ConfigMap { kind, name, line: node.line, managed, way, node, data })
}

impl<'n> ConfigMap<'n> {
    fn entries(&self) -> &'n [Entry] {
        match self.data.map(|data| &data.node.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        }
    }

    /// A value of `data`.
    pub(super) fn value(&self, key: &str) -> Option<&'n Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// A text of `data`.
    pub(super) fn text(&self, key: &str) -> Option<&'n str> {
        match &self.value(key)?.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The other server blocks that are imported beside `key`.
    pub(super) fn neighbours(&self, key: &str) -> Vec<&'n str> {
        let others =
            self.entries().iter().filter(|entry| entry.key != key && entry.key.ends_with(FRAGMENT_SUFFIX));
        others.filter_map(|entry| self.text(&entry.key)).collect()
    }

    /// `text` with one more key in `data`, or `None` where that is written in a way that we do not change.
    pub(super) fn inserted(&self, text: &str, key: &str, value: &str) -> Option<String> {
        let Value::Map(fields) = &self.node.value else { return None };
        match self.data {
            Some(data) if braced(text, &data.node) => {
                into_braces(text, &data.node, key, &place::quoted(value))
            }
            Some(data) => {
                let first = self.entries().first()?;
                let indent = place::blanks(&text[place::line_offset(text, first.line)?..]);
                let at = place::line_offset(text, data.line + 1)?;
                let lines = place::indented(value, &format!("{indent}  "), "\n");
                Some(format!("{}{indent}{key}: |\n{lines}{}", &text[..at], &text[at..]))
            }
            None if braced(text, self.node) => {
                let data = format!("{{{}: {}}}", place::quoted(key), place::quoted(value));
                into_braces(text, self.node, "data", &data)
            }
            None => {
                // In front of a field that has its line for itself, and does not share it with a list's dash.
                let field = fields.iter().find(|field| field.key == "metadata")?;
                let at = place::line_offset(text, field.line)?;
                let indent = place::blanks(&text[at..]);
                if !text[at + indent.len()..].starts_with("metadata:") {
                    return None;
                }
                let lines = place::indented(value, &format!("{indent}    "), "\n");
                Some(format!("{}{indent}data:\n{indent}  {key}: |\n{lines}{}", &text[..at], &text[at..]))
            }
        }
    }
}

/// Is `new` what `old` was, with the one value set to `wanted`?
pub(super) fn only_differs_in(
    old_text: &str,
    old: &[Node],
    new: &str,
    configmap: &ConfigMap<'_>,
    wanted: &str,
) -> bool {
    let Ok(new_documents) = yaml::parse(new) else { return false };
    let changed = format!("{}.data.{}", configmap.way, configmap.kind.key());
    // An empty `data` is gone once it has a key.
    let emptied = format!("{}.data", configmap.way);
    let rest = |documents: &[Node]| {
        let mut leaves = leaves(documents);
        let value = leaves.iter().find(|(path, _)| *path == changed).map(|(_, value)| value.clone());
        leaves.retain(|(path, _)| *path != changed && *path != emptied);
        (leaves, value)
    };
    let ((before, _), (after, value)) = (rest(old), rest(&new_documents));
    let json = old_text.trim_start().starts_with('{');
    let still_json = !json || serde_json::from_str::<serde_json::Value>(new).is_ok();
    before == after && value == Some(format!("{wanted:?}")) && still_json
}

/// Every value with the way to it.
fn leaves(documents: &[Node]) -> Vec<(String, String)> {
    fn walk(node: &Node, way: &str, leaves: &mut Vec<(String, String)>) {
        match &node.value {
            Value::List(items) if !items.is_empty() => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(number, item)| walk(item, &format!("{way}[{number}]"), leaves));
            }
            Value::Map(entries) if !entries.is_empty() => {
                entries.iter().for_each(|entry| walk(&entry.node, &format!("{way}.{}", entry.key), leaves));
            }
            value => leaves.push((way.to_owned(), value.describe())),
        }
    }
    let mut leaves = Vec::new();
    documents
        .iter()
        .enumerate()
        .for_each(|(number, document)| walk(document, &number.to_string(), &mut leaves));
    leaves
}

fn field<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

fn text_of<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match &field(node, key)?.node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// Is the map written as JSON writes it?
fn braced(text: &str, node: &Node) -> bool {
    usize::try_from(node.at).is_ok_and(|at| text.get(at..).is_some_and(|rest| rest.starts_with('{')))
}

/// One more field at the front of a map in braces, with the blanks that its first one has.
fn into_braces(text: &str, node: &Node, key: &str, value: &str) -> Option<String> {
    let range = place::bracketed(text, node.at)?;
    let inside = &text[range.start + 1..range.end - 1];
    let gap = &inside[..inside.len() - inside.trim_start().len()];
    let comma = if inside.trim().is_empty() { "" } else { "," };
    let gap = if comma.is_empty() { "" } else { gap };
    let at = range.start + 1;
    Some(format!("{}{gap}{}: {value}{comma}{}", &text[..at], place::quoted(key), &text[at..]))
}
