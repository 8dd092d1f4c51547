//! A request before its body: who asks, over which socket, for which mesh and name, with which parameters and headers.
//! Keeps: what cannot be read is refused in Kuma's shape, as everything else. Called by rest::routes.

use std::fmt;
use std::net::SocketAddr;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;

use super::problem::Problem;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) remote: SocketAddr,
    /// Where he came in.
    pub(super) local: SocketAddr,
    pub(super) scheme: &'static str,
}

/// What the URL names; empty where it does not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Names {
    pub(super) mesh: String,
    pub(super) name: String,
}

/// How this server is called by who asks. Prints as the beginning of a URL.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) scheme: &'static str,
    pub(super) host: String,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)
    }
}

/// The request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) peer: Peer,
    pub(super) names: Names,
    pub(super) query: Vec<(String, String)>,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
}

impl Asked {
    /// A header's text; nothing when it is absent or no text.
    pub(super) fn header(&self, name: impl axum::http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn base(&self) -> Base {
        let host = self.header(HOST).map_or_else(|| self.peer.local.to_string(), str::to_owned);
        Base { scheme: self.peer.scheme, host }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let refused = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "Bad Request", reason);
        let names = match Path::<Names>::from_request_parts(parts, state).await {
            Ok(Path(names)) => names,
            Err(rejection) => return Err(refused(rejection.body_text())),
        };
        let Query(query) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| refused(rejection.body_text()))?;
        let peer = *parts.extensions.get::<Peer>().expect("the server says of each request who asks");
        Ok(Self { peer, names, query, uri: parts.uri.clone(), headers: parts.headers.clone() })
    }
}
