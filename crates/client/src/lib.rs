//! The HTTP client of remote-vae: latents in, pictures or tensors out; and the way back.
//!
//! It speaks the protocol of `diffusers.utils.remote_utils` (`remote_decode`, `remote_encode`), with the same option names and defaults,
//! so that it works with any server that diffusers' client works with. Nothing here needs a model or a tensor
//! library: latents are bytes with a type and a shape.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctest/demo.rs"));
//! use client::{DecodeOptions, DType, EncodeOptions, OutputType, Picture, Tensor, blocking::RemoteVae};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let endpoint = demo_server();
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(&folder)?;
//! # std::fs::write("latents.raw", grey())?;
//! let latents = Tensor::new(DType::Float16, vec![1, 16, 3, 4], std::fs::read("latents.raw")?.into())?;
//! let vae = RemoteVae::new(&endpoint)?; // such as http://127.0.0.1:8080/
//!
//! // A JPEG file, as `remote_decode` answers when it is told nothing else.
//! let options = DecodeOptions::new().scaling_factor(0.3617).shift_factor(0.0693);
//! std::fs::write("picture.jpg", vae.decode(&latents, &options)?.into_image()?.bytes)?;
//!
//! // The values themselves.
//! let tensor = vae.decode(&latents, &options.output_type(OutputType::Pt))?.into_tensor()?;
//! assert_eq!(tensor.head.to_string(), "float16 [1, 3, 24, 32]");
//!
//! // Latents of a picture.
//! let picture = Picture::File(std::fs::read("picture.jpg")?.into());
//! let encoded = vae.encode(&picture, &EncodeOptions::new())?;
//! assert_eq!(encoded.latents.head.to_string(), "float16 [1, 16, 3, 4]");
//! # Ok(())
//! # }
//! ```
//!
//! [`RemoteVae`] is the same for async code; it needs a Tokio runtime, and dropping its future cancels the request.
//! A client keeps its connections, so make one and use it often. It is cheap to clone.
#![forbid(unsafe_code)]

mod activity;
mod answer;
mod balance;
pub mod blocking;
mod bounds;
mod builder;
mod encode;
mod endpoint;
mod error;
mod exchange;
mod models;
mod options;
mod proxy;
mod queue;
mod retry;
#[cfg(feature = "tls")]
mod trust;

use std::sync::Arc;

pub use wire::{DType, ImageFormat, Picture, SampleMode, Tensor, TensorHead};

pub use crate::activity::Activity;
pub use crate::answer::{Decoded, Image};
use crate::balance::Balance;
pub use crate::builder::Builder;
pub use crate::encode::{Encoded, remote_encode};
pub use crate::error::Error;
use crate::exchange::{Connection, Exchange, OnRetry, OnWarning};
pub use crate::models::ServedModel;
pub use crate::options::{DecodeOptions, EncodeOptions, OutputType};
pub use crate::queue::{
    Counters, Decode, DecodeQueue, Decodes, Encode, EncodeQueue, Encodes, Finished, Order, Queue,
    QueueOptions, Results, Work,
};
pub use crate::retry::Retry;

/// A remote VAE, for async code. See [`blocking::RemoteVae`] for the other kind.
#[derive(Clone)]
pub struct RemoteVae {
    connections: Arc<[Connection]>,
    balance: Arc<Balance>,
    retry: Retry,
    on_retry: Option<OnRetry>,
    on_warning: Option<OnWarning>,
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
        Builder::new(endpoint)
    }

    /// Decodes latents: `[B, C, h, w]`, `[C, h, w]`, or packed `[B, tokens, 4C]` with
    /// [`height`](DecodeOptions::height) and [`width`](DecodeOptions::width) set.
    ///
    /// # Errors
    /// Options that contradict each other, a server that cannot be reached or does not answer in time, its refusal
    /// (with its own words), or an answer that is not what was asked for.
    pub async fn decode(&self, latents: &Tensor, options: &DecodeOptions) -> Result<Decoded, Error> {
        let request = wire::DecodeRequest { latents: latents.clone(), params: options.params()? };
        options::check_finite(latents, "the latents", options.allow_non_finite)?;
        let exchange = Exchange {
            query: request.query(),
            content_type: request.content_type(),
            accept: request.accept(),
            body: request.latents.bytes.clone(),
            max_answer: bounds::of_decode(&latents.head, request.params.answer),
        };
        let (headers, body) = self.exchange(&exchange).await?;
        answer::read(options.output_type, &headers, body)
    }

    /// Whether a server has loaded its models and accepts work: what it says at `/ready`, asked once and not again.
    /// With several endpoints, whether all have. Other servers than ours may have no such route, which is an error.
    ///
    /// # Errors
    /// A server that cannot be reached or does not answer in time, or any other answer than yes (200) and no (503).
    pub async fn is_ready(&self) -> Result<bool, Error> {
        match self.probe(wire::routes::READY).await {
            Ok(()) => Ok(true),
            Err(Error::Refused { status: 503, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks a server at a path for probes, such as `/health`, once and not again. With several endpoints, all of them.
    ///
    /// # Errors
    /// A server that cannot be reached or does not answer in time; [`Error::Refused`] for any answer but 200.
    pub async fn probe(&self, path: &str) -> Result<(), Error> {
        for connection in self.connections.iter() {
            connection.probe(path).await?;
        }
        Ok(())
    }

    /// The endpoint, without user, password and query: fit for a log. Of several, all, separated by commas.
    pub fn endpoint(&self) -> String {
        let names: Vec<_> = self.connections.iter().map(|connection| connection.endpoint.public()).collect();
        names.join(", ")
    }
}

impl std::fmt::Debug for RemoteVae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteVae").field(&self.endpoint()).finish()
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
