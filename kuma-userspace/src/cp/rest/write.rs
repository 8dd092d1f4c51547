//! PUT and DELETE of a resource: who may, in which form, on what condition, and what came of it.
//! Keeps: a body is bounded in size and time; whatever is wrong with it is answered with its field. Called by rest::routes and rest::tokens.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use super::asked::Asked;
use super::problem::{Given, Parameter, Problem};
use super::{Api, etag};
use crate::cp::registry::{PutOutcome, Refusal};
use crate::cp::resources::body;
use crate::cp::store::documents::Expected;
use crate::cp::yaml;
use crate::model::kind::ResourceKey;

/// The largest resource: a ZoneIngress with some ten thousand services.
pub(super) const MAX_BODY_BYTES: usize = 4 << 20;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// Types that a browser's page cannot send to another site unasked.
const JSON: &str = "application/json";
const YAML: [&str; 4] = ["application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"];
/// Says of a PUT what it did.
const OUTCOME: &str = "kuma-dns-outcome";

const PUT: &str = "Could not process a resource";
const DELETE: &str = "Could not delete a resource";

pub(super) async fn put(api: Api, key: ResourceKey, asked: Asked, sent: Body) -> Result<Response, Problem> {
    api.access.admin(&asked)?;
    let form = form(&asked)?;
    let expected = expected(&asked, PUT)?;
    let sent = read(&asked, sent, PUT).await?;
    let given = if form == Form::Yaml { from_yaml(&sent)? } else { sent };
    let outcome = api.registry.put(key, given, expected).await.map_err(|refusal| refused(PUT, refusal))?;
    let (status, word, revision) = match outcome {
        PutOutcome::Created { revision } => (StatusCode::CREATED, "created", revision),
        PutOutcome::Updated { revision } => (StatusCode::OK, "configured", revision),
        PutOutcome::Unchanged { revision } => (StatusCode::OK, "unchanged", revision),
    };
    let mut response = json(status, "{}");
    response.headers_mut().insert(OUTCOME, HeaderValue::from_static(word));
    response.headers_mut().insert(ETAG, etag(revision));
    Ok(response)
}

pub(super) async fn delete(api: Api, key: ResourceKey, asked: Asked) -> Result<Response, Problem> {
    api.access.admin(&asked)?;
    let expected = expected(&asked, DELETE)?;
    api.registry.delete(&key, expected).await.map_err(|refusal| refused(DELETE, refusal))?;
    Ok(json(StatusCode::OK, "{}"))
}

pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let header = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [header], body.into()).into_response()
}

/// How a resource is written down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Yaml,
}

fn form(asked: &Asked) -> Result<Form, Problem> {
    let given = asked.header(CONTENT_TYPE).unwrap_or_default();
    let plain = given.split(';').next().unwrap_or_default().trim();
    if plain.eq_ignore_ascii_case(JSON) {
        return Ok(Form::Json);
    }
    if YAML.iter().any(|known| plain.eq_ignore_ascii_case(known)) {
        return Ok(Form::Yaml);
    }
    let reason = format!("{given:?} is not read here: send `Content-Type: {JSON}`, or {}", YAML[0]);
    let parameter = Parameter::new(Given::Header, "content-type", reason);
    Err(Problem::field(StatusCode::UNSUPPORTED_MEDIA_TYPE, PUT, parameter))
}

/// Refuses what is not sent as JSON, which a browser's page cannot send to another site unasked.
pub(super) fn json_only(asked: &Asked, title: &'static str) -> Result<(), Problem> {
    if form(asked).is_ok_and(|form| form == Form::Json) {
        return Ok(());
    }
    let reason = format!("send `Content-Type: {JSON}`");
    let parameter = Parameter::new(Given::Header, "content-type", reason);
    Err(Problem::field(StatusCode::UNSUPPORTED_MEDIA_TYPE, title, parameter))
}

/// One YAML document as JSON.
fn from_yaml(text: &[u8]) -> Result<Bytes, Problem> {
    let wrong = |reason| Problem::invalid(PUT, vec![Parameter::new(Given::Body, "", reason)]);
    let text = std::str::from_utf8(text).map_err(|error| wrong(format!("the body is no UTF-8: {error}")))?;
    let documents = yaml::parse(text).map_err(|malformed| {
        wrong(format!("not readable as YAML: line {}: {}", malformed.line, malformed.problem))
    })?;
    match documents.as_slice() {
        [document] => Ok(body::canonical(document).into()),
        others => Err(wrong(format!("{} documents: send one", others.len()))),
    }
}

/// What the request's conditions ask the resource to be: `If-None-Match: *` not there, `If-Match: "REVISION"` unchanged.
fn expected(asked: &Asked, title: &'static str) -> Result<Expected, Problem> {
    let wrong = |name: &str, reason: String| {
        Problem::invalid(title, vec![Parameter::new(Given::Header, name, reason)])
    };
    let given = (asked.headers.contains_key(IF_MATCH), asked.headers.contains_key(IF_NONE_MATCH));
    match (asked.header(IF_MATCH), asked.header(IF_NONE_MATCH)) {
        _ if given == (false, false) => Ok(Expected::Any),
        (None, Some("*")) if !given.0 => Ok(Expected::Absent),
        (Some(tag), None) if !given.1 => {
            let revision = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"')?.parse().ok());
            revision.map(Expected::Revision).ok_or_else(|| {
                wrong("if-match", format!("{tag:?} is no revision: send what ETag said, like \"17\""))
            })
        }
        _ if given == (true, true) => Err(wrong("if-match", "not together with if-none-match".into())),
        _ if given.0 => Err(wrong("if-match", "no revision: send what ETag said, like \"17\"".into())),
        _ => Err(wrong("if-none-match", "only * is taken: the resource must not exist".into())),
    }
}

pub(super) async fn read(asked: &Asked, sent: Body, title: &'static str) -> Result<Bytes, Problem> {
    let too_large = || {
        let reason = format!("the body has more than {MAX_BODY_BYTES} bytes");
        Problem::field(StatusCode::PAYLOAD_TOO_LARGE, title, Parameter::new(Given::Body, "", reason))
    };
    let said = asked.header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if said.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    match timeout(BODY_LIMIT, Limited::new(sent, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let reason = format!("the body cannot be read: {error}");
            Err(Problem::field(StatusCode::BAD_REQUEST, title, Parameter::new(Given::Body, "", reason)))
        }
        Err(_elapsed) => {
            let reason = format!("the body did not arrive within {} s", BODY_LIMIT.as_secs());
            Err(Problem::field(StatusCode::REQUEST_TIMEOUT, title, Parameter::new(Given::Body, "", reason)))
        }
    }
}

fn refused(title: &'static str, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Invalid(invalid) => {
            let parameter = |violation: &crate::cp::Violation| {
                Parameter::new(Given::Body, violation.place.field.clone(), violation.problem.clone())
            };
            Problem::invalid(title, invalid.violations().iter().map(parameter).collect())
        }
        Refusal::NotFound { .. } => Problem::not_found(title),
        Refusal::InFile { .. } | Refusal::NotGiven { .. } => {
            Problem::new(StatusCode::CONFLICT, title, refusal.to_string())
        }
        Refusal::Stale { .. } => Problem::new(StatusCode::PRECONDITION_FAILED, title, refusal.to_string()),
        Refusal::Store(_) | Refusal::Late | Refusal::Ending => Problem::busy(title, chain(&refusal)),
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
