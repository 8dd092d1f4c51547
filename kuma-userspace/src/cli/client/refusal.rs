//! What a control plane says when it does not do what it was asked: Kuma's error object, in words. Called by http.

use std::fmt;

use hyper::StatusCode;
use serde::Deserialize;

use crate::cli::outcome::Code;

/// Longest text that is quoted from a server that sends something else.
const MAX_QUOTED: usize = 200;

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) struct Refusal {
    pub(super) status: u16,
    text: String,
    fields: Vec<String>,
}

#[derive(Deserialize)]
struct Body {
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    invalid_parameters: Option<Vec<Parameter>>,
}

#[derive(Deserialize)]
struct Parameter {
    #[serde(default)]
    field: String,
    reason: String,
}

impl Refusal {
    /// The answer's words; those of its status when it is no error object.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Self {
        let Ok(read) = serde_json::from_slice::<Body>(body) else {
            let said: String = String::from_utf8_lossy(body).trim().chars().take(MAX_QUOTED).collect();
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            return Self { status: status.as_u16(), text: format!("{status}{said}"), fields: Vec::new() };
        };
        let in_words = |Parameter { field, reason }: Parameter| match field.as_str() {
            "" => reason,
            field => format!("{field}: {reason}"),
        };
        let fields: Vec<String> =
            read.invalid_parameters.unwrap_or_default().into_iter().map(in_words).collect();
        let text = match (read.title.trim_end_matches('.'), read.detail.trim_end_matches('.')) {
            (title, "") => title.to_owned(),
            (title, detail) if detail.contains(title) => detail.to_owned(),
            (title, detail) => format!("{title}: {detail}"),
        };
        Self { status: status.as_u16(), text, fields }
    }

    /// Is there no such resource?
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404
    }

    /// What the process ends with.
    pub(super) fn code(&self) -> Code {
        match self.status {
            400 | 422 => Code::BadInput,
            401 | 403 => Code::NotSupported,
            503 => Code::NotReady,
            _ => Code::Failed,
        }
    }

    /// What to do about it, where the server cannot know.
    fn advice(&self) -> &'static str {
        match self.status {
            401 => ": name a file with a token with --token-file",
            403 => {
                ": changes need an admin token (--token-file), or to be asked on the control plane's own machine"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fields.as_slice() {
            [] => write!(f, "{}{}", self.text, self.advice()),
            [only] => f.write_str(only),
            many => {
                write!(f, "{}", self.text)?;
                many.iter().try_for_each(|field| write!(f, "\n  {field}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> String {
        Refusal::read(StatusCode::from_u16(status).unwrap(), body.as_bytes()).to_string()
    }

    #[test]
    fn kumas_error_objects_become_sentences() {
        let one = r#"{"type":"/x","status":400,"title":"Bad Request","detail":"Resource is not valid","invalid_parameters":[{"field":"spec.ports[0].port","reason":"must be from 1 to 65535","source":"body"}]}"#;
        assert_eq!(said(400, one), "spec.ports[0].port: must be from 1 to 65535");
        let two = r#"{"status":400,"title":"Could not create a resource","detail":"Resource is not valid","invalid_parameters":[{"field":"a","reason":"x"},{"field":"","reason":"y"}]}"#;
        assert_eq!(said(400, two), "Could not create a resource: Resource is not valid\n  a: x\n  y");
        assert_eq!(said(404, r#"{"title":"Not Found","invalid_parameters":null}"#), "Not Found");
        assert!(
            said(403, r#"{"title":"Access Denied","detail":"user is not admin"}"#).contains("--token-file")
        );
    }

    #[test]
    fn what_is_no_error_object_is_quoted_briefly() {
        assert_eq!(said(502, "<html>"), "502 Bad Gateway: <html>");
        assert_eq!(said(500, ""), "500 Internal Server Error");
        assert!(said(500, &"x".repeat(5_000)).len() < 300);
    }
}
