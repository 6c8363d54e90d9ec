//! PNG files.

mod chunks;

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, InterlaceInfo, Reader, expand_interlaced_row};

use super::{Channels, Header, OPAQUE, convert};
use crate::MediaError;
use crate::watch::WatchedFile;

/// Deflate makes of one byte this many at most (zlib.net, "zlib Technical Details").
const MAX_GROWTH: usize = 1032;

fn failed(message: impl ToString) -> MediaError {
    MediaError::Decoder { format: "PNG", message: message.to_string() }
}

pub(super) fn header(file: &[u8]) -> Result<Header, MediaError> {
    let chunks::Head { width, height, channels, metadata } = chunks::read(file)?;
    Ok(Header { width, height, channels, orientation: metadata.orientation() })
}

/// `watched` reads `file`.
pub(super) fn pixels(
    file: &[u8],
    watched: WatchedFile<'_>,
    channels: Channels,
) -> Result<Vec<u8>, MediaError> {
    chunks::check_whole(file)?;
    let mut decoder = Decoder::new(watched);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(unreadable)?;
    let length = reader.output_buffer_size().ok_or_else(|| failed("its size cannot be counted"))?;
    // Before memory is taken: a header can promise anything.
    if length / MAX_GROWTH > file.len() {
        let Info { width, height, .. } = reader.info();
        return Err(failed(format!("{} bytes cannot hold {width} x {height} pixels", file.len())));
    }
    let (samples, line) = samples(&mut reader, length)?;
    let Info { color_type, bit_depth, width, .. } = reader.info();
    let grey = *color_type == ColorType::Grayscale;
    let samples = match bit_depth {
        BitDepth::Eight => samples,
        BitDepth::Sixteen => from_sixteen_bits(&samples, grey),
        _ => from_few_bits(&samples, line, *width as usize, *bit_depth as u8, grey),
    };
    let transparency = chunks::transparency(file).unwrap_or_default();
    if *color_type != ColorType::Indexed {
        let mut pixels = convert(samples, color_type.samples(), channels);
        if channels == Channels::Rgba
            && let Some(colour) = transparent_colour(transparency, *color_type, *bit_depth)
        {
            clear(&mut pixels, colour);
        }
        return Ok(pixels);
    }
    let palette = reader.info().palette.as_deref().ok_or_else(|| failed("it has no palette"))?;
    let palette = palette.as_chunks::<3>().0;
    // What lies beyond the palette is black, as for Pillow.
    let colour = |&index: &u8| palette.get(usize::from(index)).copied().unwrap_or_default();
    if channels == Channels::Rgb {
        return Ok(samples.iter().flat_map(colour).collect());
    }
    let pixel = |index: &u8| {
        let [red, green, blue] = colour(index);
        [red, green, blue, transparency.get(usize::from(*index)).copied().unwrap_or(OPAQUE)]
    };
    Ok(samples.iter().flat_map(pixel).collect())
}

/// The one colour that is transparent, as Pillow looks for it: of 16 bits each the lower eight, whatever the samples have.
fn transparent_colour(transparency: &[u8], color_type: ColorType, bit_depth: BitDepth) -> Option<[u8; 3]> {
    match (color_type, bit_depth, transparency) {
        (ColorType::Grayscale, BitDepth::One, &[upper, lower, ..]) => {
            Some([if (upper, lower) == (0, 0) { 0 } else { 255 }; 3])
        }
        (ColorType::Grayscale, _, &[_, grey, ..]) => Some([grey; 3]),
        (ColorType::Rgb, _, &[_, red, _, green, _, blue, ..]) => Some([red, green, blue]),
        _ => None,
    }
}

/// Makes all RGBA `pixels` of this colour transparent.
fn clear(pixels: &mut [u8], colour: [u8; 3]) {
    for [red, green, blue, alpha] in pixels.as_chunks_mut().0 {
        if [*red, *green, *blue] == colour {
            *alpha = 0;
        }
    }
}

/// The samples as the file has them, row by row, and the bytes of a row.
fn samples(reader: &mut Reader<WatchedFile<'_>>, length: usize) -> Result<(Vec<u8>, usize), MediaError> {
    let &Info { width, height, interlaced, .. } = reader.info();
    let line = reader.output_line_size(width).ok_or_else(|| failed("its rows are too long"))?;
    let (color_type, bit_depth) = reader.output_color_type();
    let bits = color_type.samples() as u8 * bit_depth as u8;
    let mut samples = vec![0; length];
    let mut row = vec![0; line];
    let rows = if interlaced { adam7_rows(width, height) } else { height };
    for index in 0..rows as usize {
        match reader.read_row(&mut row).map_err(unreadable)? {
            Some(InterlaceInfo::Adam7(part)) => expand_interlaced_row(&mut samples, line, &row, &part, bits),
            Some(InterlaceInfo::Null(_)) => samples[index * line..(index + 1) * line].copy_from_slice(&row),
            None => return Err(failed("it has too few rows")),
        }
    }
    // What follows is a checksum: it may be missing, but not be wrong.
    match reader.read_row(&mut row) {
        Ok(_) | Err(DecodingError::IoError(_)) => Ok((samples, line)),
        Err(error) => Err(failed(error)),
    }
}

fn unreadable(error: DecodingError) -> MediaError {
    match error {
        DecodingError::IoError(_) => MediaError::CutOff { format: "PNG" },
        error => failed(error),
    }
}

/// How many rows the seven passes of an interlaced picture have together (PNG specification, 8.2).
fn adam7_rows(width: u32, height: u32) -> u32 {
    // The first column and row of a pass, and its steps to the next ones.
    const PASSES: [[u32; 4]; 7] =
        [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
    let rows = |[column, row, _, step]: [u32; 4]| match width > column {
        true => height.saturating_sub(row).div_ceil(step),
        false => 0,
    };
    PASSES.into_iter().map(rows).sum()
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
