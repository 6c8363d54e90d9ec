//! The client for code that waits: scripts, command lines, worker threads.

mod queue;

use std::time::Duration;

use tokio::runtime::{self, Runtime};

pub use self::queue::{DecodeQueue, Decodes, EncodeQueue, Encodes, Queue, Results};
use crate::{
    Activity, DecodeOptions, Decoded, EncodeOptions, Encoded, Error, Picture, Retry, ServedModel, Tensor,
};

/// A remote VAE. It may be shared by threads, each of which waits for its own answer.
#[derive(Debug)]
pub struct RemoteVae {
    client: crate::RemoteVae,
    /// Always there until the drop.
    runtime: Option<Runtime>,
}

/// How to reach a remote VAE; made by [`RemoteVae::builder`].
#[derive(Clone, Debug)]
pub struct Builder(crate::Builder);

impl Builder {
    /// As [`crate::Builder::endpoint`].
    pub fn endpoint(self, endpoint: &str) -> Self {
        Self(self.0.endpoint(endpoint))
    }

    /// As [`crate::Builder::retry`].
    pub fn retry(self, retry: Retry) -> Self {
        Self(self.0.retry(retry))
    }

    /// As [`crate::Builder::api_key`].
    pub fn api_key(self, key: &str) -> Self {
        Self(self.0.api_key(key))
    }

    /// As [`crate::Builder::trust`].
    #[cfg(feature = "tls")]
    pub fn trust(self, pem: &[u8]) -> Self {
        Self(self.0.trust(pem))
    }

    /// As [`crate::Builder::on_warning`].
    pub fn on_warning(self, notice: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(self.0.on_warning(notice))
    }

    /// As [`crate::Builder::on_retry`].
    pub fn on_retry(self, notice: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        Self(self.0.on_retry(notice))
    }

    /// How long to wait for a connection; 10 seconds when not set.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self(self.0.connect_timeout(timeout))
    }

    /// How long one try of a request may take, from the first byte sent to the last byte read; 5 minutes when not set.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self(self.0.timeout(timeout))
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when the endpoint is no URL that this client can use, or the system has no means left for
    /// an event loop.
    pub fn build(self) -> Result<RemoteVae, Error> {
        let client = self.0.build()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Endpoint { endpoint: client.endpoint(), reason: error.to_string() })?;
        Ok(RemoteVae { client, runtime: Some(runtime) })
    }
}

impl RemoteVae {
    /// As [`crate::RemoteVae::new`].
    ///
    /// # Errors
    /// [`Error::Endpoint`] when the endpoint is no URL that this client can use.
    pub fn new(endpoint: &str) -> Result<Self, Error> {
        Self::builder(endpoint).build()
    }

    /// As [`RemoteVae::new`], with settings.
    pub fn builder(endpoint: &str) -> Builder {
        Builder(crate::RemoteVae::builder(endpoint))
    }

    /// As [`crate::RemoteVae::decode`].
    ///
    /// # Errors
    /// The same, and [`Error::BlockingInAsync`] when called from async code.
    pub fn decode(&self, latents: &Tensor, options: &DecodeOptions) -> Result<Decoded, Error> {
        self.wait(self.client.decode(latents, options))
    }

    /// As [`crate::RemoteVae::encode`].
    ///
    /// # Errors
    /// The same, and [`Error::BlockingInAsync`] when called from async code.
    pub fn encode(&self, picture: &Picture, options: &EncodeOptions) -> Result<Encoded, Error> {
        self.wait(self.client.encode(picture, options))
    }

    /// As [`crate::RemoteVae::is_ready`].
    ///
    /// # Errors
    /// The same, and [`Error::BlockingInAsync`] when called from async code.
    pub fn is_ready(&self) -> Result<bool, Error> {
        self.wait(self.client.is_ready())
    }

    /// As [`crate::RemoteVae::activity`].
    ///
    /// # Errors
    /// The same, and [`Error::BlockingInAsync`] when called from async code.
    pub fn activity(&self) -> Result<Activity, Error> {
        self.wait(self.client.activity())
    }

    /// As [`crate::RemoteVae::probe`].
    ///
    /// # Errors
    /// The same, and [`Error::BlockingInAsync`] when called from async code.
    pub fn probe(&self, path: &str) -> Result<(), Error> {
        self.wait(self.client.probe(path))
    }

    /// As [`crate::RemoteVae::model`].
    ///
    /// # Errors
    /// The same, and [`Error::BlockingInAsync`] when called from async code.
    pub fn model(&self) -> Result<Option<ServedModel>, Error> {
        self.wait(self.client.model())
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match &self.runtime {
            Some(runtime) if runtime::Handle::try_current().is_err() => runtime.block_on(work),
            _ => Err(Error::BlockingInAsync),
        }
    }

    /// As [`crate::RemoteVae::endpoint`].
    pub fn endpoint(&self) -> String {
        self.client.endpoint()
    }
}

impl Drop for RemoteVae {
    fn drop(&mut self) {
        // A plain drop of a runtime waits for it, which panics inside async code.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Decodes once; `diffusers.utils.remote_utils.remote_decode`. For more than one picture, keep a [`RemoteVae`].
///
/// # Errors
/// As [`RemoteVae::new`] and [`RemoteVae::decode`].
pub fn remote_decode(endpoint: &str, latents: &Tensor, options: &DecodeOptions) -> Result<Decoded, Error> {
    RemoteVae::new(endpoint)?.decode(latents, options)
}

/// Encodes once; `diffusers.utils.remote_utils.remote_encode`. For more than one picture, keep a [`RemoteVae`].
///
/// # Errors
/// As [`RemoteVae::new`] and [`RemoteVae::encode`].
pub fn remote_encode(endpoint: &str, picture: &Picture, options: &EncodeOptions) -> Result<Encoded, Error> {
    RemoteVae::new(endpoint)?.encode(picture, options)
}
