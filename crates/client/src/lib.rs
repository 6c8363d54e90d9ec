//! The HTTP client of remote-vae: latents in, pictures or tensors out.
//!
//! It speaks the protocol of `diffusers.utils.remote_utils.remote_decode`, with the same option names and defaults,
//! so that it works with any server that diffusers' client works with. Nothing here needs a model or a tensor
//! library: latents are bytes with a type and a shape.
//!
//! ```no_run
//! use client::{DecodeOptions, DType, OutputType, Tensor, blocking::RemoteVae};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let latents = Tensor::new(DType::Float16, vec![1, 4, 64, 64], std::fs::read("latents.raw")?.into())?;
//! let vae = RemoteVae::new("http://127.0.0.1:8080/")?;
//!
//! // A JPEG file, as `remote_decode` answers when it is told nothing else.
//! let options = DecodeOptions::new().scaling_factor(0.18215);
//! std::fs::write("picture.jpg", vae.decode(&latents, &options)?.into_image()?.bytes)?;
//!
//! // The values themselves.
//! let tensor = vae.decode(&latents, &options.output_type(OutputType::Pt))?.into_tensor()?;
//! println!("{}", tensor.head); // float16 [1, 3, 512, 512]
//! # Ok(())
//! # }
//! ```
//!
//! [`RemoteVae`] is the same for async code; it needs a Tokio runtime, and dropping its future cancels the request.
//! A client keeps its connections, so make one and use it often. It is cheap to clone.
#![forbid(unsafe_code)]

mod answer;
pub mod blocking;
mod endpoint;
mod error;
mod options;

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use wire::ErrorBody;
pub use wire::{DType, ImageFormat, Tensor, TensorHead};

pub use crate::answer::{Decoded, Image};
use crate::endpoint::Endpoint;
pub use crate::error::Error;
pub use crate::options::{DecodeOptions, OutputType};

/// How long to wait for a connection when nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for an answer when nothing else is said: a large decode may wait behind others.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A remote VAE, for async code. See [`blocking::RemoteVae`] for the other kind.
#[derive(Clone, Debug)]
pub struct RemoteVae {
    http: reqwest::Client,
    endpoint: Endpoint,
}

/// How to reach a remote VAE; made by [`RemoteVae::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoint: String,
    connect_timeout: Duration,
    timeout: Duration,
}

impl Builder {
    /// How long to wait for a connection; 10 seconds when not set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one request may take, from the first byte sent to the last byte read; 5 minutes when not set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when the endpoint is no URL that this client can use.
    pub fn build(self) -> Result<RemoteVae, Error> {
        let endpoint = Endpoint::parse(&self.endpoint)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("remote-vae/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .timeout(self.timeout)
            // Most redirects turn a POST into a GET without a body. The error names the new address instead.
            .redirect(reqwest::redirect::Policy::none());
        if endpoint.is_loopback() {
            // What HTTP_PROXY says is never meant for this machine.
            http = http.no_proxy();
        }
        #[cfg(feature = "tls")]
        {
            // Fails only when the program has chosen a provider already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            if !endpoint.is_https() {
                // Without this, a system that has no certificates installed could not even speak http.
                http = http.tls_certs_only([]);
            }
        }
        let http = http.build().map_err(|error| Error::endpoint(&endpoint, error::innermost(&error)))?;
        Ok(RemoteVae { http, endpoint })
    }
}

impl RemoteVae {
    /// A client of the server at this URL: `http://127.0.0.1:8080/`, or with a model's name,
    /// `http://127.0.0.1:8080/sdxl`. A user and a password in the URL are sent as Basic authorization.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when the endpoint is no URL that this client can use.
    pub fn new(endpoint: &str) -> Result<Self, Error> {
        Self::builder(endpoint).build()
    }

    /// As [`RemoteVae::new`], with settings.
    pub fn builder(endpoint: &str) -> Builder {
        Builder { endpoint: endpoint.to_owned(), connect_timeout: CONNECT_TIMEOUT, timeout: TIMEOUT }
    }

    /// Decodes latents: `[B, C, h, w]`, `[C, h, w]`, or packed `[B, tokens, 4C]` with
    /// [`height`](DecodeOptions::height) and [`width`](DecodeOptions::width) set.
    ///
    /// # Errors
    /// Options that contradict each other, a server that cannot be reached or does not answer in time, its refusal
    /// (with its own words), or an answer that is not what was asked for.
    pub async fn decode(&self, latents: &Tensor, options: &DecodeOptions) -> Result<Decoded, Error> {
        let request = wire::DecodeRequest { latents: latents.clone(), params: options.params()? };
        let transport = |error: reqwest::Error| Error::transport(&self.endpoint, &error);
        let mut response = self
            .http
            .post(self.endpoint.with_query(&request.query()))
            .header(CONTENT_TYPE, request.content_type())
            .header(ACCEPT, request.accept())
            .body(request.latents.bytes.clone())
            .send()
            .await
            .map_err(transport)?;
        if response.status().is_success() {
            let headers = std::mem::take(response.headers_mut());
            let body = response.bytes().await.map_err(transport)?;
            return answer::read(options.output_type, &headers, body);
        }
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let message = match header(LOCATION).filter(|_| status.is_redirection()) {
            Some(location) => format!("the endpoint has moved to {location}; use that address"),
            None => ErrorBody::read(&response.bytes().await.map_err(transport)?).error,
        };
        Err(Error::Refused { status: status.as_u16(), message, retry_after })
    }

    /// Whether the server has loaded its models and accepts work: what it says at `/ready`. Other servers than ours
    /// may have no such route, which is an error.
    ///
    /// # Errors
    /// A server that cannot be reached or does not answer in time, or any other answer than yes (200) and no (503).
    pub async fn is_ready(&self) -> Result<bool, Error> {
        let transport = |error: reqwest::Error| Error::transport(&self.endpoint, &error);
        let response =
            self.http.get(self.endpoint.at(wire::routes::READY)).send().await.map_err(transport)?;
        match response.status().as_u16() {
            200 => Ok(true),
            503 => Ok(false),
            status => {
                let message = ErrorBody::read(&response.bytes().await.map_err(transport)?).error;
                Err(Error::Refused { status, message, retry_after: None })
            }
        }
    }

    /// The endpoint, without user, password and query: fit for a log.
    pub fn endpoint(&self) -> &str {
        self.endpoint.public()
    }
}

/// Decodes once; `diffusers.utils.remote_utils.remote_decode` for async code. For more than one picture, keep a
/// [`RemoteVae`].
///
/// # Errors
/// As [`RemoteVae::new`] and [`RemoteVae::decode`].
pub async fn remote_decode(
    endpoint: &str,
    latents: &Tensor,
    options: &DecodeOptions,
) -> Result<Decoded, Error> {
    RemoteVae::new(endpoint)?.decode(latents, options).await
}
