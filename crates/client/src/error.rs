//! What can go wrong, split by whose fault it is.

use std::time::Duration;

use crate::endpoint::Endpoint;

/// A decode that did not come about. Each message is one sentence for people.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint is no URL that this client can use.
    #[error("the endpoint {endpoint:?} cannot be used: {reason}")]
    Endpoint {
        /// What was given, without keys.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// What is to be sent holds NaN or infinity.
    #[error("{0}")]
    NonFinite(String),
    /// The server could not be reached.
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect {
        /// The endpoint, without keys.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The server did not answer in time. It may have done the work.
    #[error("{endpoint} did not answer in time")]
    Timeout {
        /// The endpoint, without keys.
        endpoint: String,
    },
    /// The connection broke. The server may have done the work.
    #[error("the connection to {endpoint} broke: {reason}")]
    Connection {
        /// The endpoint, without keys.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The server said no, in its own words.
    #[error("the server refused with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's sentence.
        message: String,
        /// When it asks to try again, if it does (429 and 503).
        retry_after: Option<Duration>,
    },
    /// The answer is not what was asked for.
    #[error("the server's answer cannot be used: {0}")]
    Answer(String),
    /// The blocking client was called from async code, where it would stop the whole thread.
    #[error("the blocking client cannot be used inside async code; use client::RemoteVae there")]
    BlockingInAsync,
    /// Latents were submitted to a queue whose results nobody takes any more.
    #[error("the queue is closed: nobody takes its results any more")]
    Closed,
}

impl Error {
    /// Whether the fault lies with the endpoint or the way to it, so that every other request would fail now, too: it
    /// cannot be reached, does not know the model or refuses the key.
    pub fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Endpoint { .. } | Self::Connect { .. } => true,
            Self::Refused { status, .. } => matches!(status, 300..=399 | 401 | 403 | 404 | 405 | 502 | 504),
            _ => false,
        }
    }

    pub(crate) fn endpoint(endpoint: &Endpoint, reason: String) -> Self {
        Self::Endpoint { endpoint: endpoint.public().to_owned(), reason }
    }

    pub(crate) fn transport(address: &Endpoint, error: &reqwest::Error) -> Self {
        let endpoint = address.public().to_owned();
        if let Some(other) = other_protocol(address, error) {
            Self::Connect { endpoint, reason: other }
        } else if error.is_connect() {
            #[cfg(feature = "tls")]
            if let Some(reason) = crate::trust::reason(error, address.host()) {
                return Self::Connect { endpoint, reason };
            }
            let mut reason = innermost(error);
            if is_refused(error) {
                reason.push_str("; is a server running there?");
            }
            Self::Connect { endpoint, reason }
        } else if error.is_timeout() {
            Self::Timeout { endpoint }
        } else {
            Self::Connection { endpoint, reason: innermost(error) }
        }
    }
}

/// What is said of a server that speaks https where http was tried, or the other way round.
fn other_protocol(address: &Endpoint, error: &reqwest::Error) -> Option<String> {
    /// hyper's words where an answer begins with something else than HTTP, such as an alert of TLS.
    const NO_HTTP: &str = "invalid HTTP version parsed";
    #[cfg(feature = "tls")]
    if address.is_https() {
        return crate::trust::is_not_tls(error).then(|| {
            format!(
                "what answers there speaks no https; try {}",
                address.public().replacen("https:", "http:", 1)
            )
        });
    }
    (innermost(error) == NO_HTTP).then(|| {
        format!("what answers there speaks no http; try {}", address.public().replacen("http:", "https:", 1))
    })
}

/// Whether nobody listens at the address.
fn is_refused(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// The first cause of an error: the outer ones only say that there was one, and may contain the URL with its keys.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
