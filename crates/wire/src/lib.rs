//! The remote VAE wire protocol as types: what a request says, what an answer looks like, and both halves of
//! each, so that client and server cannot drift apart.
//!
//! The protocol is the one that `diffusers.utils.remote_utils` speaks (`remote_decode`, `remote_encode`), with the parts that
//! other clients in the field use. Nothing here does input or output, and a tensor is no more than a type, a
//! shape and bytes.
//!
//! ```
//! # use remote_vae_wire as wire;
//! # fn main() -> Result<(), wire::WireError> {
//! use wire::{Answer, DecodeRequest, Params, RequestHead, Tensor};
//!
//! // The client's half ...
//! let latents = Tensor::new(wire::DType::Float16, vec![1, 4, 2, 2], vec![0; 32].into())?;
//! let request = DecodeRequest { latents, params: Params::new(Answer::default()) };
//! let (query, body) = (request.query(), request.latents.bytes.clone());
//!
//! // ... and the server's.
//! let head = RequestHead::read(&query, Some(wire::TENSOR_BINARY), Some(request.accept()))?;
//! assert_eq!(head.request(body)?, wire::Request::Decode(request));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
// What arrives here was written by strangers: nothing they send may end the process.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod accept;
mod answer;
mod base64;
mod encode;
mod error;
mod limits;
mod metadata;
mod parameters;
mod params;
mod request;
pub mod routes;
mod survey;
mod tensor;
mod unknown;

pub use accept::Accept;
pub use answer::{Answer, ImageFormat, Packaging, Transfer, Values, VideoFormat};
pub use base64::{JsonAnswer, JsonBody, read_base64_answer, write_base64_answer};
pub use encode::{EncodeParams, EncodeRequest, Picture, SampleMode};
pub use error::{ErrorBody, WireError};
pub use limits::Limits;
pub use metadata::Metadata;
pub use parameters::{PARAMETERS, Parameter, ParameterKind};
pub use params::{Params, Scaling};
pub use request::{BodyFormat, DecodeRequest, Request, RequestHead, Task, TaskParams};
pub use survey::Survey;
pub use tensor::{DType, Tensor, TensorHead};

/// Media type of a raw tensor: little-endian, C order; its shape and type are in the query or the headers.
pub const TENSOR_BINARY: &str = "tensor/binary";
/// Media type of a tensor as base64 in a JSON object.
pub const TENSOR_BASE64: &str = "tensor/base64";
/// Media type of a video file.
pub const VIDEO_MP4: &str = "video/mp4";
/// Media type of bytes that say themselves what they are.
pub const OCTET_STREAM: &str = "application/octet-stream";
/// Media type of JSON, which is also what the first generation of clients sends.
pub const JSON: &str = "application/json";
