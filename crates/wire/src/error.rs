//! Errors, split by whose fault they are, and the JSON that carries them.

use serde::{Deserialize, Serialize};

/// A request or an answer that does not follow the protocol. Each message is one sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A parameter is missing or cannot be read.
    #[error("{0}")]
    Parameter(String),
    /// The body is not what the parameters say.
    #[error("{0}")]
    Body(String),
    /// The body is of a kind that this protocol has not.
    #[error("{0}")]
    ContentType(String),
    /// More than the server's limits allow.
    #[error("{0}")]
    TooLarge(String),
    /// Understood, but it cannot be done.
    #[error("{0}")]
    Unsupported(String),
    /// The answer of a server cannot be read.
    #[error("{0}")]
    Answer(String),
}

impl WireError {
    /// The HTTP status that tells a client of this error.
    pub fn status(&self) -> u16 {
        match self {
            Self::Parameter(_) | Self::Body(_) => 400,
            Self::TooLarge(_) => 413,
            Self::ContentType(_) => 415,
            Self::Unsupported(_) => 422,
            // A server that cannot read the answer of the server behind it.
            Self::Answer(_) => 502,
        }
    }
}

/// The body of every answer that is not a success: clients call `response.json()` on any failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ErrorBody {
    /// One sentence: what was wrong, what was expected, what to do.
    pub error: String,
}

impl ErrorBody {
    /// The JSON text.
    pub fn to_json(&self) -> String {
        serde_json::json!({ "error": self.error }).to_string()
    }

    /// What a server said in `body`, which may come from a proxy and be anything: the `error` of a JSON object,
    /// else the beginning of the text.
    pub fn read(body: &[u8]) -> Self {
        if let Ok(parsed) = serde_json::from_slice(body) {
            return parsed;
        }
        let text = String::from_utf8_lossy(body);
        let text: String = text.trim().chars().take(200).collect();
        Self { error: if text.is_empty() { "the server gave no reason".to_owned() } else { text } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let error = ErrorBody { error: "a \"quoted\" word\nand ümlauts".to_owned() };
        assert_eq!(ErrorBody::read(error.to_json().as_bytes()), error);
    }

    #[test]
    fn answers_of_proxies_are_readable_too() {
        assert_eq!(ErrorBody::read(b" Bad Gateway\n").error, "Bad Gateway");
        assert_eq!(ErrorBody::read(b"").error, "the server gave no reason");
        assert_eq!(ErrorBody::read("é".repeat(1000).as_bytes()).error.chars().count(), 200);
    }
}
