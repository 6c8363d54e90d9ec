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
    /// For the log: what the message leaves out because it tells clients nothing.
    cause: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None, cause: None }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Understood, but it cannot be done.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// A model that is loaded at its first use could not be loaded. Why not may say too much of this machine.
    pub(crate) fn not_loaded() -> Self {
        let message = "this model cannot be loaded now; the server's log says why";
        Self::unavailable(message, Duration::from_secs(30))
    }

    /// Our fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// With what the log says of it besides.
    pub(crate) fn because(self, cause: impl ToString) -> Self {
        Self { cause: Some(cause.to_string()), ..self }
    }

    /// Says it in the log: loudly where it is our fault.
    pub(crate) fn log(&self) {
        let (status, reason, cause) = (self.status.as_u16(), &self.message, self.cause.as_deref());
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            error!(status, reason, cause, "a request failed");
        } else {
            debug!(status, reason, cause, "refused");
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
        Self::new(status, error.to_string())
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
        self.log();
        let body = ErrorBody { error: self.message }.to_json();
        let mut response = (self.status, [(header::CONTENT_TYPE, wire::JSON)], body).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        response
    }
}

/// `Retry-After` has whole seconds; too early is worse than too late.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
