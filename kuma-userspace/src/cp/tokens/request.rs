//! What REST is asked to make, as Kuma's `POST /tokens/dataplane` and `POST /tokens/user`: JSON in, a token out.
//! Keeps: every mistake at once, each with its field. Called by REST, which has made sure that an administrator asks.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::issue::DEFAULT_VALID_SECS;
use super::{DataplaneIdentity, Issuer, TokenError, UserIdentity};

/// A mistake of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    /// Empty: the body as a whole.
    pub field: String,
    pub reason: String,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the request is not valid")]
    Invalid(Vec<FieldError>),
    #[error(transparent)]
    Failed(#[from] TokenError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DataplaneRequest {
    #[serde(default)]
    name: String,
    #[serde(default)]
    mesh: String,
    #[serde(default)]
    tags: Option<BTreeMap<String, Vec<String>>>,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    valid_for: String,
    /// Kuma's newer way to bind a token; nothing here has a workload.
    #[serde(default)]
    workload: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UserRequest {
    #[serde(default)]
    name: String,
    #[serde(default)]
    groups: Option<Vec<String>>,
    #[serde(default)]
    valid_for: String,
}

impl Issuer {
    /// Answers `POST /tokens/dataplane`. Blocks.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn dataplane_request(&self, body: &[u8]) -> Result<String, RequestError> {
        let DataplaneRequest { name, mesh, tags, kind, valid_for, workload } = parse(body)?;
        let mut wrong = Vec::new();
        let mut check = |holds: bool, field: &str, reason: String| {
            if !holds {
                wrong.push(FieldError { field: field.into(), reason });
            }
        };
        check(!mesh.is_empty(), "mesh", "cannot be empty".into());
        check(matches!(kind.as_str(), "" | "dataplane"), "type", format!("{kind} is not a valid proxy type"));
        check(
            workload.is_empty(),
            "workload",
            "tokens are not bound to workloads here: use name or tags".into(),
        );
        let valid_secs = valid_secs(&valid_for, Some(DEFAULT_VALID_SECS), &mut wrong);
        if !wrong.is_empty() {
            return Err(RequestError::Invalid(wrong));
        }
        let identity = DataplaneIdentity { mesh, name, tags: tags.unwrap_or_default() };
        Ok(self.dataplane(identity, valid_secs)?)
    }

    /// Answers `POST /tokens/user`. Blocks.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn user_request(&self, body: &[u8]) -> Result<String, RequestError> {
        let UserRequest { name, groups, valid_for } = parse(body)?;
        let mut wrong = Vec::new();
        if name.is_empty() {
            wrong.push(FieldError { field: "name".into(), reason: "cannot be empty".into() });
        }
        let valid_secs = valid_secs(&valid_for, None, &mut wrong);
        if !wrong.is_empty() {
            return Err(RequestError::Invalid(wrong));
        }
        Ok(self.user(UserIdentity { name, groups: groups.unwrap_or_default() }, valid_secs)?)
    }
}

fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, RequestError> {
    serde_json::from_slice(body).map_err(|error| {
        RequestError::Invalid(vec![FieldError { field: String::new(), reason: error.to_string() }])
    })
}

fn valid_secs(text: &str, default: Option<u64>, wrong: &mut Vec<FieldError>) -> u64 {
    let mut refuse = |reason: String| {
        wrong.push(FieldError { field: "validFor".into(), reason });
        0
    };
    match (text, default) {
        ("", Some(default)) => default,
        ("", None) => refuse("cannot be empty".into()),
        _ => match go_duration_secs(text) {
            Some(secs @ 1..) => secs,
            _ => refuse(format!("is invalid: {text:?} is no duration such as 24h or 1h30m")),
        },
    }
}

/// Go's durations, in whole seconds: `24h`, `1h30m`, `90s`.
fn go_duration_secs(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let (factor, length) = match rest[digits..].chars().next()? {
            'h' => (3_600, 1),
            'm' if !rest[digits..].starts_with("ms") => (60, 1),
            's' => (1, 1),
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[digits + length..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, secs) in [("24h", 86_400), ("1h30m", 5_400), ("90s", 90), ("0s", 0)] {
            assert_eq!(go_duration_secs(text), Some(secs), "{text}");
        }
        for text in ["", "h", "5", "1d", "1.5h", "-1h", "5ms", "99999999999999999h"] {
            assert_eq!(go_duration_secs(text), None, "{text}");
        }
    }
}
