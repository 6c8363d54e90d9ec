//! Answers: the wire's headers and bodies around what was decoded or encoded.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use media::{
    DEFAULT_QUALITY, DEFAULT_WEBP_QUALITY, JPEG_MAX_SIDE, MP4_MAX_SIZE, Mp4Options, PNG_MAX_SIDE,
    WEBP_MAX_SIDE, encode_jpeg, encode_mp4, encode_png, encode_webp,
};
use vae::{HostTensor, VaeInfo};
use wire::{Answer, DType, ImageFormat, Tensor, Transfer, VIDEO_MP4, Values, VideoFormat};

use crate::error::ApiError;
use crate::executor::Done;
use crate::packaging::{File, pack};
use crate::postprocess::{pictures, tensor};
use crate::tensors::floats;

/// Header with the shape of a tensor answer.
const SHAPE: HeaderName = HeaderName::from_static("shape");
/// Header with the type of a tensor answer.
const DTYPE: HeaderName = HeaderName::from_static("dtype");
/// Header with how long each step took, in milliseconds (W3C Server Timing).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Header with the seed of sampled latents, so that a request without one can be repeated.
const SEED: HeaderName = HeaderName::from_static("seed");

/// Header with what is odd about a request that was answered all the same, one sentence each time.
pub(crate) const WARNING: HeaderName = HeaderName::from_static("x-warning");

/// What a request is answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// Decoded pictures.
    Pictures(Answer),
    /// Encoded latents.
    Latents {
        dtype: DType,
        transfer: Transfer,
        /// What they were sampled with.
        seed: Option<u64>,
    },
}

impl Reply {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Pictures(answer) => answer.media_type(),
            Self::Latents { transfer, .. } => transfer.media_type(),
        }
    }
}

/// Checks that a model can answer so with pictures of this height and width, before any work is done.
///
/// # Errors
/// 422 that says what to ask for instead.
pub(crate) fn check(answer: Answer, info: &VaeInfo, batch: usize, size: [usize; 2]) -> Result<(), ApiError> {
    let is_video = info.temporal_factor.is_some();
    let needs_rgb = !matches!(answer, Answer::Tensor { values: Values::Raw, .. });
    if needs_rgb && info.out_channels != 3 {
        return Err(ApiError::unprocessable(format!(
            "this model decodes to {} channels, which make no picture: use output_type=pt",
            info.out_channels
        )));
    }
    match answer {
        Answer::Video(_) if is_video => check_video(batch, size),
        Answer::Video(_) => Err(ApiError::unprocessable(
            "output_type=mp4 needs a video model, and this one decodes images: use pil or pt",
        )),
        Answer::Image(_) | Answer::Images(..) if is_video => {
            Err(ApiError::unprocessable("a video does not fit into a picture: use output_type=mp4 or pt"))
        }
        Answer::Image(_) if batch > 1 => Err(ApiError::unprocessable(format!(
            "{batch} pictures do not fit into one file: use output_type=pt, or accept multipart/mixed or \
             application/zip"
        ))),
        Answer::Image(format) | Answer::Images(format, _) => check_picture(format, size),
        Answer::Tensor { values: Values::Unit | Values::Round8, .. } if is_video && batch > 1 => {
            Err(ApiError::unprocessable(format!(
                "the frames of {batch} videos do not fit into one tensor: use output_type=pt without \
                 partial_postprocess"
            )))
        }
        _ => Ok(()),
    }
}

/// The answer. Takes long enough to be kept off the threads that serve connections.
///
/// # Errors
/// 500 when an encoder fails.
pub(crate) fn answer(done: Done, reply: Reply) -> Result<Response, ApiError> {
    let start = Instant::now();
    let mut response = match reply {
        Reply::Pictures(answer) => pictures_response(done.output, answer)?,
        Reply::Latents { dtype, transfer, seed } => {
            let mut response = tensor_response(latents(done.output, dtype)?, transfer)?;
            if let Some(seed) = seed {
                response.headers_mut().insert(SEED, HeaderValue::from(seed));
            }
            response
        }
    };
    let timing = [("queue", done.queued), ("work", done.worked), ("encode", start.elapsed())]
        .map(|(name, time)| format!("{name};dur={:.1}", milliseconds(time)))
        .join(", ");
    insert(&mut response, SERVER_TIMING, &timing)?;
    Ok(response)
}

/// Latents as they travel.
pub(crate) fn latents(latents: HostTensor, dtype: DType) -> Result<Tensor, ApiError> {
    let bytes = floats(&latents.data, dtype);
    Tensor::new(dtype, latents.shape, bytes).map_err(broken)
}

fn pictures_response(pixels: HostTensor, answer: Answer) -> Result<Response, ApiError> {
    match answer {
        Answer::Tensor { values, dtype, transfer } => {
            tensor_response(tensor(pixels, values, dtype).map_err(broken)?, transfer)
        }
        Answer::Image(format) => {
            let files = files(pixels, format)?;
            let file =
                files.into_iter().next().ok_or_else(|| ApiError::internal("the model gave no picture"))?;
            respond(format.media_type(), file.content)
        }
        Answer::Images(format, packaging) => {
            let (content_type, body) = pack(&files(pixels, format)?, packaging).map_err(broken)?;
            respond(&content_type, body)
        }
        Answer::Video(format) => respond(VIDEO_MP4, video(pixels, format)?),
    }
}

/// A tensor with its `shape` and `dtype`: in headers, and for base64 in the body too.
fn tensor_response(tensor: Tensor, transfer: Transfer) -> Result<Response, ApiError> {
    let shape = tensor.head.shape_header();
    let dtype = tensor.head.dtype.name();
    let body = match transfer {
        Transfer::Binary | Transfer::Octets => Body::from(tensor.bytes),
        Transfer::Base64 | Transfer::Json => Body::from(wire::write_base64_answer(&tensor)),
    };
    let mut response = respond(transfer.media_type(), body)?;
    insert(&mut response, SHAPE, &shape)?;
    insert(&mut response, DTYPE, dtype)?;
    Ok(response)
}

/// One file a picture, named by its place in the batch.
pub(crate) fn files(pixels: HostTensor, format: ImageFormat) -> Result<Vec<File>, ApiError> {
    let (height, width, pictures) = pictures(pixels);
    let encode = |(index, rgb): (usize, Vec<u8>)| {
        let content = match format {
            ImageFormat::Jpeg { quality } => {
                encode_jpeg(&rgb, width, height, quality.unwrap_or(DEFAULT_QUALITY))
            }
            ImageFormat::Png => encode_png(&rgb, width, height),
            ImageFormat::WebP { quality } => {
                encode_webp(&rgb, width, height, quality.unwrap_or(DEFAULT_WEBP_QUALITY))
            }
        };
        let name = format!("{index}.{}", format.name());
        content.map(|content| File { name, media_type: format.media_type(), content }).map_err(broken)
    };
    pictures.into_iter().enumerate().map(encode).collect()
}

/// The frames of one video as an mp4 file.
pub(crate) fn video(pixels: HostTensor, format: VideoFormat) -> Result<Vec<u8>, ApiError> {
    let (height, width, frames) = pictures(pixels);
    let options = Mp4Options { fps: format.fps, quality: format.quality };
    encode_mp4(&frames, width, height, &options, &|| true).map_err(broken)
}

/// Whether pictures of this height and width, in pixels, fit into such a file.
fn check_picture(format: ImageFormat, [height, width]: [usize; 2]) -> Result<(), ApiError> {
    let (name, longest, instead) = match format {
        ImageFormat::Jpeg { .. } => ("JPEG", JPEG_MAX_SIDE, "image_format=png"),
        ImageFormat::Png => ("PNG", PNG_MAX_SIDE, "output_type=pt"),
        ImageFormat::WebP { .. } => ("WebP", WEBP_MAX_SIDE, "image_format=png"),
    };
    if height.max(width) > longest {
        return Err(ApiError::unprocessable(format!(
            "a {name} file holds pictures of at most {longest} x {longest} pixels, and this one is {width} x {height}: \
             use {instead}"
        )));
    }
    Ok(())
}

/// Whether videos of this height and width, in pixels, fit into one mp4 file.
fn check_video(batch: usize, [height, width]: [usize; 2]) -> Result<(), ApiError> {
    let [longest, shortest] = MP4_MAX_SIZE;
    if height.max(width) > longest || height.min(width) > shortest {
        return Err(ApiError::unprocessable(format!(
            "an mp4 file holds pictures of at most {longest} x {shortest} pixels, and these are {width} x {height}: \
             use output_type=pt"
        )));
    }
    if batch > 1 {
        return Err(ApiError::unprocessable(format!(
            "{batch} videos do not fit into one mp4 file: send them one by one, or use output_type=pt"
        )));
    }
    Ok(())
}

/// Adds a header for each sentence, which are in ASCII.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    for text in warnings.iter().filter_map(|warning| HeaderValue::from_str(warning).ok()) {
        response.headers_mut().append(WARNING, text);
    }
}

fn respond(content_type: &str, body: impl Into<Body>) -> Result<Response, ApiError> {
    let mut response = body.into().into_response();
    insert(&mut response, header::CONTENT_TYPE, content_type)?;
    Ok(response)
}

fn insert(response: &mut Response, name: HeaderName, value: &str) -> Result<(), ApiError> {
    let value = HeaderValue::from_str(value).map_err(broken)?;
    response.headers_mut().insert(name, value);
    Ok(())
}

fn broken(error: impl std::error::Error) -> ApiError {
    ApiError::internal(format!("the answer could not be written: {error}"))
}

/// Times are for people, so tenths of a millisecond are plenty.
fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
