//! What ends the server, and what ends a request: failures of the service get their HTTP statuses here.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use service::{Failure, FailureKind, Note, Severity, StartError};
use wire::{ErrorBody, WireError};

/// The server cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The port cannot be had.
    #[error("cannot listen on {host} port {port}: {source}")]
    Bind {
        /// What to listen on.
        host: String,
        /// Which port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The service behind it cannot start or go on.
    #[error("{0}")]
    Service(Arc<StartError>),
}

impl From<StartError> for ServeError {
    fn from(error: StartError) -> Self {
        Self::Service(Arc::new(error))
    }
}

/// A request that cannot be served. Always answered as JSON, because clients call `response.json()` on any failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// After how long another try makes sense.
    pub(crate) retry_after: Option<Duration>,
    /// What the log says of it; `None` where the status says enough.
    pub(crate) note: Option<Note>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None, note: None }
    }

    /// The log says so much of it, and says why.
    pub(crate) fn noted(self, severity: Severity) -> Self {
        let note = Note { severity, reason: self.message.clone() };
        Self { note: Some(note), ..self }
    }

    /// A limit of the server is reached; the message names its flag.
    pub(crate) fn at_limit(self) -> Self {
        self.noted(Severity::Warn)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Our fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Failure::internal(message).into()
    }

    pub(crate) fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    pub(crate) fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }
}

/// The status of each kind of failure.
fn status(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::BadRequest => StatusCode::BAD_REQUEST,
        FailureKind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        FailureKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FailureKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        FailureKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        FailureKind::NotLoaded
        | FailureKind::Deadline
        | FailureKind::Cancelled
        | FailureKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Internal | FailureKind::OutOfMemory | FailureKind::DeviceLost => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let Failure { kind, message, retry_after, note } = failure;
        Self { status: status(kind), message, retry_after, note }
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> Self {
        Failure::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: self.message }.to_json();
        let mut response = (self.status, [(header::CONTENT_TYPE, wire::JSON)], body).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some(note) = self.note {
            response.extensions_mut().insert(note);
        }
        response
    }
}

/// `Retry-After` has whole seconds; too early is worse than too late.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
