//! WebP files.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{Header, Orientation, to_rgb};
use crate::MediaError;

fn failed(error: DecodingError) -> MediaError {
    MediaError::Decoder { format: "WebP", message: error.to_string() }
}

pub(super) fn header(file: &[u8]) -> Result<Header, MediaError> {
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    // Data that cannot be read says nothing of the orientation, and the picture may still be sound.
    let orientation = decoder.exif_metadata().ok().flatten().and_then(Orientation::of_exif);
    Ok(Header {
        width: width as usize,
        height: height as usize,
        orientation: orientation.unwrap_or_default(),
    })
}

pub(super) fn pixels(file: &[u8]) -> Result<Vec<u8>, MediaError> {
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(failed)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let length = decoder.output_buffer_size().ok_or_else(|| failed(DecodingError::ImageTooLarge))?;
    let mut pixels = vec![0; length];
    decoder.read_image(&mut pixels).map_err(failed)?;
    Ok(to_rgb(pixels, channels))
}
