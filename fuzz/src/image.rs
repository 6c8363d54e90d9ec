//! Pictures to encode.

use media::{Channels, ImageFile};

use crate::{MIB, sentence, within};

/// Pictures that are decoded have this many pixels at most, so that a run sees many.
const MAX_PIXELS: usize = 1 << 16;

/// What a WebP file says of the length of a part is believed before the part is there, and has 24 bits.
const MAX_PART: usize = 16 * MIB;

/// A picture file: its header must be cheap, and its pixels as many as the header says.
pub fn image(input: &[u8]) {
    let header = within(4 * input.len() + MIB, || ImageFile::open(input));
    let image = match header {
        Ok(image) => image,
        Err(error) => return sentence(&error.to_string()),
    };
    let (width, height) = image.size();
    if width.saturating_mul(height) > MAX_PIXELS {
        return;
    }
    // Progressive JPEG keeps the coefficients of four components in 16 bits, and a side is filled up to 32.
    let most = 32 * (width + 32) * (height + 32) + 8 * input.len() + MAX_PART + 2 * MIB;
    for channels in [Channels::Rgb, Channels::Rgba] {
        match within(most, || image.decode(channels)) {
            Ok(decoded) => {
                assert_eq!((decoded.width, decoded.height, decoded.channels), (width, height, channels));
                assert_eq!(decoded.pixels.len(), width * height * channels.count());
            }
            Err(error) => sentence(&error.to_string()),
        }
    }
}
