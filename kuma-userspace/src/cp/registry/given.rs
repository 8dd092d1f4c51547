//! The resources that somebody gives to a control plane elsewhere: read and checked as it will read them, with their canonical
//! JSON. Keeps: every mistake at once; nothing that depends on what that control plane has or is set to. Called by cli.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::name_problem;
use crate::cp::resources::{body, field, files, read_one, refuse_kubernetes};
use crate::cp::violation::{FieldPath, Invalid, Place, Reader, Violation};
use crate::cp::yaml::{self, Node, Value};
use crate::model::kind::ResourceKey;
use crate::model::tags::Interner;

/// What is read.
#[derive(Clone, Debug)]
pub enum Input {
    /// A file, or a folder of them.
    Path(PathBuf),
    Text {
        name: PathBuf,
        text: String,
    },
}

/// A resource, and where it stands.
#[derive(Clone, Debug)]
pub struct Given {
    pub key: ResourceKey,
    /// Canonical JSON.
    pub body: Arc<str>,
    pub place: Place,
}

/// Reads all of them.
///
/// # Errors
/// Every mistake in every input.
pub fn read(inputs: &[Input]) -> Result<Vec<Given>, Invalid> {
    let mut draft = Draft::default();
    for input in inputs {
        match input {
            Input::Text { name, text } => draft.text(name, text),
            Input::Path(path) => draft.path(path),
        }
    }
    Invalid::check(draft.violations)?;
    Ok(draft.given)
}

#[derive(Default)]
struct Draft {
    violations: Vec<Violation>,
    given: Vec<Given>,
    seen: BTreeMap<ResourceKey, Place>,
    texts: Interner,
}

impl Draft {
    fn path(&mut self, path: &Path) {
        for file in files::expand(&[path.to_owned()], &mut self.violations) {
            let mut reader = Reader { file: file.as_path().into(), violations: &mut self.violations };
            if let Some(text) = files::read(&mut reader) {
                self.text(&file, &text);
            }
        }
    }

    fn text(&mut self, file: &Path, text: &str) {
        let file: Arc<Path> = file.into();
        let mut reader = Reader { file: file.clone(), violations: &mut self.violations };
        let documents = match yaml::parse(text) {
            Ok(documents) => documents,
            Err(malformed) => {
                let problem = format!("not readable as YAML: {}", malformed.problem);
                return reader.report(malformed.line, &FieldPath::Document, problem);
            }
        };
        if documents.is_empty() {
            reader.report(
                0,
                &FieldPath::Document,
                "it is empty: write a resource, with `type: MeshService` or another",
            );
        }
        for document in &documents {
            self.document(&file, document);
        }
    }

    fn document(&mut self, file: &Arc<Path>, node: &Node) {
        let mut reader = Reader { file: file.clone(), violations: &mut self.violations };
        if refuse_kubernetes(&mut reader, node) {
            return;
        }
        if matches!(node.value, Value::Map(_)) && field(node, "type").is_none() {
            let problem = "the field is missing: a control plane takes Kuma's resources, like `type: MeshService`; the short form \
                           and settings are for the files of `up -f` and `control-plane -f`";
            return reader.report(node.line, &FieldPath::Document.field("type"), problem);
        }
        let mut draft = read_one(&mut reader, node, std::mem::take(&mut self.texts));
        self.texts = draft.take_texts();
        for (key, place) in draft.named {
            if let Some(problem) = name_problem(&key.name) {
                let problem = format!("{:?}: {problem}", &*key.name);
                self.violations.push(Violation { place: place.clone(), problem });
            }
            if let Some(first) = self.seen.get(&key) {
                let problem = format!("{key} is given already at {first}: keep one of the two");
                self.violations.push(Violation { place, problem });
                continue;
            }
            self.seen.insert(key.clone(), place.clone());
            self.given.push(Given { key, body: body::canonical(node).into(), place });
        }
    }
}
