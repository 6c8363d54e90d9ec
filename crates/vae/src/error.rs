//! Errors, split by whose fault they are.

use std::path::PathBuf;

/// A model could not be loaded. Each message says what was found, where, and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file could not be opened, read or mapped.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is not one we can build.
    #[error("{path}: {message}")]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// Names the key, what it says, and what was expected.
        message: String,
    },
    /// The weights do not fit the configuration.
    #[error("{path}: {message}")]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// Names the tensor, what was found, and what was expected.
        message: String,
    },
    /// The engine refused a layer.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A loaded model could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaeError {
    /// The caller's fault: the input cannot be decoded by this model.
    #[error("{0}")]
    Input(String),
    /// The caller gave up.
    #[error("the work was cancelled")]
    Cancelled,
    /// The engine failed.
    #[error(transparent)]
    Engine(EngineError),
}

impl From<EngineError> for VaeError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Cancelled => Self::Cancelled,
            error => Self::Engine(error),
        }
    }
}

impl From<crate::Cancelled> for EngineError {
    fn from(_: crate::Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<crate::Cancelled> for VaeError {
    fn from(_: crate::Cancelled) -> Self {
        Self::Cancelled
    }
}

/// An engine could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// This engine has no such layer (say which, and what it has).
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// Not enough memory for a tensor of this many bytes.
    #[error("out of memory: a buffer of {0} bytes could not be had")]
    OutOfMemory(usize),
    /// The device failed; GPUs report late, often at `download`.
    #[error("the device failed: {0}")]
    Device(String),
    /// Whoever watched a long step asked it to stop.
    #[error("the work was cancelled")]
    Cancelled,
}
