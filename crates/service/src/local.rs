//! Decoding and encoding with a model at hand: the same steps, without a queue and threads.

use bytes::Bytes;
use vae::{HostTensor, Observer, Vae};
use wire::{Answer, DecodeRequest, EncodeParams, EncodeRequest, Limits, Request, Tensor};

use crate::admission::{Admission, OnLarge};
use crate::answer::Reply;
use crate::budget::Budget;
use crate::failure::Failure;
use crate::job::{Context, Prepared, prepare};
use crate::scheduler::Options;
use crate::values::NonFinite;
use crate::{answer, postprocess};

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

/// What an encode gave.
#[derive(Debug)]
pub struct Encoded {
    /// `[B, C, h, w]`, for video `[B, C, f, h, w]`.
    pub latents: Tensor,
    /// What they were sampled with; `None` for the mode.
    pub seed: Option<u64>,
}

/// The sentence that the server would refuse with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl From<Failure> for Refused {
    fn from(error: Failure) -> Self {
        Self(error.message)
    }
}

/// Decodes with a model that is at hand, to the very bytes that a server with this model would answer with; `observer`
/// watches.
///
/// # Errors
/// Everything that the server would refuse, unless `allow_non_finite` values that are NaN or infinite; and an answer that
/// needs HTTP: several files in one body.
pub fn decode(
    vae: &mut dyn Vae,
    request: DecodeRequest,
    limits: &Limits,
    allow_non_finite: bool,
    observer: &mut dyn Observer,
) -> Result<Decoded, Refused> {
    let wanted = request.params.answer;
    let (pixels, _) = run(vae, Request::Decode(request), limits, allow_non_finite, observer)?;
    match wanted {
        Answer::Tensor { values, dtype, .. } => {
            Ok(Decoded::Tensor(postprocess::tensor(pixels, values, dtype).map_err(Failure::from)?))
        }
        Answer::Image(format) => {
            let file = answer::files(pixels, format, &|| true)?.into_iter().next();
            let file = file.ok_or_else(|| Refused("the model gave no picture".to_owned()))?;
            Ok(Decoded::Image(file.content.into()))
        }
        Answer::Video(format) => Ok(Decoded::Video(answer::video(pixels, format, &|| true)?.into())),
        Answer::Images(..) => {
            Err(Refused("only a tensor, a picture or a video can be decoded without a server".to_owned()))
        }
    }
}

/// Encodes with a model that is at hand, to the very latents that a server with this model would answer with; `observer`
/// watches.
///
/// # Errors
/// Everything that the server would refuse, unless `allow_non_finite` values that are NaN or infinite.
pub fn encode(
    vae: &mut dyn Vae,
    request: EncodeRequest,
    limits: &Limits,
    allow_non_finite: bool,
    observer: &mut dyn Observer,
) -> Result<Encoded, Refused> {
    let EncodeParams { dtype, scaling, .. } = request.params;
    let info = vae.info().clone();
    let (moments, reply) = run(vae, Request::Encode(request), limits, allow_non_finite, observer)?;
    let Reply::Latents { sample_mode, .. } = reply else {
        return Err(Refused("only latents come of an encode".to_owned()));
    };
    let latents = answer::latents(moments, sample_mode, scaling, &info, dtype)?;
    Ok(Encoded { latents, seed: reply.seed() })
}

fn run(
    vae: &mut dyn Vae,
    request: Request,
    limits: &Limits,
    allow_non_finite: bool,
    observer: &mut dyn Observer,
) -> Result<(HostTensor, Reply), Failure> {
    let context = Context {
        info: vae.info(),
        latents_of: None,
        limits,
        admission: &Admission { budget: Budget::unlimited(), on_large: OnLarge::Exact },
        forecasts: None,
        non_finite: if allow_non_finite { NonFinite::Allowed } else { NonFinite::Refused },
    };
    let (_, Prepared { read, options, reply, warnings, .. }) = prepare(request, &context)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let input = read(&|| true)?;
    let output = match options {
        Options::Decode(options) => vae.decode(input, &options, observer)?,
        Options::Encode(options) => vae.encode(input, &options, observer)?,
    };
    Ok((output, reply))
}
