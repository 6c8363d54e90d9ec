//! What ends the server, and what ends a request.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::{debug, error};
use vae::VaeError;
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
    /// A model cannot be loaded.
    #[error("cannot load model {name:?}{}: {source}", from_where(.origin, &.source.to_string()))]
    Load {
        /// Its name.
        name: String,
        /// Where it was to come from.
        origin: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A model was loaded, but cannot decode.
    #[error("model {name:?} from {origin} was loaded, but a first decode failed: {source}")]
    WarmUp {
        /// Its name.
        name: String,
        /// Where it came from.
        origin: String,
        /// Why not.
        source: VaeError,
    },
    /// The thread that owns the models ended, which is a bug of ours.
    #[error("the thread that runs the models ended unexpectedly: {0}")]
    Executor(String),
}

/// Where a model comes from, unless what is wrong with it names that already.
fn from_where(origin: &str, source: &str) -> String {
    if source.contains(origin) { String::new() } else { format!(" from {origin}") }
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

/// What the log says of a refusal, in the line of its request. Sizes and settings, never what a client wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) severity: Severity,
    pub(crate) reason: String,
}

/// How much a refusal matters to whoever runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// A rule at work.
    Info,
    /// A limit that could be raised, or a model that cannot be loaded.
    Warn,
    /// A fault of ours.
    Error,
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

    /// The log tells the cause too, which is nobody else's business.
    pub(crate) fn because(self, cause: impl std::fmt::Display) -> Self {
        let severity = self.note.as_ref().map_or(Severity::Error, |note| note.severity);
        let reason = format!("{}: {cause}", self.message);
        Self { note: Some(Note { severity, reason }), ..self }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Understood, but it cannot be done.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// A model that is loaded at its first use could not be loaded. Why not may say too much of this machine.
    pub(crate) fn not_loaded(cause: &ServeError) -> Self {
        let message = "this model cannot be loaded now; the server's log says why";
        Self::unavailable(message, Duration::from_secs(30)).noted(Severity::Warn).because(cause)
    }

    /// Our fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).noted(Severity::Error)
    }

    /// Says it in the log, where no request's line will.
    pub(crate) fn log(&self) {
        let (status, note) = (self.status.as_u16(), self.note.as_ref());
        let reason = note.map_or(self.message.as_str(), |note| note.reason.as_str());
        match note.map(|note| note.severity) {
            Some(Severity::Error) => error!(status, reason, "failed"),
            _ => debug!(status, reason, "refused"),
        }
    }

    pub(crate) fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    pub(crate) fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let refusal = Self::new(status, error.to_string());
        if matches!(error, WireError::TooLarge(_)) { refusal.at_limit() } else { refusal }
    }
}

impl From<VaeError> for ApiError {
    fn from(error: VaeError) -> Self {
        match error {
            VaeError::Input(message) => Self::unprocessable(message),
            // Only who has left or a server that ends cancels; hardly anybody reads this.
            VaeError::Cancelled => {
                Self::unavailable("the work was cancelled: try again", Duration::from_secs(1))
            }
            other => Self::internal(format!("the model failed: {other}")),
        }
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
