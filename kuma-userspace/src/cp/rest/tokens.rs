//! Tokens, as Kuma gives them: made of what is asked for, or the administrator's own. Only an admin is given one.
//! Keeps: a token is in the answer and nowhere else, and no cache keeps the answer. Called by rest::routes.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::asked::Asked;
use super::problem::{Given, Parameter, Problem};
use super::{Api, write};
use crate::cp::tokens::{ADMIN_SECRET, FieldError, Issuer, RequestError, TokenError};

const FAILED: &str = "Failed to issue a token";

/// Which token.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token {
    Dataplane,
    User,
}

/// Makes a token; the answer is the token as it is.
pub(super) async fn make(api: Api, of: Token, asked: Asked, sent: Body) -> Result<Response, Problem> {
    api.access.admin(&asked)?;
    write::json_only(&asked, FAILED)?;
    let sent: Bytes = write::read(&asked, sent, FAILED).await?;
    let token = signed(api.issuer, move |issuer| match of {
        Token::Dataplane => issuer.dataplane_request(&sent),
        Token::User => issuer.user_request(&sent),
    })
    .await?;
    Ok(secret("text/plain", token))
}

/// The administrator's token, in the shape of Kuma's secrets; who asks first makes it.
pub(super) async fn admin(State(api): State<Api>, asked: Asked) -> Result<Response, Problem> {
    api.access.admin(&asked)?;
    let token = signed(api.issuer, |issuer| Ok(issuer.admin()?)).await?;
    let item = json!({"type": "GlobalSecret", "name": ADMIN_SECRET, "data": STANDARD.encode(token)});
    Ok(secret("application/json", item.to_string()))
}

/// Signing reads and writes the store, and may make a key: not on a thread that answers.
async fn signed(
    issuer: Issuer,
    work: impl FnOnce(&Issuer) -> Result<String, RequestError> + Send + 'static,
) -> Result<String, Problem> {
    match tokio::task::spawn_blocking(move || work(&issuer)).await {
        Ok(made) => made.map_err(refused),
        Err(panicked) => {
            let detail = format!("the token was not signed: {panicked}");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED, detail))
        }
    }
}

fn refused(error: RequestError) -> Problem {
    match error {
        RequestError::Invalid(wrong) => {
            let parameter = |FieldError { field, reason }| Parameter::new(Given::Body, field, reason);
            Problem::invalid(FAILED, wrong.into_iter().map(parameter).collect())
        }
        RequestError::Failed(TokenError::Secret(error)) => Problem::busy(FAILED, write::chain(&error)),
        RequestError::Failed(error) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED, write::chain(&error))
        }
    }
}

fn secret(kind: &'static str, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::OK, headers, body).into_response()
}
