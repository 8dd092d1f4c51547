//! Go's text/template, as Kuma uses it for names. Pure.
//! Keeps: a hostile template costs little and harms nobody but itself. Called by resources (trial) and plan.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use gtmpl_ng::{Context, FuncError, Limits, Template, Value};

use crate::model::kind::Tags;

/// A name has at most 253 bytes; a template that writes more makes none.
const MAX_OUTPUT_BYTES: usize = 4 * 1024;
/// Loops in a template for a name.
const MAX_ITERATIONS: usize = 1_000;
/// The longest that one rendering may take.
const DEADLINE: Duration = Duration::from_millis(100);

thread_local! {
    /// The crate's functions capture nothing: the labels of the resource that is being rendered stand here.
    static LABELS: RefCell<Tags> = RefCell::default();
}

/// A template, parsed.
pub(super) struct Parsed(Template);

impl Parsed {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let limits = Limits::default()
            .with_output_bytes(MAX_OUTPUT_BYTES)
            .with_function_output(MAX_OUTPUT_BYTES)
            .with_iterations(MAX_ITERATIONS)
            .with_total_iterations(MAX_ITERATIONS)
            .with_deadline(DEADLINE);
        let mut template = Template::with_limits(limits);
        template.add_func("label", label);
        template.parse(text).map_err(|error| error.to_string())?;
        Ok(Self(template))
    }

    /// Renders with parameters; one that is missing prints `<no value>`, as in Go.
    ///
    /// # Errors
    /// What went wrong, in the words of the template language.
    pub(super) fn with_parameters(&self, parameters: &Tags) -> Result<String, String> {
        self.render(&Tags::new(), Value::Map(values(parameters.iter())))
    }

    /// Renders with fields; one that is not there is an error, as with a struct in Go. `label "key"` reads `labels`.
    ///
    /// # Errors
    /// What went wrong, in the words of the template language.
    pub(super) fn with_fields(&self, fields: &[(&str, &str)], labels: &Tags) -> Result<String, String> {
        self.render(labels, Value::Object(values(fields.iter().copied())))
    }

    fn render(&self, labels: &Tags, value: Value) -> Result<String, String> {
        LABELS.with_borrow_mut(|current| current.clone_from(labels));
        self.0.render(&Context::from(value)).map_err(|error| error.to_string())
    }
}

fn values<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> HashMap<String, Value> {
    fields.map(|(name, value)| (name.to_owned(), Value::String(value.to_owned()))).collect()
}

fn label(arguments: &[Value]) -> Result<Value, FuncError> {
    let [Value::String(key)] = arguments else {
        return Err(FuncError::ExactlyXArgs("label".into(), 1));
    };
    let found = LABELS.with_borrow(|labels| labels.get(key).map(str::to_owned));
    found.map(Value::String).ok_or_else(|| FuncError::Generic(format!("label {key} not found")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn parameters_are_put_in_and_missing_ones_can_be_asked_for() {
        let there = tags(&[("service", "redis"), ("version", "v1")]);
        let render = |text: &str, tags: &Tags| Parsed::new(text).unwrap().with_parameters(tags).unwrap();
        assert_eq!(render("{{.version}}.{{.service}}.mesh", &there), "v1.redis.mesh");
        let without = tags(&[("service", "redis")]);
        let text = "{{if .version}}{{.version}}.{{end}}{{.service}}.mesh";
        assert_eq!(
            (render(text, &there), render(text, &without)),
            ("v1.redis.mesh".into(), "redis.mesh".into())
        );
        assert_eq!(render("{{.version}}", &without), "<no value>");
    }

    #[test]
    fn fields_and_labels_must_be_there() {
        let labels = tags(&[("team", "blue")]);
        let render = |text: &str| Parsed::new(text).unwrap().with_fields(&[("Name", "redis")], &labels);
        assert_eq!(render("{{ .Name }}.{{ label \"team\" }}"), Ok("redis.blue".into()));
        assert!(render("{{ label \"none\" }}").unwrap_err().contains("label none not found"));
        assert!(render("{{ .Nothing }}").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_template_makes_rendering_panic(text in "[{}. |\"$:=()a-z0-9<>-]{0,60}", inner in "[. |\"$:=()a-z0-9-]{0,30}") {
            for text in [text, format!("{{{{{inner}}}}}"), format!("{{{{if {inner}}}}}x{{{{end}}}}")] {
                if let Ok(template) = Parsed::new(&text) {
                    let _ = template.with_parameters(&tags(&[("a", "b")]));
                }
            }
        }
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let template = Parsed::new("{{range 100000000}}x{{end}}");
        assert!(template.and_then(|template| template.with_parameters(&Tags::new())).is_err());
        assert!(Parsed::new("{{.x").is_err());
    }
}
