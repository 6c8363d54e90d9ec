//! What can go wrong, split by whose fault it is.

use std::path::{Path, PathBuf};

/// A file that could not be had. Each message is one sentence for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub has no such repository, revision or file, as far as it tells us.
    #[error("{0}")]
    NotFound(String),
    /// The hub does not let us.
    #[error("{0}")]
    Denied(String),
    /// It would have to be downloaded, and the user forbids that.
    #[error(
        "{repo} is not in the cache at {}, and HF_HUB_OFFLINE forbids to download it",
        cache.display()
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The folder of the cache.
        cache: PathBuf,
    },
    /// The endpoint is no URL.
    #[error("HF_ENDPOINT is {endpoint:?}, expected the URL of a hub: {reason}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// Why it is none.
        reason: String,
    },
    /// The hub could not be reached, or the connection broke too often. What is there is kept.
    #[error("{url}: {reason}{}", what_is_kept(.kept))]
    Network {
        /// What was asked for.
        url: String,
        /// Why it did not come.
        reason: String,
        /// Bytes of the file that are there already.
        kept: u64,
    },
    /// The hub answers in a way that we do not understand.
    #[error("the hub's answer cannot be used: {0}")]
    Answer(String),
    /// What came is not what the hub says it is.
    #[error("{file} was damaged on its way: {reason}; it was thrown away, try again")]
    Damaged {
        /// The file.
        file: String,
        /// How it differs.
        reason: String,
    },
    /// The cache could not be read or written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is said of a part of a file that is there.
fn what_is_kept(kept: &u64) -> &'static str {
    if *kept > 0 { "; what was downloaded is kept, so trying again goes on from there" } else { "" }
}

impl HubError {
    /// For `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::Io { path: path.to_path_buf(), source }
    }
}
