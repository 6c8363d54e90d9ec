//! Lossy WebP as Pillow writes it by default: by libwebp with that library's defaults, and a quality of Pillow's own. Alpha is
//! kept without loss, and colours that nobody sees behind it are not kept; a picture without transparency is written
//! without alpha.

use webp::{Encoder, PixelLayout, WebPConfig};

use crate::Channels;
use crate::error::{MediaError, channels, check_size};
use crate::guard;

/// The quality that Pillow uses when none is given.
pub const DEFAULT_WEBP_QUALITY: u8 = 80;

/// The longest side of a WebP picture, in pixels (`WEBP_MAX_DIMENSION` of libwebp's encode.h).
pub const WEBP_MAX_SIDE: usize = 16_383;

/// Encodes `pixels` (`[height, width, 3]` or, with alpha, `[height, width, 4]`, C order) as a lossy WebP file.
///
/// `quality` goes from 1 to 100, as in Pillow; values outside are brought to the nearest of these.
///
/// # Errors
/// When `pixels` has not `height * width * 3` bytes, or as many times 4, or a side is 0 or more than 16,383 pixels.
pub fn encode_webp(pixels: &[u8], width: usize, height: usize, quality: u8) -> Result<Vec<u8>, MediaError> {
    let channels = channels(pixels, width, height);
    check_size("WebP", pixels, channels, [width, height], WEBP_MAX_SIDE)?;
    let layout = match channels {
        Channels::Rgb => PixelLayout::Rgb,
        Channels::Rgba => PixelLayout::Rgba,
    };
    guard::encoder("WebP", || encode(pixels, layout, [width, height], quality))
}

/// [`encode_webp`] of a picture that fits the format.
fn encode(
    pixels: &[u8],
    layout: PixelLayout,
    [width, height]: [usize; 2],
    quality: u8,
) -> Result<Vec<u8>, MediaError> {
    let failed = |message: String| MediaError::Encoder { format: "WebP", message };
    let mut config = WebPConfig::new().map_err(|()| failed("it refused its own defaults".to_owned()))?;
    config.quality = f32::from(quality.clamp(1, 100));
    let encoder = Encoder::new(pixels, layout, width as u32, height as u32);
    let file = encoder.encode_advanced(&config).map_err(|error| failed(format!("{error:?}")))?;
    Ok(file.to_vec())
}
