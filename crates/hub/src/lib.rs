//! Files of the Hugging Face hub: the cache on this machine, and downloads into it.
//!
//! The cache is the one that Python's `huggingface_hub` keeps, file for file, so what one of them has downloaded the
//! other finds. What is in it is used without asking the hub, so a server starts without a network.
//!
//! Why not the crate `hf-hub`? Its 0.5 checks no checksum, continues a broken download by appending whatever the server
//! sends, knows no offline mode, and depends on code under MPL-2.0; its 1.0 brings over two hundred crates.
//!
//! This crate reads no environment variable and prints nothing: a program fills in [`Settings`] and shows the progress.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod cache;
mod download;
mod error;
mod http;
mod repo;

use std::path::PathBuf;

pub use error::HubError;
pub use repo::{DEFAULT_REVISION, Repo};

use crate::cache::Cache;
use crate::http::Http;

/// Where the public hub is.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// What Python's `huggingface_hub` takes from the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `HF_ENDPOINT`: the URL of the hub, [`DEFAULT_ENDPOINT`] or that of a mirror.
    pub endpoint: String,
    /// `HF_HUB_CACHE`: the folder of the cache.
    pub cache: PathBuf,
    /// `HF_TOKEN`: who asks. Sent to the endpoint only.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: never ask the hub.
    pub offline: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, cache, token, offline } = self;
        let token = token.as_ref().map(|_| "...");
        f.debug_struct("Settings")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("token", &token)
            .field("offline", offline)
            .finish()
    }
}

/// The files that a revision of a repository has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision is at.
    pub commit: String,
    /// Paths in the repository, `vae/config.json`.
    pub files: Vec<String>,
}

/// The hub and its cache.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    cache: Cache,
}

impl Hub {
    /// Nothing is read or asked yet.
    pub fn new(settings: Settings) -> Self {
        let cache = Cache::new(settings.cache.clone());
        Self { settings, cache }
    }

    /// The folder in the cache with the files of `repo` that are there, if there are any: perhaps not all that the
    /// repository has.
    pub fn snapshot(&self, repo: &Repo) -> Option<PathBuf> {
        self.cache.snapshot(repo)
    }

    /// Asks the hub which files `repo` has. This blocks, and cannot be called from async code.
    ///
    /// # Errors
    /// Offline, a hub that cannot be reached, or its refusal.
    pub fn list(&self, repo: &Repo) -> Result<Listing, HubError> {
        let http = self.online(repo)?;
        let listing = http.list(repo)?;
        if let Some(bad) = listing.files.iter().find(|file| !repo::is_safe_path(file)) {
            return Err(HubError::Answer(format!("{} lists a file {bad:?}", repo.id())));
        }
        Ok(listing)
    }

    /// Downloads `file` of `repo` at `commit`, as [`Hub::list`] gave them, unless it is in the cache; gives its path
    /// there. A download that was cut off goes on where it ended. `progress` hears how many bytes of how many are
    /// there. This blocks, and cannot be called from async code.
    ///
    /// # Errors
    /// Those of [`Hub::list`], a file whose size or checksum is not what the hub says, or a cache that cannot be
    /// written.
    pub fn fetch(
        &self,
        repo: &Repo,
        commit: &str,
        file: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<PathBuf, HubError> {
        if !repo::is_safe_path(file) || !repo::is_safe_name(commit) {
            return Err(HubError::Answer(format!("{} has no file {file:?} at {commit:?}", repo.id())));
        }
        let http = self.online(repo)?;
        let path = download::fetch(&http, &self.cache, repo, commit, file, progress)?;
        self.cache.remember(repo, commit)?;
        Ok(path)
    }

    fn online(&self, repo: &Repo) -> Result<Http, HubError> {
        if self.settings.offline {
            let (repo, cache) = (repo.id().to_owned(), self.settings.cache.clone());
            return Err(HubError::Offline { repo, cache });
        }
        Http::new(&self.settings)
    }
}
