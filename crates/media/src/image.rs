//! Picture files to pixels, to the bytes that Pillow's `Image.open(file).convert("RGB")` or `convert("RGBA")` gives.
//!
//! That means: colour profiles and gamma are not looked at; in RGB transparency is dropped and not laid over a background,
//! and in RGBA what has no transparency is opaque; of 16 bits the upper eight count, except that grey is cut at 255 (as
//! Pillow's mode `I;16` is converted); an animation is its first frame.
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

/// What the bytes of a pixel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Red, green and blue.
    Rgb,
    /// The same and alpha, from 0, transparent, to 255, opaque. Colours are not multiplied with it.
    Rgba,
}

impl Channels {
    /// Those of a picture with `count` channels; `None` when they make no picture.
    pub fn new(count: usize) -> Option<Self> {
        match count {
            3 => Some(Self::Rgb),
            4 => Some(Self::Rgba),
            _ => None,
        }
    }

    /// Bytes of a pixel.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

impl std::fmt::Display for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rgb => "RGB",
            Self::Rgba => "RGBA",
        })
    }
}

/// Pixels `[height, width, channels]`, C order.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// What the bytes of a pixel are.
    pub channels: Channels,
    /// `height * width * channels` bytes.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} x {}, {:?})", self.width, self.height, self.channels)
    }
}

/// Alpha of what is not transparent at all.
const OPAQUE: u8 = 255;

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
    /// RGBA where something may be transparent.
    channels: Channels,
    orientation: Orientation,
}

/// A picture file of which only the header has been read, so that its size can be checked before memory is taken for
/// its pixels.
pub struct ImageFile<'a> {
    file: &'a [u8],
    format: Format,
    stored: (usize, usize),
    channels: Channels,
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
        let Header { width, height, channels, orientation } =
            guard::decoder(format.name(), || match format {
                Format::Png => png::header(file),
                Format::Jpeg => jpeg::header(file),
                Format::WebP => webp::header(file),
            })?;
        Ok(Self { file, format, stored: (width, height), channels, orientation })
    }

    /// Width and height of the upright picture.
    pub fn size(&self) -> (usize, usize) {
        let (width, height) = self.stored;
        if self.orientation.swaps_sides() { (height, width) } else { (width, height) }
    }

    /// RGBA for a file in which something may be transparent.
    pub fn channels(&self) -> Channels {
        self.channels
    }

    /// The pixels of the upright picture, as RGB or RGBA.
    ///
    /// # Errors
    /// A damaged file.
    pub fn decode(&self, channels: Channels) -> Result<Image, MediaError> {
        self.decode_while(channels, &|| true)
    }

    /// [`ImageFile::decode`], as long as the picture is wanted. (A WebP file is read in one go once its bytes are there.)
    ///
    /// # Errors
    /// A damaged file, or [`MediaError::Cancelled`].
    pub fn decode_while(&self, channels: Channels, is_wanted: &IsWanted<'_>) -> Result<Image, MediaError> {
        let file = || WatchedFile::new(self.file, is_wanted);
        let pixels = guard::decoder(self.format.name(), || match self.format {
            Format::Png => png::pixels(self.file, file(), channels),
            Format::Jpeg => jpeg::pixels(self.file, file(), channels),
            Format::WebP => webp::pixels(self.file, file(), channels),
        });
        // To a decoder that is no other than a file that cannot be read.
        let pixels = pixels.map_err(|error| if is_wanted() { error } else { MediaError::Cancelled })?;
        let (width, height) = self.stored;
        let expected = width * height * channels.count();
        if pixels.len() != expected {
            return Err(MediaError::PixelCount { channels, found: pixels.len(), expected, width, height });
        }
        Ok(self.orientation.apply(Image { width, height, channels, pixels }))
    }
}

/// `pixels` of `from` bytes each (grey, grey and alpha, RGB, RGBA) as RGB or RGBA: grey is repeated, alpha that is not wanted is
/// dropped, and alpha that is not there is opaque.
fn convert(pixels: Vec<u8>, from: usize, to: Channels) -> Vec<u8> {
    match (from, to) {
        (3, Channels::Rgb) | (4, Channels::Rgba) => pixels,
        (1 | 2, Channels::Rgb) => pixels.iter().step_by(from).flat_map(|&grey| [grey; 3]).collect(),
        (_, Channels::Rgb) => {
            pixels.chunks_exact(from).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        }
        (1, Channels::Rgba) => pixels.iter().flat_map(|&grey| [grey, grey, grey, OPAQUE]).collect(),
        (2, Channels::Rgba) => {
            let with_alpha = |&[grey, alpha]: &[u8; 2]| [grey, grey, grey, alpha];
            pixels.as_chunks().0.iter().flat_map(with_alpha).collect()
        }
        (_, Channels::Rgba) => {
            pixels.chunks_exact(from).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], OPAQUE]).collect()
        }
    }
}
