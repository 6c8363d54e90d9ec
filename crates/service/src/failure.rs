//! What ends a job without an answer, split by whose fault it is, and what keeps the service from starting.

use std::fmt::Display;
use std::time::Duration;

use tracing::{debug, error};
use vae::{DeviceError, VaeError};
use wire::WireError;

/// After how long another try of work that was cancelled makes sense.
const AFTER_CANCELLATION: Duration = Duration::from_secs(1);

/// After how long another server, or this one anew, may be there.
const AFTER_RESTART: Duration = Duration::from_secs(5);

/// After how long a model that could not be loaded may be there.
const AFTER_FAILED_LOAD: Duration = Duration::from_secs(30);

/// The service cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
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
    /// A thread that runs the models cannot be started or ended by itself.
    #[error("the thread that runs the models ended unexpectedly: {0}")]
    Worker(String),
}

/// Where a model comes from, unless what is wrong with it names that already.
fn from_where(origin: &str, source: &str) -> String {
    if source.contains(origin) { String::new() } else { format!(" from {origin}") }
}

/// Whose fault it is that a job has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The client's: the request cannot be read.
    BadRequest,
    /// The client's: the body is of a kind that the protocol has not.
    UnsupportedMediaType,
    /// The client's: the request is above a limit.
    TooLarge,
    /// The client's: the request can be read, but this model cannot do it or answer so.
    Unprocessable,
    /// Nobody's: there is no capacity now, and there will be.
    Busy,
    /// The operator's: the model cannot be loaded.
    NotLoaded,
    /// Nobody's: the deadline passed.
    Deadline,
    /// The client's: it no longer waits.
    Cancelled,
    /// The operator's: the service stops.
    ShuttingDown,
    /// Ours.
    Internal,
    /// The operator's: the device has less memory than the work takes.
    OutOfMemory,
    /// The operator's: the device, or the thread that works on it, is gone.
    DeviceLost,
}

/// A job without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// One sentence for the client: what was wrong, what was expected, what to do.
    pub message: String,
    /// After how long another try makes sense.
    pub retry_after: Option<Duration>,
    /// What the log says of it; `None` where the kind says enough.
    pub note: Option<Note>,
}

/// What the log says of a failure, in the line of its request. Sizes and settings, never what a client wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub severity: Severity,
    /// The message, and its cause where there is one.
    pub reason: String,
}

/// How much a failure matters to whoever runs the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A rule at work.
    Info,
    /// A limit that could be raised, or a model that cannot be loaded.
    Warn,
    /// A fault of ours.
    Error,
}

impl Failure {
    /// A failure that the log need not explain.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, note: None }
    }

    /// The request can be read, but it cannot be done.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unprocessable, message)
    }

    /// More than a limit allows; the message names its flag.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(FailureKind::TooLarge, message).at_limit()
    }

    /// No capacity now; the message names the flag that bounds it.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(FailureKind::Busy, message) }.at_limit()
    }

    /// Our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message).noted(Severity::Error)
    }

    /// The service stops.
    pub fn shutting_down() -> Self {
        let failure = Self::new(FailureKind::ShuttingDown, "the server is being stopped");
        Self { retry_after: Some(AFTER_RESTART), ..failure }
    }

    /// The thread that runs the models is gone.
    pub(crate) fn lost() -> Self {
        Self::new(FailureKind::DeviceLost, "the thread that runs the models has ended").noted(Severity::Error)
    }

    /// A model could not be loaded. Why not may say too much of this machine.
    pub(crate) fn not_loaded(cause: &StartError) -> Self {
        let message = "this model cannot be loaded now; the server's log says why";
        let failure = Self::new(FailureKind::NotLoaded, message).noted(Severity::Warn).because(cause);
        Self { retry_after: Some(AFTER_FAILED_LOAD), ..failure }
    }

    /// The log says so much of it, and says why.
    pub fn noted(self, severity: Severity) -> Self {
        let note = Note { severity, reason: self.message.clone() };
        Self { note: Some(note), ..self }
    }

    /// A limit of the service is reached; the message names its flag.
    pub fn at_limit(self) -> Self {
        self.noted(Severity::Warn)
    }

    /// The log tells the cause too, which clients must not see.
    pub fn because(self, cause: impl Display) -> Self {
        let severity = self.note.as_ref().map_or(Severity::Error, |note| note.severity);
        let reason = format!("{}: {cause}", self.message);
        Self { note: Some(Note { severity, reason }), ..self }
    }

    /// Says it in the log, where no request's line will.
    pub(crate) fn log(&self) {
        let (kind, note) = (self.kind, self.note.as_ref());
        let reason = note.map_or(self.message.as_str(), |note| note.reason.as_str());
        match note.map(|note| note.severity) {
            Some(Severity::Error) => error!(?kind, reason, "failed"),
            _ => debug!(?kind, reason, "refused"),
        }
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        let message = error.to_string();
        match error {
            WireError::Parameter(_) | WireError::Body(_) => Self::new(FailureKind::BadRequest, message),
            WireError::ContentType(_) => Self::new(FailureKind::UnsupportedMediaType, message),
            WireError::TooLarge(_) => Self::too_large(message),
            WireError::Unsupported(_) => Self::unprocessable(message),
            // Requests alone are read here, so an answer is one that was to be written.
            _ => Self::internal(message),
        }
    }
}

impl From<VaeError> for Failure {
    fn from(error: VaeError) -> Self {
        match error {
            VaeError::Input(message) => Self::unprocessable(message),
            VaeError::Cancelled => Self {
                retry_after: Some(AFTER_CANCELLATION),
                ..Self::new(FailureKind::Cancelled, "the work was cancelled: try again")
            },
            VaeError::Device(DeviceError::OutOfMemory(_)) => {
                Self::new(FailureKind::OutOfMemory, format!("the model failed: {error}"))
                    .noted(Severity::Error)
            }
            VaeError::Device(DeviceError::Lost(_)) => {
                Self::new(FailureKind::DeviceLost, format!("the model failed: {error}"))
                    .noted(Severity::Error)
            }
            other => Self::internal(format!("the model failed: {other}")),
        }
    }
}
