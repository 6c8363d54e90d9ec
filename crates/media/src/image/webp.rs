//! WebP files.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{Channels, Header, Metadata, convert};
use crate::MediaError;
use crate::watch::WatchedFile;

/// Bits of the first byte of a `VP8X` chunk (RFC 9649, 2.7.1): what else is in the file.
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;

fn failed(error: DecodingError) -> MediaError {
    MediaError::Decoder { format: "WebP", message: error.to_string() }
}

/// # Errors
/// A file that is shorter than its container says.
fn check_whole(file: &[u8]) -> Result<(), MediaError> {
    // "RIFF", and the length of what follows it (RFC 9649, 2.4).
    let length = file.get(4..8).and_then(|bytes| bytes.first_chunk()).map(|&bytes| u32::from_le_bytes(bytes));
    match length {
        Some(length) if file.len() as u64 >= u64::from(length) + 8 => Ok(()),
        _ => Err(MediaError::CutOff { format: "WebP" }),
    }
}

/// The size of the canvas in an extended file, and the bits that say what it has.
fn canvas(file: &[u8]) -> Option<(usize, usize, u8)> {
    // Four bytes of the chunk's length, the bits, three bytes kept free, and width and height less one.
    let &[_, _, _, _, bits, _, _, _, w0, w1, w2, h0, h1, h2] =
        file.get(12..)?.strip_prefix(b"VP8X")?.first_chunk()?;
    let side = |bytes: [u8; 3]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)) + 1;
    Some((side([w0, w1, w2]), side([h0, h1, h2]), bits))
}

pub(super) fn header(file: &[u8]) -> Result<Header, MediaError> {
    let canvas = canvas(file);
    let mut decoder = match (WebPDecoder::new(Cursor::new(file)), canvas) {
        // That the picture is too large is better said with the limit that it exceeds.
        (Err(DecodingError::ImageTooLarge), Some((width, height, _))) => {
            let orientation = Metadata::default().orientation();
            return Ok(Header { width, height, channels: Channels::Rgb, orientation });
        }
        (decoder, _) => decoder.map_err(failed)?,
    };
    let (width, height) = decoder.dimensions();
    let mut metadata = Metadata::default();
    if let Some((_, _, bits)) = canvas {
        if bits & EXIF != 0 {
            metadata.exif = decoder.exif_metadata().ok().flatten();
        }
        if bits & XMP != 0 {
            metadata.xmp = decoder.xmp_metadata().ok().flatten();
        }
    }
    let (width, height) = (width as usize, height as usize);
    let channels = if decoder.has_alpha() { Channels::Rgba } else { Channels::Rgb };
    Ok(Header { width, height, channels, orientation: metadata.orientation() })
}

/// `watched` reads `file`.
pub(super) fn pixels(
    file: &[u8],
    watched: WatchedFile<'_>,
    channels: Channels,
) -> Result<Vec<u8>, MediaError> {
    check_whole(file)?;
    let mut decoder = WebPDecoder::new(watched).map_err(failed)?;
    let stored = if decoder.has_alpha() { 4 } else { 3 };
    let length = decoder.output_buffer_size().ok_or_else(|| failed(DecodingError::ImageTooLarge))?;
    let mut pixels = vec![0; length];
    decoder.read_image(&mut pixels).map_err(failed)?;
    Ok(convert(pixels, stored, channels))
}
