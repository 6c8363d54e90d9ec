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
    /// The device refused a layer.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
    /// The device failed.
    #[error(transparent)]
    Device(DeviceError),
}

impl From<DeviceError> for VaeError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Cancelled => Self::Cancelled,
            error => Self::Device(error),
        }
    }
}

impl From<crate::Cancelled> for DeviceError {
    fn from(_: crate::Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<crate::Cancelled> for VaeError {
    fn from(_: crate::Cancelled) -> Self {
        Self::Cancelled
    }
}

/// A device could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// This device has no such layer, or takes no such input (which, and what it has).
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// Not enough memory for a tensor of this many bytes.
    #[error("out of memory: a buffer of {0} bytes could not be had")]
    OutOfMemory(usize),
    /// The device failed and can do no more work.
    #[error("the device failed: {0}")]
    Lost(String),
    /// What came out is no result: values that are no numbers where the input had none, or a check that failed.
    #[error("the device computed wrongly: {0}")]
    Numerics(String),
    /// The observer asked for the end of the work.
    #[error("the work was cancelled")]
    Cancelled,
}
