//! Errors as Kuma writes them: `type`, `status`, `title`, `detail`, every wrong field in `invalid_parameters`; and `details` and
//! `causes`, which older kumactls read. Keeps: whatever goes wrong is answered in this shape. Called by all of rest.

use axum::Json;
use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Kuma's word for errors that have no page of their own.
const TYPE: &str = "/std-errors";
/// When to come again after a 503.
const RETRY_AFTER_SECS: &str = "1";

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Problem(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    title: &'static str,
    detail: String,
    parameters: Vec<Parameter>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// One wrong field, and where it was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Parameter {
    pub(super) field: String,
    pub(super) reason: String,
    pub(super) source: Given,
}

/// The part of a request that holds a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Given {
    Body,
    Query,
    Header,
}

impl Parameter {
    pub(super) fn new(source: Given, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), source }
    }
}

impl Problem {
    pub(super) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self(Box::new(Told { status, title, detail, parameters: Vec::new(), header: None }))
    }

    /// Fields are wrong, all of them named.
    pub(super) fn invalid(title: &'static str, parameters: Vec<Parameter>) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, title, "Resource is not valid");
        problem.0.parameters = parameters;
        problem
    }

    /// One field is wrong.
    pub(super) fn field(status: StatusCode, title: &'static str, parameter: Parameter) -> Self {
        let mut problem = Self::new(status, title, parameter.reason.clone());
        problem.0.parameters.push(parameter);
        problem
    }

    pub(super) fn not_found(title: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, title, "Not found")
    }

    /// Try again in a moment.
    pub(super) fn busy(title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, title, detail)
            .with(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS))
    }

    /// A token is needed, or another one.
    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Access Denied", detail)
            .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Access Denied", detail)
    }

    /// Only these methods are answered here.
    pub(super) fn method(allowed: &HeaderValue) -> Self {
        let methods = allowed.to_str().unwrap_or_default().replace(',', ", ");
        let detail = format!("allowed here: {methods}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail).with(ALLOW, allowed.clone())
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }
}

#[derive(Serialize)]
struct Written<'p> {
    r#type: &'static str,
    status: u16,
    title: &'p str,
    detail: &'p str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    invalid_parameters: &'p [Parameter],
    details: &'p str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause<'p>>,
}

#[derive(Serialize)]
struct Cause<'p> {
    field: &'p str,
    message: &'p str,
}

impl<'p> Cause<'p> {
    fn of(wrong: &'p Parameter) -> Self {
        Self { field: &wrong.field, message: &wrong.reason }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Told { status, title, detail, parameters, header } = *self.0;
        let written = Written {
            r#type: TYPE,
            status: status.as_u16(),
            title,
            detail: &detail,
            invalid_parameters: &parameters,
            details: &detail,
            causes: parameters.iter().map(Cause::of).collect(),
        };
        let mut response = (status, Json(written)).into_response();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
