//! JPEG files.

use libjpeg_turbo_rs::{Decoder, JpegError, PixelFormat};

use super::{Header, Orientation};
use crate::MediaError;

fn failed(error: JpegError) -> MediaError {
    MediaError::Decoder { format: "JPEG", message: error.to_string() }
}

pub(super) fn header(file: &[u8]) -> Result<Header, MediaError> {
    let decoder = Decoder::new(file).map_err(failed)?;
    let header = decoder.header();
    let orientation = decoder.exif_orientation().and_then(|value| Orientation::new(value.into()));
    Ok(Header {
        width: header.width(),
        height: header.height(),
        orientation: orientation.unwrap_or_default(),
    })
}

pub(super) fn pixels(file: &[u8]) -> Result<Vec<u8>, MediaError> {
    let mut decoder = Decoder::new(file).map_err(failed)?;
    decoder.set_output_format(PixelFormat::Rgb);
    decoder.decode_image().map(|image| image.data).map_err(failed)
}
