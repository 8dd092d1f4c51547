//! Requests to the control plane and their answers. Keeps: connections are used again, answers are bounded in size and time,
//! a control plane that says "not now" is asked again for a while. Called by get, apply, delete, generate and status.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::{Instant, sleep, timeout};

use super::address::Address;
use super::connect::{self, ConnectError, Wire};
use super::refusal::Refusal;
use crate::cli::outcome::{Code, Failure};

/// How long one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection is kept without a request.
const IDLE: Duration = Duration::from_secs(20);
/// A page of resources is far below it.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// For how long a control plane that says "not now" is asked again: longer than a new leader takes.
const BUSY_DEADLINE: Duration = Duration::from_secs(20);
/// Rests between two tries, doubled from the first to the last.
const FIRST_REST: Duration = Duration::from_millis(100);
const LAST_REST: Duration = Duration::from_secs(2);
/// Our own header: what a PUT did.
const OUTCOME: &str = "kuma-dns-outcome";

/// Why there is no answer, or none that helps.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ClientError {
    #[error(
        "no control plane answers at {address}: start one with `kuma-dns up -f mesh.yaml` or `kuma-dns control-plane`, or name another with --address"
    )]
    Unreachable { address: Address, source: Arc<ConnectError> },
    #[error("{address} did not answer within {} s", ANSWER_DEADLINE.as_secs())]
    Silent { address: Address },
    #[error("the connection to {address} broke")]
    Broken { address: Address, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{address} answers with more than {MAX_ANSWER_BYTES} bytes")]
    TooLarge { address: Address },
    #[error(
        "{address} does not answer as a control plane does ({found}): is this its REST server (port 5681)?"
    )]
    NotOurs { address: Address, found: String },
    #[error("{address} refused: {refusal}")]
    Refused { address: Address, refusal: Refusal },
}

impl ClientError {
    /// Was it about this one resource, so that others may go better?
    pub(super) fn is_of_one(&self) -> bool {
        let of_all = |status: u16| status >= 500 || matches!(status, 401 | 403 | 429);
        matches!(self, Self::Refused { refusal, .. } if !of_all(refusal.status))
    }

    /// Is there no such resource?
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.is_absent())
    }

    /// What the server said, where everybody knows which server.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::Refused { refusal, .. } => refusal.to_string(),
            other => other.to_string(),
        }
    }

    /// May the same work in a moment?
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Broken { .. } => true,
            Self::Refused { refusal, .. } => refusal.status >= 500 || refusal.status == 429,
            Self::TooLarge { .. } | Self::NotOurs { .. } => false,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { source, .. } => match **source {
                ConnectError::Untrusted { .. } | ConnectError::NoTls { .. } => Code::Failed,
                _ => Code::NotReady,
            },
            ClientError::Refused { refusal, .. } => refusal.code(),
            _ => Code::Failed,
        };
        Self::new(code, error.into())
    }
}

/// An answer that is no refusal.
pub(in crate::cli) struct Answer {
    pub(super) body: Bytes,
    pub(super) done: Done,
}

/// What a request did, as far as the server says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli) enum Done {
    Created,
    Configured,
    Unchanged,
}

impl Done {
    fn of(response: &Response<Incoming>) -> Self {
        let said = response.headers().get(OUTCOME).map(HeaderValue::as_bytes);
        match (response.status(), said) {
            (_, Some(b"unchanged")) => Self::Unchanged,
            (StatusCode::CREATED, _) => Self::Created,
            _ => Self::Configured,
        }
    }

    /// In kubectl's words.
    pub(in crate::cli) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// A control plane's REST server. Requests may be made side by side; each takes a connection of its own.
pub(in crate::cli) struct Client {
    address: Address,
    authorization: Option<HeaderValue>,
    pool: Pool<Connector, Full<Bytes>>,
}

impl Client {
    /// Connects when it is first asked.
    pub(super) fn new(address: Address, token: Option<String>, trust: Option<Arc<ClientConfig>>) -> Self {
        let authorization = token.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .expect("a token is visible ASCII: Flags::token checks");
            value.set_sensitive(true);
            value
        });
        let connector = Connector { address: address.clone(), trust };
        let mut builder = Pool::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
        Self { address, authorization, pool: builder.build(connector) }
    }

    /// Who is asked.
    pub(in crate::cli) fn address(&self) -> &Address {
        &self.address
    }

    /// What is at a path.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Puts a resource at a path.
    pub(super) async fn put(&self, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        self.send(Method::PUT, path, body).await
    }

    /// Posts a request; the answer is text.
    pub(in crate::cli) async fn post(&self, path: &str, body: Bytes) -> Result<String, ClientError> {
        let answer = self.send(Method::POST, path, body).await?;
        let text = String::from_utf8(answer.body.into());
        text.map_err(|error| self.not_ours(error.to_string()))
    }

    /// Removes what is at a path.
    pub(super) async fn delete(&self, path: &str) -> Result<Answer, ClientError> {
        self.send(Method::DELETE, path, Bytes::new()).await
    }

    /// The control plane's status, as JSON.
    pub(in crate::cli) async fn status(&self) -> Result<serde_json::Value, ClientError> {
        let answer = self.get("/status").await?;
        self.json(&answer.body)
    }

    /// The secret of this name, of no mesh.
    pub(in crate::cli) async fn global_secret(&self, name: &str) -> Result<String, ClientError> {
        let answer = self.get(&format!("/global-secrets/{name}")).await?;
        let secret: serde_json::Value = self.json(&answer.body)?;
        let data = STANDARD.decode(secret["data"].as_str().unwrap_or_default()).ok();
        let text = data.and_then(|data| String::from_utf8(data).ok()).filter(|text| !text.is_empty());
        text.ok_or_else(|| self.not_ours(format!("the secret {name:?} has no text")))
    }

    /// Opens an endless answer; it is read by the caller.
    pub(super) async fn open(&self, path: &str) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(Method::GET, path, Bytes::new(), "text/event-stream")?;
        let response = timeout(ANSWER_DEADLINE, self.pool.request(request)).await;
        let response = response.map_err(|_elapsed| self.silent())?.map_err(|error| self.broken(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.collect(response).await?;
        Err(self.refused(status, &body))
    }

    /// The body as JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.not_ours(error.to_string()))
    }

    pub(super) fn not_ours(&self, found: String) -> ClientError {
        ClientError::NotOurs { address: self.address.clone(), found }
    }

    /// Sends until it is answered by more than "not now".
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let (begin, mut rest) = (Instant::now(), FIRST_REST);
        loop {
            // What is posted is answered with text.
            let accept = if method == Method::POST { "*/*" } else { "application/json" };
            let request = self.request(method.clone(), path, body.clone(), accept)?;
            let answered = timeout(ANSWER_DEADLINE, self.answer(request)).await;
            let (why, wait) = match answered.map_err(|_elapsed| self.silent())? {
                Err(Busy { error, after }) if begin.elapsed() < BUSY_DEADLINE => (error, after),
                Err(Busy { error, .. }) => return Err(error),
                Ok(answer) => return answer,
            };
            tracing::debug!("asked again: {why}");
            sleep(wait.unwrap_or(rest).min(LAST_REST)).await;
            rest = (rest * 2).min(LAST_REST);
        }
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Result<Answer, ClientError>, Busy> {
        let response = match self.pool.request(request).await {
            Ok(response) => response,
            Err(error) => return Ok(Err(self.broken(error))),
        };
        let (status, done) = (response.status(), Done::of(&response));
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = match self.collect(response).await {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                let error = self.refused(status, &body);
                Err(Busy { error, after: after.map(Duration::from_secs) })
            }
            status if status.is_success() => Ok(Ok(Answer { body, done })),
            status => Ok(Err(self.refused(status, &body))),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &'static str,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.address.at(path))
            .header(ACCEPT, HeaderValue::from_static(accept));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request.body(Full::new(body)).map_err(|error| self.not_ours(format!("{path}: {error}")))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(ClientError::TooLarge { address: self.address.clone() })
            }
            Err(source) => Err(ClientError::Broken { address: self.address.clone(), source }),
        }
    }

    fn silent(&self) -> ClientError {
        ClientError::Silent { address: self.address.clone() }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        ClientError::Refused { address: self.address.clone(), refusal: Refusal::read(status, body) }
    }

    /// A failed connection in its own words, anything else as the library says it.
    fn broken(&self, error: hyper_util::client::legacy::Error) -> ClientError {
        let address = self.address.clone();
        if let Some(found) = error.source().and_then(|source| source.downcast_ref::<Unconnected>()) {
            return ClientError::Unreachable { address, source: found.0.clone() };
        }
        let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        if text.contains("invalid HTTP") {
            return self.not_ours("no HTTP".into());
        }
        ClientError::Broken { address, source: error.into() }
    }
}

/// "Not now", with the time after which the server wants to be asked again.
struct Busy {
    error: ClientError,
    after: Option<Duration>,
}

/// Makes the pool's connections.
#[derive(Clone)]
struct Connector {
    address: Address,
    trust: Option<Arc<ClientConfig>>,
}

/// A connect error on its way through the pool, which hands out references only.
#[derive(Debug, thiserror::Error)]
#[error("not connected")]
struct Unconnected(Arc<ConnectError>);

impl tower::Service<Uri> for Connector {
    type Response = Wire;
    type Error = Unconnected;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Unconnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unconnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, trust } = self.clone();
        Box::pin(async move {
            let connected = connect::connect(&address, trust).await;
            connected.map_err(|error| Unconnected(Arc::new(error)))
        })
    }
}
