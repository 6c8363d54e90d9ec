//! Lossless PNG, fast.

use png::{BitDepth, ColorType, Compression, Encoder};

use crate::Channels;
use crate::error::{MediaError, channels, check_size};
use crate::guard;

/// The longest side of a PNG picture, in pixels: 2³¹ − 1, as its header can say (PNG specification, 11.2.2).
pub const PNG_MAX_SIDE: usize = (1 << 31) - 1;

/// Encodes `pixels` (`[height, width, 3]` or, with alpha, `[height, width, 4]`, C order) as an 8-bit PNG file, RGB or RGBA.
///
/// # Errors
/// When `pixels` has not `height * width * 3` bytes, or as many times 4, or a side is 0 or too long for PNG.
pub fn encode_png(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>, MediaError> {
    let channels = channels(pixels, width, height);
    check_size("PNG", pixels, channels, [width, height], PNG_MAX_SIDE)?;
    guard::encoder("PNG", || encode(pixels, channels, width, height))
}

/// [`encode_png`] of a picture that fits the format.
fn encode(pixels: &[u8], channels: Channels, width: usize, height: usize) -> Result<Vec<u8>, MediaError> {
    let failed =
        |error: png::EncodingError| MediaError::Encoder { format: "PNG", message: error.to_string() };
    let mut file = Vec::with_capacity(1024 + pixels.len() / 2);
    let mut encoder = Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(match channels {
        Channels::Rgb => ColorType::Rgb,
        Channels::Rgba => ColorType::Rgba,
    });
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}
