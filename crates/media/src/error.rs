//! What can go wrong between pixels and a file, in both directions.

use crate::Channels;

/// Pixels could not be written as a file, or a file not be read as pixels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The pixels are not as many as height and width say.
    #[error(
        "{found} bytes of {channels} pixels do not make a picture of {width} x {height} (expected {expected})"
    )]
    PixelCount {
        /// What the bytes of a pixel are.
        channels: Channels,
        /// Bytes given.
        found: usize,
        /// Bytes that the size asks for.
        expected: usize,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// The format has no such sizes.
    #[error("{format} cannot hold a picture of {width} x {height} pixels (each side from 1 to {limit})")]
    Size {
        /// Name of the format.
        format: &'static str,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The longest side it can hold.
        limit: usize,
    },
    /// The encoder failed for another reason.
    #[error("the {format} encoder failed: {message}")]
    Encoder {
        /// Name of the format.
        format: &'static str,
        /// What the encoder said.
        message: String,
    },
    /// The file is in no format that can be read.
    #[error("this is no picture file that can be read: it must be a PNG, JPEG or WebP file")]
    UnknownFormat,
    /// The file ends before its picture does.
    #[error("the {format} file is cut off, it ends before its picture does: copy or download it again")]
    CutOff {
        /// Name of the format.
        format: &'static str,
    },
    /// Nobody waits for the result any longer: [`IsWanted`](crate::IsWanted) said so.
    #[error("the work was ended, as nobody waits for it")]
    Cancelled,
    /// The decoder panicked.
    #[error(
        "this file made the {format} decoder fail: save it anew with another program, and please report it"
    )]
    DecoderPanic {
        /// Name of the format.
        format: &'static str,
    },
    /// The file begins like one of its format, and then does not follow it.
    #[error("the {format} file cannot be read, it may be damaged: {message}")]
    Decoder {
        /// Name of the format.
        format: &'static str,
        /// What the decoder said.
        message: String,
    },
}

/// Checks that `pixels` are `width` × `height` pixels with these channels, each side from 1 to `limit`.
pub(crate) fn check_size(
    format: &'static str,
    pixels: &[u8],
    channels: Channels,
    [width, height]: [usize; 2],
    limit: usize,
) -> Result<(), MediaError> {
    if width == 0 || height == 0 || width > limit || height > limit {
        return Err(MediaError::Size { format, width, height, limit });
    }
    let expected = width * height * channels.count();
    if pixels.len() != expected {
        return Err(MediaError::PixelCount { channels, found: pixels.len(), expected, width, height });
    }
    Ok(())
}

/// RGBA where `pixels` are as many bytes as `width` × `height` pixels have with alpha, else RGB.
pub(crate) fn channels(pixels: &[u8], width: usize, height: usize) -> Channels {
    let area = width.saturating_mul(height);
    if area > 0 && pixels.len() == area.saturating_mul(4) { Channels::Rgba } else { Channels::Rgb }
}
