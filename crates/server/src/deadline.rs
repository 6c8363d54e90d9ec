//! How long a request may take before nobody shall wait for it any longer.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, StatusCode};
use service::{Failure, FailureKind};
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;

/// How many seconds the client will wait, decimals allowed. Never more than the server's own limit.
const REQUEST_TIMEOUT_NAME: &str = "x-request-timeout";
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static(REQUEST_TIMEOUT_NAME);

/// What a client is told that asked for more time than it got: by then the line may be shorter.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The moment after which a request is dropped, wherever it is.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    time: Duration,
    /// What says how long it is.
    setting: &'static str,
}

/// The deadline of a request that has just come: what it asks for, at most `limit`.
///
/// # Errors
/// 400 for a header that is no positive number.
pub(crate) fn of(headers: &HeaderMap, limit: Duration) -> Result<Deadline, ApiError> {
    let asked = match headers.get(REQUEST_TIMEOUT) {
        None => limit,
        Some(value) => {
            let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
            // A time that is too long to be counted is as good as none.
            match seconds.filter(|&seconds| seconds > 0.0) {
                Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(limit),
                None => {
                    return Err(ApiError::new(
                        StatusCode::BAD_REQUEST,
                        "the header `x-request-timeout` must be a number of seconds above 0",
                    ));
                }
            }
        }
    };
    let (time, setting) = if asked < limit { (asked, REQUEST_TIMEOUT_NAME) } else { (limit, "--timeout") };
    Ok(Deadline { at: Instant::now() + time, time, setting })
}

impl Deadline {
    /// Does the work until the deadline, and then drops it.
    ///
    /// # Errors
    /// 503 at the deadline.
    pub(crate) async fn hold<T>(
        self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        timeout_at(self.at, work).await.unwrap_or_else(|_| Err(self.passed()))
    }

    /// The moment itself.
    pub(crate) fn at(self) -> std::time::Instant {
        self.at.into_std()
    }

    /// What a client is told whose deadline has passed.
    pub(crate) fn passed(self) -> ApiError {
        let message = format!(
            "the request was not done within {} seconds, as long as it may take ({}): send less, or later",
            self.time.as_secs_f64(),
            self.setting
        );
        let failure = Failure::new(FailureKind::Deadline, message);
        let failure = if self.setting == REQUEST_TIMEOUT_NAME { failure } else { failure.at_limit() };
        Failure { retry_after: Some(RETRY_AFTER), ..failure }.into()
    }
}
