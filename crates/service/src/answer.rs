//! Answers: what was decoded or encoded, as the files and tensors that clients want.

use std::time::Instant;

use bytes::Bytes;
use media::{
    Channels, DEFAULT_QUALITY, DEFAULT_WEBP_QUALITY, IsWanted, JPEG_MAX_SIDE, MP4_MAX_SIZE, MediaError,
    Mp4Options, PNG_MAX_SIDE, WEBP_MAX_SIDE, encode_jpeg, encode_mp4, encode_png, encode_webp,
};
use vae::{DiagonalGaussianDistribution, HostTensor, SampleMode, VaeError, VaeInfo};
use wire::{DType, ImageFormat, Tensor, TensorHead, Transfer, VIDEO_MP4, Values, VideoFormat};

use crate::failure::Failure;
use crate::job::Report;
use crate::packaging::{File, pack};
use crate::postprocess::{Pictures, pictures, tensor};
use crate::tensors::{self, floats};

/// What a client gets.
#[derive(Debug)]
pub struct Answer {
    /// What the body is.
    pub content_type: String,
    /// The file or the tensor.
    pub body: Bytes,
    /// Shape and type of a tensor.
    pub tensor: Option<TensorHead>,
    /// What latents were sampled with, so that a job without a seed can be repeated.
    pub seed: Option<u64>,
    /// What is odd about the request, one sentence each time.
    pub warnings: Vec<String>,
    /// What it took.
    pub report: Report,
}

/// What a request is answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// Decoded pictures.
    Pictures(wire::Answer),
    /// Encoded latents.
    Latents {
        dtype: DType,
        transfer: Transfer,
        /// How they are chosen from the distribution that the model gives; `None` for its moments themselves.
        sample_mode: Option<SampleMode>,
        scaling: wire::Scaling,
    },
}

impl Reply {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Pictures(answer) => answer.media_type(),
            Self::Latents { transfer, .. } => transfer.media_type(),
        }
    }

    /// What latents are sampled with; `None` for the mode and for moments, and for pictures.
    pub(crate) fn seed(self) -> Option<u64> {
        match self {
            Self::Latents { sample_mode: Some(SampleMode::Sample { seed }), .. } => Some(seed),
            Self::Latents { .. } | Self::Pictures(_) => None,
        }
    }
}

/// Checks that a model can answer so with pictures of this height and width, before any work is done.
///
/// # Errors
/// [`Unprocessable`](crate::FailureKind::Unprocessable), with what to ask for instead.
pub(crate) fn check(
    answer: wire::Answer,
    info: &VaeInfo,
    [batch, frames]: [usize; 2],
    size: [usize; 2],
) -> Result<(), Failure> {
    let can_be_video = info.temporal_factor.is_some();
    // One frame is a picture.
    let is_video = frames > 1;
    let channels = Channels::new(info.out_channels);
    let has_alpha = channels == Some(Channels::Rgba);
    if channels.is_none() && !matches!(answer, wire::Answer::Tensor { values: Values::Raw, .. }) {
        return Err(Failure::unprocessable(format!(
            "this model decodes to {} channels, which make no picture: use output_type=pt",
            info.out_channels
        )));
    }
    match answer {
        wire::Answer::Video(_) if has_alpha => Err(Failure::unprocessable(
            "this model decodes to pictures with alpha, which an mp4 file cannot hold: use image_format=png or webp, or \
             output_type=pt",
        )),
        wire::Answer::Video(_) if can_be_video => check_video(batch, size),
        wire::Answer::Video(_) => Err(Failure::unprocessable(
            "output_type=mp4 needs a video model, and this one decodes images: use pil or pt",
        )),
        wire::Answer::Image(_) | wire::Answer::Images(..) if is_video => {
            Err(Failure::unprocessable("a video does not fit into a picture: use output_type=mp4 or pt"))
        }
        wire::Answer::Image(_) if batch > 1 => Err(Failure::unprocessable(format!(
            "{batch} pictures do not fit into one file: use output_type=pt, or accept multipart/mixed or \
             application/zip"
        ))),
        wire::Answer::Image(format) | wire::Answer::Images(format, _) => {
            check_picture(format, has_alpha, size)
        }
        wire::Answer::Tensor { values: Values::Unit | Values::Round8, .. } if is_video && batch > 1 => {
            Err(Failure::unprocessable(format!(
                "the frames of {batch} videos do not fit into one tensor: use output_type=pt without \
                 partial_postprocess"
            )))
        }
        _ => Ok(()),
    }
}

/// Writes the answer from what a model gave, and notes in `report` how long that took. `is_wanted` is asked in between
/// whether anybody still waits.
///
/// # Errors
/// [`Internal`](crate::FailureKind::Internal) when an encoder fails, [`Cancelled`](crate::FailureKind::Cancelled) when nobody
/// waits any more.
pub(crate) fn write(
    output: HostTensor,
    reply: Reply,
    info: &VaeInfo,
    report: Report,
    warnings: Vec<String>,
    is_wanted: &IsWanted<'_>,
) -> Result<Answer, Failure> {
    let start = Instant::now();
    let (content_type, body, tensor) = match reply {
        Reply::Pictures(answer) => write_pictures(output, answer, is_wanted)?,
        Reply::Latents { dtype, transfer, sample_mode, scaling } => {
            write_tensor(latents(output, sample_mode, scaling, info, dtype)?, transfer)
        }
    };
    let seed = reply.seed();
    let report = Report { written: start.elapsed(), ..report };
    Ok(Answer { content_type, body, tensor, seed, warnings, report })
}

/// Latents as they travel, from the moments of their distribution; without a `sample_mode` the moments, unscaled.
pub(crate) fn latents(
    moments: HostTensor,
    sample_mode: Option<SampleMode>,
    scaling: wire::Scaling,
    info: &VaeInfo,
    dtype: DType,
) -> Result<Tensor, Failure> {
    let latents = match sample_mode {
        None => moments,
        Some(sample_mode) => {
            let mut latents = DiagonalGaussianDistribution::new(moments).latents(sample_mode);
            tensors::scaling(scaling).undo(&mut latents, info)?;
            latents
        }
    };
    let bytes = floats(&latents.data, dtype);
    Tensor::new(dtype, latents.shape, bytes).map_err(broken)
}

/// Content type, body, and what tensor it holds.
type Written = (String, Bytes, Option<TensorHead>);

fn write_pictures(
    pixels: HostTensor,
    answer: wire::Answer,
    is_wanted: &IsWanted<'_>,
) -> Result<Written, Failure> {
    Ok(match answer {
        wire::Answer::Tensor { values, dtype, transfer } => {
            write_tensor(tensor(pixels, values, dtype).map_err(broken)?, transfer)
        }
        wire::Answer::Image(format) => {
            let files = files(pixels, format, is_wanted)?;
            let file =
                files.into_iter().next().ok_or_else(|| Failure::internal("the model gave no picture"))?;
            (format.media_type().to_owned(), file.content.into(), None)
        }
        wire::Answer::Images(format, packaging) => {
            let (content_type, body) = pack(&files(pixels, format, is_wanted)?, packaging).map_err(broken)?;
            (content_type, body.into(), None)
        }
        wire::Answer::Video(format) => (VIDEO_MP4.to_owned(), video(pixels, format, is_wanted)?.into(), None),
    })
}

/// A tensor; in base64, its shape and type are in the body too.
fn write_tensor(tensor: Tensor, transfer: Transfer) -> Written {
    let content_type = transfer.media_type().to_owned();
    match transfer {
        Transfer::Binary | Transfer::Octets => (content_type, tensor.bytes, Some(tensor.head)),
        Transfer::Base64 | Transfer::Json => {
            let body = wire::write_base64_answer(&tensor);
            (content_type, body.into(), Some(tensor.head))
        }
    }
}

/// One file a picture, named by its place in the batch.
pub(crate) fn files(
    pixels: HostTensor,
    format: ImageFormat,
    is_wanted: &IsWanted<'_>,
) -> Result<Vec<File>, Failure> {
    let Pictures { height, width, pictures, .. } = pictures(pixels).map_err(broken)?;
    let encode = |(index, picture): (usize, Vec<u8>)| {
        if !is_wanted() {
            return Err(VaeError::Cancelled.into());
        }
        let content = match format {
            ImageFormat::Jpeg { quality } => {
                encode_jpeg(&picture, width, height, quality.unwrap_or(DEFAULT_QUALITY))
            }
            ImageFormat::Png => encode_png(&picture, width, height),
            ImageFormat::WebP { quality } => {
                encode_webp(&picture, width, height, quality.unwrap_or(DEFAULT_WEBP_QUALITY))
            }
        };
        let name = format!("{index}.{}", format.name());
        content.map(|content| File { name, media_type: format.media_type(), content }).map_err(broken)
    };
    pictures.into_iter().enumerate().map(encode).collect()
}

/// The frames of one video as an mp4 file.
pub(crate) fn video(
    pixels: HostTensor,
    format: VideoFormat,
    is_wanted: &IsWanted<'_>,
) -> Result<Vec<u8>, Failure> {
    let Pictures { height, width, pictures: frames, .. } = pictures(pixels).map_err(broken)?;
    let options = Mp4Options { fps: format.fps, quality: format.quality };
    encode_mp4(&frames, width, height, &options, is_wanted).map_err(|error| match error {
        MediaError::Cancelled => VaeError::Cancelled.into(),
        error => broken(error),
    })
}

/// Whether pictures of this height and width, in pixels, fit into such a file, with alpha if they have it.
fn check_picture(format: ImageFormat, has_alpha: bool, [height, width]: [usize; 2]) -> Result<(), Failure> {
    if has_alpha && matches!(format, ImageFormat::Jpeg { .. }) {
        return Err(Failure::unprocessable(
            "this model decodes to pictures with alpha, which a JPEG file cannot hold: use image_format=png or webp",
        ));
    }
    let (name, longest, instead) = match format {
        ImageFormat::Jpeg { .. } => ("JPEG", JPEG_MAX_SIDE, "image_format=png"),
        ImageFormat::Png => ("PNG", PNG_MAX_SIDE, "output_type=pt"),
        ImageFormat::WebP { .. } => ("WebP", WEBP_MAX_SIDE, "image_format=png"),
    };
    if height.max(width) > longest {
        return Err(Failure::unprocessable(format!(
            "a {name} file holds pictures of at most {longest} x {longest} pixels, and this one is {width} x {height}: \
             use {instead}"
        )));
    }
    Ok(())
}

/// Whether videos of this height and width, in pixels, fit into one mp4 file.
fn check_video(batch: usize, [height, width]: [usize; 2]) -> Result<(), Failure> {
    let [longest, shortest] = MP4_MAX_SIZE;
    if height.max(width) > longest || height.min(width) > shortest {
        return Err(Failure::unprocessable(format!(
            "an mp4 file holds pictures of at most {longest} x {shortest} pixels, and these are {width} x {height}: \
             use output_type=pt"
        )));
    }
    if batch > 1 {
        return Err(Failure::unprocessable(format!(
            "{batch} videos do not fit into one mp4 file: send them one by one, or use output_type=pt"
        )));
    }
    Ok(())
}

fn broken(error: impl std::error::Error) -> Failure {
    Failure::internal(format!("the answer could not be written: {error}"))
}
