//! Pictures to latents.

use bytes::Bytes;
use reqwest::header::HeaderMap;
use wire::{EncodeRequest, Picture, Tensor, TensorHead};

use crate::exchange::Exchange;
use crate::options::check_finite;
use crate::{EncodeOptions, Error, RemoteVae, bounds};

/// What an encode gave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// `[B, C, h, w]`, for video `[B, C, f, h, w]`.
    pub latents: Tensor,
    /// What the sample was drawn with; with this seed the server gives the same latents again. `None` for the mode, and
    /// from other servers than ours.
    pub seed: Option<u64>,
}

impl RemoteVae {
    /// Encodes a picture: a PNG, JPEG or WebP file, or pixels `[B, 3, H, W]`, `[3, H, W]` (video `[B, 3, F, H, W]`) in
    /// [-1, 1] or, without a negative value, in [0, 1]; bytes from 0 to 255.
    ///
    /// # Errors
    /// As for [`RemoteVae::decode`].
    pub async fn encode(&self, picture: &Picture, options: &EncodeOptions) -> Result<Encoded, Error> {
        let request = EncodeRequest { picture: picture.clone(), params: options.params()? };
        if let Picture::Tensor(pixels) = picture {
            check_finite(pixels, "the pixels", options.allow_non_finite)?;
        }
        let exchange = Exchange {
            query: request.query(),
            content_type: request.content_type(),
            accept: request.accept(),
            body: request.body(),
            max_answer: bounds::of_encode(picture),
        };
        let (headers, body) = self.exchange(&exchange).await?;
        let seed = headers.get("seed").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Encoded { latents: tensor(&headers, body)?, seed })
    }
}

/// The tensor of an answer.
pub(crate) fn tensor(headers: &HeaderMap, body: Bytes) -> Result<Tensor, Error> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let wrong = |what: String| Err(Error::Answer(what));
    let (Some(shape), Some(dtype)) = (header("shape"), header("dtype")) else {
        return wrong("it does not say of what shape and type its tensor is".to_owned());
    };
    let Ok(head) = TensorHead::from_headers(Some(shape), Some(dtype)) else {
        return wrong(format!("it says that its tensor is {dtype:?} of shape {shape:?}, which is none"));
    };
    if body.len() != head.byte_len() {
        return wrong(format!("it has {} bytes, but a tensor of {head} has {}", body.len(), head.byte_len()));
    }
    Tensor::from_head(head, body).map_err(|error| Error::Answer(error.to_string()))
}

/// Encodes once; `diffusers.utils.remote_utils.remote_encode` for async code. For more than one picture, keep a
/// [`RemoteVae`].
///
/// # Errors
/// As [`RemoteVae::new`] and [`RemoteVae::encode`].
pub async fn remote_encode(
    endpoint: &str,
    picture: &Picture,
    options: &EncodeOptions,
) -> Result<Encoded, Error> {
    RemoteVae::new(endpoint)?.encode(picture, options).await
}
