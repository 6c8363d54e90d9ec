//! A decode without the server: the same rooms, without HTTP, queue and thread.

use bytes::Bytes;
use vae::{Silent, Vae};
use wire::{Answer, DecodeRequest, Limits, Tensor};

use crate::decode::{check, for_model, options};
use crate::error::ApiError;
use crate::{postprocess, respond};

/// What a decode gave: the body that the server would send.
#[derive(Debug)]
pub enum Decoded {
    /// [`Answer::Tensor`].
    Tensor(Tensor),
    /// [`Answer::Image`]: the file.
    Image(Bytes),
    /// [`Answer::Video`]: the file.
    Video(Bytes),
}

/// The sentence that the server would refuse with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl From<ApiError> for DecodeError {
    fn from(error: ApiError) -> Self {
        Self(error.message)
    }
}

/// Decodes with a model that is at hand, to the very bytes that a server with this model would answer with.
///
/// # Errors
/// Everything that the server would refuse, and an answer that needs HTTP: several files in one body.
pub fn decode(vae: &mut dyn Vae, request: DecodeRequest, limits: &Limits) -> Result<Decoded, DecodeError> {
    let DecodeRequest { latents, params } = request;
    check(&latents, &params, vae.info(), limits)?;
    let latents = for_model(latents, &params, vae.info()).map_err(ApiError::from)?;
    let pixels = vae.decode(latents, &options(&params), &mut Silent).map_err(ApiError::from)?;
    match params.answer {
        Answer::Tensor { values, dtype, .. } => {
            Ok(Decoded::Tensor(postprocess::tensor(pixels, values, dtype).map_err(ApiError::from)?))
        }
        Answer::Image(format) => {
            let file = respond::files(pixels, format)?.into_iter().next();
            let file = file.ok_or_else(|| DecodeError("the model gave no picture".to_owned()))?;
            Ok(Decoded::Image(file.content.into()))
        }
        Answer::Video(format) => Ok(Decoded::Video(respond::video(pixels, format)?.into())),
        Answer::Images(..) => {
            Err(DecodeError("only a tensor, a picture or a video can be decoded without a server".to_owned()))
        }
    }
}
