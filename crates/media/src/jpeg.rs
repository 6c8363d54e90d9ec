//! JPEG as Pillow writes it by default.
//!
//! Pillow hands its pixels to libjpeg(-turbo) with that library's defaults: baseline, the quantization tables of
//! ITU-T T.81 Annex K scaled by `quality`, the standard Huffman tables, and chroma at half size in both directions
//! (4:2:0), each sample the average of its four pixels. People compare our files with those, so we ask for the
//! same, at every quality: Pillow keeps 4:2:0 there too.

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, PixelDensity, SamplingFactor};

use crate::error::{MediaError, check_size};

/// The quality that Pillow uses when none is given.
pub const DEFAULT_QUALITY: u8 = 75;

/// The longest side that JPEG's 16-bit header fields can say (T.81, B.2.2). libjpeg stops at 65,500.
const MAX_SIDE: usize = 65_500;

/// Encodes `rgb` (`[height, width, 3]`, C order) as a baseline JPEG file.
///
/// `quality` goes from 1 to 100, as in Pillow; values outside are brought to the nearest of these.
///
/// # Errors
/// When `rgb` has not `height * width * 3` bytes, or a side is 0 or more than 65,500 pixels.
pub fn encode_jpeg(rgb: &[u8], width: usize, height: usize, quality: u8) -> Result<Vec<u8>, MediaError> {
    check_size("JPEG", rgb, width, height, MAX_SIDE)?;
    // Photographs at quality 75 take about one byte in fifteen of the pixels.
    let mut file = Vec::with_capacity(1024 + rgb.len() / 8);
    let mut encoder = Encoder::new(&mut file, quality.clamp(1, 100));
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    // As Pillow's JFIF header: no unit, square pixels.
    encoder.set_density(PixelDensity::default());
    encoder
        .encode(rgb, width as u16, height as u16, ColorType::Rgb)
        .map_err(|error| MediaError::Encoder { format: "JPEG", message: error.to_string() })?;
    Ok(file)
}
