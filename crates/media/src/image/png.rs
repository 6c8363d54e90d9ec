//! PNG files.

mod chunks;

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError};

use super::{Header, to_rgb};
use crate::MediaError;

fn failed(message: impl ToString) -> MediaError {
    MediaError::Decoder { format: "PNG", message: message.to_string() }
}

pub(super) fn header(file: &[u8]) -> Result<Header, MediaError> {
    let chunks::Head { width, height, metadata } = chunks::read(file)?;
    Ok(Header { width, height, orientation: metadata.orientation() })
}

pub(super) fn pixels(file: &[u8]) -> Result<Vec<u8>, MediaError> {
    chunks::check_whole(file)?;
    let mut decoder = Decoder::new(Cursor::new(file));
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(failed)?;
    let length = reader.output_buffer_size().ok_or_else(|| failed("its size cannot be counted"))?;
    let mut samples = vec![0; length];
    let frame = reader.next_frame(&mut samples).map_err(|error| match error {
        DecodingError::IoError(_) => MediaError::CutOff { format: "PNG" },
        error => failed(error),
    })?;
    samples.truncate(frame.buffer_size());
    let grey = frame.color_type == ColorType::Grayscale;
    let bits = frame.bit_depth as u8;
    let samples = match frame.bit_depth {
        BitDepth::Eight => samples,
        BitDepth::Sixteen => from_sixteen_bits(&samples, grey),
        _ => from_few_bits(&samples, frame.line_size, frame.width as usize, bits, grey),
    };
    if frame.color_type != ColorType::Indexed {
        return Ok(to_rgb(samples, frame.color_type.samples()));
    }
    let palette = reader.info().palette.as_deref().ok_or_else(|| failed("it has no palette"))?;
    let palette = palette.as_chunks::<3>().0;
    // Pillow's palettes are shades of grey before a file's colours are put into them.
    let colour = |&index: &u8| palette.get(usize::from(index)).copied().unwrap_or([index; 3]);
    Ok(samples.iter().flat_map(colour).collect())
}

/// Samples of 16 bits, big-endian, as Pillow has them in eight. Grey is its mode `I;16`, whose conversion cuts at 255; all
/// others are read as their upper byte.
fn from_sixteen_bits(samples: &[u8], grey: bool) -> Vec<u8> {
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

/// Rows of `line` bytes that hold `width` samples of 1, 2 or 4 bits: the indices of a palette, or shades of grey that are
/// spread over the range of a byte.
fn from_few_bits(rows: &[u8], line: usize, width: usize, bits: u8, grey: bool) -> Vec<u8> {
    let most = (1 << bits) - 1;
    let spread = if grey { 255 / most } else { 1 };
    let sample = |row: &[u8], x: usize| {
        let at = x * usize::from(bits);
        let shift = 8 - bits - (at % 8) as u8;
        (row[at / 8] >> shift & most) * spread
    };
    rows.chunks_exact(line).flat_map(|row| (0..width).map(move |x| sample(row, x))).collect()
}
