//! Picture files to RGB pixels, to the bytes that Pillow's `Image.open(file).convert("RGB")` gives.
//!
//! That means: colour profiles and gamma are not looked at; transparency is dropped and not laid over a background; of
//! 16 bits the upper eight count, except that grey is cut at 255 (as Pillow's mode `I;16` is converted); an animation
//! is its first frame.
//!
//! What the camera says of its orientation is followed, as diffusers' `load_image` does (`ImageOps.exif_transpose`). And
//! as with Pillow, a file that is cut off is an error: a picture of which a part is grey would pass for a whole one.

mod jpeg;
mod orientation;
mod png;
mod webp;

use self::orientation::{Metadata, Orientation};
use crate::watch::{IsWanted, WatchedFile};
use crate::{MediaError, guard};

/// Pixels `[height, width, 3]`, C order.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}

/// Formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    WebP,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }
}

/// What a file says of itself before its pixels.
struct Header {
    width: usize,
    height: usize,
    orientation: Orientation,
}

/// A picture file of which only the header has been read, so that its size can be checked before memory is taken for
/// its pixels.
pub struct ImageFile<'a> {
    file: &'a [u8],
    format: Format,
    stored: (usize, usize),
    orientation: Orientation,
}

impl<'a> ImageFile<'a> {
    /// Reads the header of a PNG, JPEG or WebP file; which of them it is, its first bytes tell.
    ///
    /// # Errors
    /// Another format, or a damaged header.
    pub fn open(file: &'a [u8]) -> Result<Self, MediaError> {
        let format = if file.starts_with(b"\x89PNG\r\n\x1a\n") {
            Format::Png
        } else if file.starts_with(&[0xFF, 0xD8, 0xFF]) {
            Format::Jpeg
        } else if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") {
            Format::WebP
        } else {
            return Err(MediaError::UnknownFormat);
        };
        let Header { width, height, orientation } = guard::decoder(format.name(), || match format {
            Format::Png => png::header(file),
            Format::Jpeg => jpeg::header(file),
            Format::WebP => webp::header(file),
        })?;
        Ok(Self { file, format, stored: (width, height), orientation })
    }

    /// Width and height of the upright picture.
    pub fn size(&self) -> (usize, usize) {
        let (width, height) = self.stored;
        if self.orientation.swaps_sides() { (height, width) } else { (width, height) }
    }

    /// The pixels of the upright picture.
    ///
    /// # Errors
    /// A damaged file.
    pub fn decode(&self) -> Result<RgbImage, MediaError> {
        self.decode_while(&|| true)
    }

    /// [`ImageFile::decode`], as long as the picture is wanted. (A WebP file is read in one go once its bytes are there.)
    ///
    /// # Errors
    /// A damaged file, or [`MediaError::Cancelled`].
    pub fn decode_while(&self, is_wanted: &IsWanted<'_>) -> Result<RgbImage, MediaError> {
        let file = || WatchedFile::new(self.file, is_wanted);
        let pixels = guard::decoder(self.format.name(), || match self.format {
            Format::Png => png::pixels(self.file, file()),
            Format::Jpeg => jpeg::pixels(self.file, file()),
            Format::WebP => webp::pixels(self.file, file()),
        });
        // To a decoder that is no other than a file that cannot be read.
        let pixels = pixels.map_err(|error| if is_wanted() { error } else { MediaError::Cancelled })?;
        let (width, height) = self.stored;
        if pixels.len() != width * height * 3 {
            return Err(MediaError::PixelCount {
                found: pixels.len(),
                expected: width * height * 3,
                width,
                height,
            });
        }
        Ok(self.orientation.apply(RgbImage { width, height, pixels }))
    }
}

/// `pixels` of `channels` bytes each as RGB: grey is repeated, what follows colour or grey is dropped.
fn to_rgb(pixels: Vec<u8>, channels: usize) -> Vec<u8> {
    match channels {
        3 => pixels,
        1 | 2 => pixels.iter().step_by(channels).flat_map(|&grey| [grey; 3]).collect(),
        _ => pixels.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    }
}
