//! Lossless PNG, fast.

use png::{BitDepth, ColorType, Compression, Encoder};

use crate::error::{MediaError, check_size};
use crate::guard;

/// The longest side of a PNG picture, in pixels: 2³¹ − 1, as its header can say (PNG specification, 11.2.2).
pub const PNG_MAX_SIDE: usize = (1 << 31) - 1;

/// Encodes `rgb` (`[height, width, 3]`, C order) as an 8-bit RGB PNG file.
///
/// # Errors
/// When `rgb` has not `height * width * 3` bytes, or a side is 0 or too long for PNG.
pub fn encode_png(rgb: &[u8], width: usize, height: usize) -> Result<Vec<u8>, MediaError> {
    check_size("PNG", rgb, width, height, PNG_MAX_SIDE)?;
    guard::encoder("PNG", || encode(rgb, width, height))
}

/// [`encode_png`] of a picture that fits the format.
fn encode(rgb: &[u8], width: usize, height: usize) -> Result<Vec<u8>, MediaError> {
    let failed =
        |error: png::EncodingError| MediaError::Encoder { format: "PNG", message: error.to_string() };
    let mut file = Vec::with_capacity(1024 + rgb.len() / 2);
    let mut encoder = Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}
