//! PNG files.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Reader, Transformations};

use super::{Header, Orientation, to_rgb};
use crate::MediaError;

fn failed(error: DecodingError) -> MediaError {
    MediaError::Decoder { format: "PNG", message: error.to_string() }
}

fn reader(file: &[u8]) -> Result<Reader<Cursor<&[u8]>>, MediaError> {
    let mut decoder = Decoder::new(Cursor::new(file));
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Palettes to colours, fewer bits to eight.
    decoder.set_transformations(Transformations::EXPAND);
    decoder.read_info().map_err(failed)
}

pub(super) fn header(file: &[u8]) -> Result<Header, MediaError> {
    let reader = reader(file)?;
    let info = reader.info();
    let orientation = info.exif_metadata.as_ref().and_then(|exif| Orientation::of_exif(exif.to_vec()));
    Ok(Header {
        width: info.width as usize,
        height: info.height as usize,
        orientation: orientation.unwrap_or_default(),
    })
}

pub(super) fn pixels(file: &[u8]) -> Result<Vec<u8>, MediaError> {
    let mut reader = reader(file)?;
    let too_large =
        || MediaError::Decoder { format: "PNG", message: "its size cannot be counted".to_owned() };
    let mut pixels = vec![0; reader.output_buffer_size().ok_or_else(too_large)?];
    let frame = reader.next_frame(&mut pixels).map_err(failed)?;
    pixels.truncate(frame.buffer_size());
    let channels = frame.color_type.samples();
    if frame.bit_depth == BitDepth::Sixteen {
        pixels = to_eight_bits(&pixels, frame.color_type == ColorType::Grayscale);
    }
    Ok(to_rgb(pixels, channels))
}

/// Samples of 16 bits, big-endian, as Pillow has them in eight. Grey without transparency is its mode `I;16`, whose
/// conversion cuts at 255; all others are read as their upper byte.
fn to_eight_bits(samples: &[u8], grey: bool) -> Vec<u8> {
    let convert = |&[upper, lower]: &[u8; 2]| {
        if grey && upper > 0 {
            255
        } else if grey {
            lower
        } else {
            upper
        }
    };
    samples.as_chunks().0.iter().map(convert).collect()
}
