//! A decode without the server: the same rooms, without HTTP, queue and thread.

use bytes::Bytes;
use vae::{DecodeOptions, Silent, Vae};
use wire::{Answer, DecodeRequest, Limits, Tensor};

use crate::decode::{check, for_model};
use crate::error::ApiError;
use crate::{postprocess, respond};

/// What a decode gave: the body that the server would send.
#[derive(Debug)]
pub enum Decoded {
    /// [`Answer::Tensor`].
    Tensor(Tensor),
    /// [`Answer::Image`]: the file.
    Image(Bytes),
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
/// Everything that the server would refuse, and answers that need HTTP: several files in one body, or mp4.
pub fn decode(vae: &mut dyn Vae, request: DecodeRequest, limits: &Limits) -> Result<Decoded, DecodeError> {
    let DecodeRequest { latents, params } = request;
    check(&latents, &params, vae.info(), limits)?;
    let latents = for_model(latents, &params, vae.info()).map_err(ApiError::from)?;
    let pixels = vae.decode(latents, &DecodeOptions::default(), &mut Silent).map_err(ApiError::from)?;
    match params.answer {
        Answer::Tensor { values, dtype, .. } => {
            Ok(Decoded::Tensor(postprocess::tensor(pixels, values, dtype).map_err(ApiError::from)?))
        }
        Answer::Image(format) => {
            let file = respond::files(pixels, format)?.into_iter().next();
            let file = file.ok_or_else(|| DecodeError("the model gave no picture".to_owned()))?;
            Ok(Decoded::Image(file.content.into()))
        }
        Answer::Images(..) | Answer::Video => {
            Err(DecodeError("only a tensor or one picture can be decoded without a server".to_owned()))
        }
    }
}
