//! What all of Kuma's resources have in common: mesh, name, labels, time of making; and fields that several kinds share.
//! Keeps: equal texts are one text in memory. Called by the readers of each kind.

use super::{Draft, mesh_name, required};
use crate::cp::violation::{FieldPath, Object, Reader, advice};
use crate::cp::yaml::{Node, Value};
use crate::model::kind::{Meta, PROTOCOL_TAG, ResourceKind, Tags};
use crate::model::resource::{PROTOCOLS, Protocol};
use crate::model::view::Port;

/// Fields that every resource of Kuma's may have, beside those of its kind.
const COMMON: [&str; 8] =
    ["type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "status"];

/// The fields of a resource and what it has in common with all others; nothing when that is wrong.
pub(super) fn open<'n>(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    node: &'n Node,
    kind: ResourceKind,
    own: &[&str],
) -> Option<(Object<'n>, Option<Meta>)> {
    let root = FieldPath::Document;
    let known: Vec<&str> = COMMON.iter().chain(own).copied().collect();
    let object = reader.object(node, &root, &known)?;
    let mesh = if kind.is_global() {
        // A mesh of a global resource means nothing, as in Kuma.
        Some("")
    } else {
        required(reader, &object, &root, "mesh", "default")
            .and_then(|node| mesh_name(reader, node, &root.field("mesh")))
    };
    let name_path = root.field("name");
    let name = required(reader, &object, &root, "name", "redis")
        .and_then(|node| reader.text(node, &name_path).map(|text| (text, node.line)));
    let labels = tags(reader, draft, &object, &root, "labels");
    let created_secs = created(reader, &object);
    let (Some(mesh), Some((name, line))) = (mesh, name) else { return Some((object, None)) };
    draft.named(kind, mesh, name, reader.place(line, &name_path));
    let meta = Meta { mesh: draft.texts.share(mesh), name: name.into(), labels, created_secs };
    Some((object, Some(meta)))
}

/// The fields of `spec`.
pub(super) fn spec<'n>(
    reader: &mut Reader<'_>,
    object: &Object<'n>,
    path: &FieldPath<'_>,
    example: &str,
    known: &[&str],
) -> Option<Object<'n>> {
    let node = required(reader, object, &FieldPath::Document, "spec", example)?;
    reader.object(node, path, known)
}

/// A map of texts; an absent one is empty.
pub(super) fn tags(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    object: &Object<'_>,
    path: &FieldPath<'_>,
    field: &str,
) -> Tags {
    let Some(node) = object.get(field) else { return Tags::new() };
    read_tags(reader, node, &path.field(field))
        .into_iter()
        .filter_map(|(key, node)| match &node.value {
            Value::Text(text) => Some((draft.texts.share(key), draft.texts.share(text))),
            _ => None,
        })
        .collect()
}

/// Tags are Kuma's: every name is allowed, values are texts that are not empty.
pub(super) fn read_tags<'n>(
    reader: &mut Reader<'_>,
    node: &'n Node,
    path: &FieldPath<'_>,
) -> Vec<(&'n str, &'n Node)> {
    let Value::Map(entries) = &node.value else {
        reader.report(node.line, path, format!("expected tags, found {}", node.value.describe()));
        return Vec::new();
    };
    let mut tags: Vec<(&str, &Node)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let path = path.field(&entry.key);
        if tags.iter().any(|(seen, _)| *seen == entry.key) {
            reader.report(entry.line, &path, "the tag is given twice: keep one of them");
        } else if reader.text(&entry.node, &path).is_some() {
            tags.push((&entry.key, &entry.node));
        }
    }
    tags
}

/// `port` and its like.
pub(super) fn port(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<Port> {
    let number = reader.integer(node, path, 1, u64::from(u16::MAX))?;
    u16::try_from(number).ok().map(Port::new)
}

/// A protocol of Kuma's.
pub(super) fn protocol(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<Protocol> {
    let text = reader.text(node, path)?;
    let protocol = Protocol::parse(text);
    if protocol.is_none() {
        let problem = format!("{text:?} is no protocol that Kuma knows: {}", advice(text, &PROTOCOLS));
        reader.report(node.line, path, problem);
    }
    protocol
}

/// The protocol in the tags of `object`, which stand at `path`; TCP when they do not say it.
pub(super) fn tag_protocol(
    reader: &mut Reader<'_>,
    object: &Object<'_>,
    path: &FieldPath<'_>,
) -> Option<Protocol> {
    let Some(Node { value: Value::Map(entries), .. }) = object.get("tags") else {
        return Some(Protocol::default());
    };
    match entries.iter().find(|entry| entry.key == PROTOCOL_TAG) {
        Some(entry) => protocol(reader, &entry.node, &path.field(PROTOCOL_TAG)),
        None => Some(Protocol::default()),
    }
}

fn created(reader: &mut Reader<'_>, object: &Object<'_>) -> i64 {
    let Some(node) = object.get("creationTime") else { return 0 };
    let path = FieldPath::Field(&FieldPath::Document, "creationTime");
    let Some(text) = reader.text(node, &path) else { return 0 };
    let secs = epoch_secs(text);
    if secs.is_none() {
        let problem = format!("{text:?} is no time: write it like 2026-01-31T12:00:00Z (RFC 3339)");
        reader.report(node.line, &path, problem);
    }
    secs.unwrap_or(0)
}

/// Seconds of the Unix epoch of an RFC 3339 time; parts of a second do not count.
fn epoch_secs(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !marks.iter().all(|(at, mark)| text.as_bytes().get(*at) == Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let valid =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - zone.len();
            let minutes = number(at + 1..at + 3)? * 60 + number(at + 4..at + 6)?;
            if *sign == b'+' { minutes * 60 } else { -minutes * 60 }
        }
        _ => return None,
    };
    // Days since the epoch of a date of the Gregorian calendar, years counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    valid.then_some(days * 86_400 + hour * 3_600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_rfc_3339_writes_them() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:01Z", Some(951_825_601)),
            ("2026-01-31T12:00:00.123456789+01:30", Some(1_769_855_400)),
            ("2026-01-31", None),
            ("2026-13-31T12:00:00Z", None),
            ("2026-01-31T12:00:00", None),
            ("yesterday, at about noon", None),
        ] {
            assert_eq!(epoch_secs(text), want, "{text}");
        }
    }
}
