//! Inputs made from others: documents whose fields are changed as people and programs get them wrong, and octets that are
//! changed as wires and disks do. Keeps: the same seed gives the same input. Called by the fuzz suite.

use serde_json::{Map, Number, Value};

/// Deepest place that is looked for.
const MAX_DEPTH: usize = 12;

/// Values that are at the edge of something.
const EDGES: [&str; 46] = [
    "null",
    "true",
    "0",
    "-1",
    "1",
    "65535",
    "65536",
    "4294967296",
    "18446744073709551615",
    "1e308",
    "0.5",
    "\"\"",
    "\" \"",
    "\"0\"",
    "\"65536\"",
    "\"default\"",
    "\"*\"",
    "\".\"",
    "\"..\"",
    "\"a..b\"",
    "\"-a\"",
    "\"A.B\"",
    "\"xn--\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"240.0.0.1\"",
    "\"10.0.0.1:80\"",
    "\"10.0.0.1:0\"",
    "\"[::1]:80\"",
    "\"fd00:fd00::1\"",
    "\"0.0.0.0/0\"",
    "\"::/0\"",
    "\"240.0.0.0/33\"",
    "\"1h\"",
    "\"{{\"",
    "\"{{.x}}\"",
    "\"{{range .}}{{end}}\"",
    "\"{{template \\\"x\\\"}}\"",
    "\"{{printf \\\"%999999d\\\" 1}}\"",
    "\"{{ .DisplayName }}.{{ label \\\"x\\\" }}\"",
    "\"2026-13-99T99:99:99Z\"",
    "\"Everywhere\"",
    "[]",
    "{}",
    "[[]]",
    "{\"\":{}}",
];

/// Names of fields that stand somewhere in Kuma's resources.
const FIELDS: [&str; 24] = [
    "type",
    "mesh",
    "name",
    "labels",
    "spec",
    "selector",
    "ports",
    "port",
    "targetPort",
    "appProtocol",
    "tags",
    "networking",
    "inbound",
    "address",
    "kuma.io/service",
    "match",
    "endpoints",
    "template",
    "conf",
    "parameters",
    "services",
    "status",
    "creationTime",
    "no-such-field",
];

/// A source of chance that a seed decides (SplitMix64, Steele and others 2014).
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).expect("a usize has at most 64 bits");
        usize::try_from(self.next() % bound).expect("it is below a usize")
    }

    /// One of them.
    ///
    /// # Panics
    /// There is none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// The document with one to four things wrong.
pub fn document(dice: &mut Dice, document: &Value) -> Value {
    let mut changed = document.clone();
    for _ in 0..=dice.below(4) {
        change(dice, &mut changed, 0);
    }
    changed
}

/// Goes down by chance and changes what it finds.
fn change(dice: &mut Dice, value: &mut Value, depth: usize) {
    let go_on = depth < MAX_DEPTH && dice.below(6) > 0;
    match value {
        Value::Object(fields) if go_on && !fields.is_empty() => {
            let at = dice.below(fields.len());
            let key = fields.keys().nth(at).expect("it is below their number").clone();
            if dice.below(4) > 0 {
                return change(dice, fields.get_mut(&key).expect("it is there"), depth + 1);
            }
            field(dice, fields, &key);
        }
        Value::Array(items) if go_on && !items.is_empty() => {
            let at = dice.below(items.len());
            match dice.below(6) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                2 => items.insert(at, edge(dice)),
                _ => change(dice, &mut items[at], depth + 1),
            }
        }
        Value::String(text) if dice.below(2) == 0 => {
            let octets = octets(dice, text.as_bytes());
            *text = String::from_utf8_lossy(&octets).into_owned();
        }
        _ => *value = edge(dice),
    }
}

fn field(dice: &mut Dice, fields: &mut Map<String, Value>, key: &str) {
    match dice.below(5) {
        0 => drop(fields.remove(key)),
        1 => {
            let value = fields.remove(key).unwrap_or_default();
            fields.insert((*dice.one_of(&FIELDS)).to_owned(), value);
        }
        2 => {
            let value = fields.get(key).cloned().unwrap_or_default();
            fields.insert((*dice.one_of(&FIELDS)).to_owned(), value);
        }
        3 => drop(fields.insert((*dice.one_of(&FIELDS)).to_owned(), edge(dice))),
        _ => {
            let value = fields.remove(key).unwrap_or_default();
            fields.insert(key.to_owned(), Value::Array(vec![value]));
        }
    }
}

fn edge(dice: &mut Dice) -> Value {
    match dice.below(20) {
        0 => Value::String("a".repeat(dice.below(5_000))),
        1 => Value::Array(vec![Value::Number(Number::from(1)); dice.below(300)]),
        2 => (0..MAX_DEPTH * 20).fold(Value::Null, |inner, _| Value::Array(vec![inner])),
        _ => {
            let edge: &str = EDGES[dice.below(EDGES.len())];
            serde_json::from_str(edge).expect("every edge is JSON")
        }
    }
}

/// The octets with up to four changes: some flipped, cut out, doubled, or others put in.
pub fn octets(dice: &mut Dice, octets: &[u8]) -> Vec<u8> {
    let mut changed = octets.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(changed.len() + 1);
        let end = (at + dice.below(16)).min(changed.len());
        match dice.below(6) {
            0 => changed.truncate(at),
            1 => drop(changed.drain(at..end)),
            2 => {
                let piece = changed[at..end].to_vec();
                changed.splice(at..at, piece);
            }
            3 => {
                let edge = *dice.one_of(&EDGES);
                changed.splice(at..end, edge.bytes());
            }
            4 => {
                let octet = u8::try_from(dice.below(256)).expect("it is below 256");
                changed.insert(at, octet);
            }
            _ => {
                if let Some(octet) = changed.get_mut(at) {
                    *octet ^= 1 << dice.below(8);
                }
            }
        }
    }
    changed
}
