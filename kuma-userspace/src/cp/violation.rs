//! Mistakes in resource files: each one with its place, in words, and all of them at once.
//! Keeps: a field is named as its author wrote it. Called by cp::resources and cp::settings.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::yaml::{Node, Value};

/// How alike two words must be (Jaro-Winkler, 0 to 1) for one to be suggested instead of the other.
const ALIKE: f64 = 0.8;

/// Mistakes that one message or status shows; whoever made more repairs these first.
pub(super) const MAX_SHOWN: usize = 100;

/// One mistake. Prints as one sentence: `mesh.yaml:3: services[0].protocol: ...`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub place: Place,
    pub problem: String,
}

/// Where something stands in the files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Empty: what was given is no file.
    pub file: Arc<Path>,
    /// Counted from 1; 0: the file as a whole.
    pub line: u64,
    /// Empty: the document as a whole.
    pub field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        match (self.file.as_os_str().is_empty(), self.field.is_empty()) {
            (true, _) => f.write_str(&self.field),
            (false, false) => write!(f, ": {}", self.field),
            (false, true) => Ok(()),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.to_string();
        if place.is_empty() { f.write_str(&self.problem) } else { write!(f, "{place}: {}", self.problem) }
    }
}

/// All mistakes of the files, at least one. Nothing of the files was used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invalid(Vec<Violation>);

impl Invalid {
    /// Nothing, when there is no mistake.
    pub(super) fn check(mut violations: Vec<Violation>) -> Result<(), Self> {
        violations.sort_by(|a, b| (&a.place.file, a.place.line).cmp(&(&b.place.file, b.place.line)));
        if violations.is_empty() { Ok(()) } else { Err(Self(violations)) }
    }

    /// Every mistake, by file and line.
    pub fn violations(&self) -> &[Violation] {
        &self.0
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return only.fmt(f);
        }
        write!(f, "{} mistakes:", self.0.len())?;
        self.0.iter().take(MAX_SHOWN).try_for_each(|violation| write!(f, "\n  {violation}"))?;
        match self.0.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for Invalid {}

/// The way to a field, built on the stack; it becomes text only when a mistake is reported.
#[derive(Clone, Copy)]
pub(super) enum FieldPath<'a> {
    Document,
    Field(&'a FieldPath<'a>, &'a str),
    Index(&'a FieldPath<'a>, usize),
}

impl FieldPath<'_> {
    pub(super) fn field<'b>(&'b self, name: &'b str) -> FieldPath<'b> {
        FieldPath::Field(self, name)
    }

    pub(super) fn index(&self, index: usize) -> FieldPath<'_> {
        FieldPath::Index(self, index)
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match self {
            Self::Document => Ok(()),
            Self::Field(Self::Document, name) if !name.is_empty() => f.write_str(name),
            Self::Field(Self::Document, name) => write!(f, "[{name:?}]"),
            Self::Field(parent, name) if plain(name) => write!(f, "{parent}.{name}"),
            Self::Field(parent, name) => write!(f, "{parent}[{name:?}]"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads fields of one file and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) file: Arc<Path>,
    pub(super) violations: &'a mut Vec<Violation>,
}

/// A map all of whose fields are known.
pub(super) struct Object<'n> {
    entries: Vec<(&'n str, &'n Node)>,
    pub(super) line: u64,
}

impl<'n> Object<'n> {
    /// The field's value; nothing when it is absent or null.
    pub(super) fn get(&self, field: &str) -> Option<&'n Node> {
        let (_, node) = self.entries.iter().find(|(key, _)| *key == field)?;
        (!matches!(node.value, Value::Null)).then_some(*node)
    }
}

impl Reader<'_> {
    /// Where a field stands.
    pub(super) fn place(&self, line: u64, path: &FieldPath<'_>) -> Place {
        Place { file: self.file.clone(), line, field: path.to_string() }
    }

    /// Notes a mistake.
    pub(super) fn report(&mut self, line: u64, path: &FieldPath<'_>, problem: impl Into<String>) {
        let violation = Violation { place: self.place(line, path), problem: problem.into() };
        self.violations.push(violation);
    }

    /// A map with no other fields than `known`; strangers and duplicates are reported.
    pub(super) fn object<'n>(
        &mut self,
        node: &'n Node,
        path: &FieldPath<'_>,
        known: &[&str],
    ) -> Option<Object<'n>> {
        let Value::Map(fields) = &node.value else {
            let found = node.value.describe();
            self.report(node.line, path, format!("expected fields ({}), found {found}", known.join(", ")));
            return None;
        };
        let mut entries: Vec<(&str, &Node)> = Vec::with_capacity(fields.len());
        for field in fields {
            let key = field.key.as_str();
            if !known.contains(&key) {
                let problem = format!("unknown field {key:?}: {}", advice(key, known));
                self.report(field.line, &path.field(key), problem);
            } else if entries.iter().any(|(seen, _)| *seen == key) {
                self.report(field.line, &path.field(key), "the field is given twice: keep one of them");
            } else {
                entries.push((key, &field.node));
            }
        }
        Some(Object { entries, line: node.line })
    }

    /// A list; anything else is reported.
    pub(super) fn list<'n>(&mut self, node: &'n Node, path: &FieldPath<'_>) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            other => {
                self.report(node.line, path, format!("expected a list, found {}", other.describe()));
                &[]
            }
        }
    }

    /// A text that is not empty.
    pub(super) fn text<'n>(&mut self, node: &'n Node, path: &FieldPath<'_>) -> Option<&'n str> {
        let problem = match &node.value {
            Value::Text(text) if text.is_empty() => "must not be empty".to_owned(),
            Value::Text(text) => return Some(text),
            Value::Number(number) => format!("expected a text, found the number {number}: put it in quotes"),
            Value::Bool(value) => format!("expected a text, found {value}: put it in quotes"),
            other => format!("expected a text, found {}", other.describe()),
        };
        self.report(node.line, path, problem);
        None
    }

    /// True or false.
    pub(super) fn boolean(&mut self, node: &Node, path: &FieldPath<'_>) -> Option<bool> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        let problem = format!("{} is not allowed: use true or false", node.value.describe());
        self.report(node.line, path, problem);
        None
    }

    /// A whole number in `min..=max`.
    pub(super) fn integer(&mut self, node: &Node, path: &FieldPath<'_>, min: u64, max: u64) -> Option<u64> {
        if let Value::Number(text) = &node.value
            && let Ok(number) = text.parse::<u64>()
            && (min..=max).contains(&number)
        {
            return Some(number);
        }
        let found = node.value.describe();
        self.report(
            node.line,
            path,
            format!("{found} is not allowed: use a whole number from {min} to {max}"),
        );
        None
    }
}

/// What to write instead of an unknown word: the nearest known one, or all of them.
pub(super) fn advice(word: &str, known: &[&str]) -> String {
    let score = |candidate: &str| strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
    let nearest =
        known.iter().map(|candidate| (score(candidate), *candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, candidate)) if likeness >= ALIKE => format!("did you mean {candidate:?}?"),
        _ => format!("use one of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_its_author_wrote_it() {
        let document = FieldPath::Document;
        let networking = document.field("networking");
        let inbound = networking.field("inbound");
        let item = inbound.index(2);
        let tags = item.field("tags");
        assert_eq!(
            tags.field("kuma.io/service").to_string(),
            "networking.inbound[2].tags[\"kuma.io/service\"]"
        );
    }

    #[test]
    fn advice_names_the_nearest_word_or_all() {
        assert_eq!(advice("cidr", &["domain", "CIDR", "CIDR6"]), "did you mean \"CIDR\"?");
        assert_eq!(advice("endpoint", &["mesh", "endpoints"]), "did you mean \"endpoints\"?");
        assert_eq!(advice("xyz", &["mesh", "endpoints"]), "use one of mesh, endpoints");
    }
}
