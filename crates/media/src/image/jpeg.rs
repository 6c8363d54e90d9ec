//! JPEG files, by libjpeg-turbo's decoder (mozjpeg's copy of it), which is Pillow's: the same pixels to the bit.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg::{ColorSpace, Decompress};

use super::{Channels, Header, Metadata, convert};
use crate::MediaError;
use crate::watch::WatchedFile;

/// Start of a scan (T.81, table B.1).
const SOS: u8 = 0xDA;
/// End of the image.
const EOI: u8 = 0xD9;

/// A file of a few megabytes can have a million scans, each of which goes through all pixels again. Real ones have about
/// ten; libjpeg-turbo's own fuzzing stops here.
const MAX_SCANS: usize = 500;

const CUT_OFF: MediaError = MediaError::CutOff { format: "JPEG" };

fn failed(message: impl Into<String>) -> MediaError {
    MediaError::Decoder { format: "JPEG", message: message.into() }
}

pub(super) fn header(file: &[u8]) -> Result<Header, MediaError> {
    let mut frame = None;
    let mut metadata = Metadata::default();
    for segment in Segments::new(file) {
        let Segment { marker, content } = segment?;
        match marker {
            // C4, C8 and CC are tables.
            0xC0..=0xCF if ![0xC4, 0xC8, 0xCC].contains(&marker) => frame = Some(content),
            0xE1 => {
                if content.starts_with(b"Exif\0\0") {
                    match &mut metadata.exif {
                        // It may be longer than a segment.
                        Some(exif) => exif.extend_from_slice(&content[6..]),
                        None => metadata.exif = Some(content.to_vec()),
                    }
                } else if let Some(xmp) = content.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                    metadata.xmp = Some(xmp.to_vec());
                }
            }
            SOS => {
                // Bits of a sample, height, width, number of components.
                let &[bits, h1, h0, w1, w0, components, ..] =
                    frame.ok_or_else(|| failed("it has no frame header"))?
                else {
                    return Err(failed("its frame header is too short"));
                };
                let height = usize::from(u16::from_be_bytes([h1, h0]));
                let width = usize::from(u16::from_be_bytes([w1, w0]));
                if bits != 8 {
                    return Err(failed(format!("its samples have {bits} bits, and only 8 can be read")));
                }
                if ![1, 3, 4].contains(&components) {
                    return Err(failed(format!(
                        "it has {components} colour components, and only 1, 3 and 4 can be read"
                    )));
                }
                if width == 0 || height == 0 {
                    return Err(failed(format!("its size is {width} x {height}")));
                }
                let channels = Channels::Rgb;
                return Ok(Header { width, height, channels, orientation: metadata.orientation() });
            }
            _ => {}
        }
    }
    Err(CUT_OFF)
}

/// `watched` reads `file`. The pixels are opaque.
pub(super) fn pixels(
    file: &[u8],
    watched: WatchedFile<'_>,
    channels: Channels,
) -> Result<Vec<u8>, MediaError> {
    let scans = Segments::new(file)
        .filter_map(Result::ok)
        .take_while(|segment| segment.marker != EOI)
        .filter(|segment| segment.marker == SOS)
        .take(MAX_SCANS + 1)
        .count();
    if scans > MAX_SCANS {
        return Err(failed(format!("it has more than {MAX_SCANS} scans")));
    }
    let ended = Cell::new(false);
    // libjpeg's errors are unwound through it, with a text.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(Whole { file: watched, ended: &ended }, channels)));
    if ended.get() {
        return Err(CUT_OFF);
    }
    match decoded {
        Ok(pixels) => pixels.map_err(|error| failed(error.to_string())),
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(message) if message.starts_with("libjpeg") => Err(failed(message)),
            _ => resume_unwind(panic),
        },
    }
}

fn decode(file: Whole<'_>, channels: Channels) -> io::Result<Vec<u8>> {
    let decoder = Decompress::new_reader(file)?;
    let components = decoder.components().len();
    let space = match components {
        1 => ColorSpace::JCS_GRAYSCALE,
        4 => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    };
    let mut decoder = decoder.to_colorspace(space)?;
    let pixels = decoder.read_scanlines::<u8>()?;
    // Up to the end of the image, which must be there.
    decoder.finish()?;
    Ok(match components {
        4 => convert(inks_to_rgb(&pixels), 3, channels),
        _ => convert(pixels, components, channels),
    })
}

/// Pillow takes all files of four components for Adobe's, which store 255 for no ink, and has the paper's light dimmed by
/// black and then by each colour (`cmyk2rgb`).
fn inks_to_rgb(pixels: &[u8]) -> Vec<u8> {
    let dim = |light: u8, ink: u8| {
        let product = u32::from(light) * u32::from(255 - ink) + 128;
        light - (((product >> 8) + product) >> 8) as u8
    };
    let rgb = |&[cyan, magenta, yellow, black]: &[u8; 4]| [cyan, magenta, yellow].map(|ink| dim(black, ink));
    pixels.as_chunks().0.iter().flat_map(rgb).collect()
}

/// A file that is an error when more is read than there is: libjpeg makes up what is missing.
struct Whole<'a> {
    file: WatchedFile<'a>,
    ended: &'a Cell<bool>,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let part = self.file.fill_buf()?;
        if part.is_empty() {
            self.ended.set(true);
            // Not `UnexpectedEof`, which `mozjpeg` takes for the end of the image.
            return Err(io::Error::other("the file ends"));
        }
        Ok(part)
    }

    fn consume(&mut self, amount: usize) {
        self.file.consume(amount);
    }
}

/// A marker and, if it has one, its content without its length.
struct Segment<'a> {
    marker: u8,
    content: &'a [u8],
}

/// The segments of a file. What lies between them is passed over: the data of a scan, and bytes that belong to nothing.
struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    /// `file` begins with the start of the image.
    fn new(file: &'a [u8]) -> Self {
        Self { rest: &file[2..] }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Result<Segment<'a>, MediaError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.rest.iter().position(|&byte| byte == 0xFF)?;
            self.rest = &self.rest[at + 1..];
            let (&marker, rest) = self.rest.split_first()?;
            match marker {
                // Filling, which may itself begin a marker.
                0xFF => {}
                // A byte 0xFF of the data, a restart, or the start of another picture.
                0 | 0xD0..=0xD8 => self.rest = rest,
                1..=0xBF => return Some(Err(failed("it has a marker that JPEG does not know"))),
                // No content.
                EOI | 0xC8 | 0xF0..=0xFD => {
                    self.rest = rest;
                    return Some(Ok(Segment { marker, content: &[] }));
                }
                _ => {
                    let length =
                        rest.first_chunk().map_or(2, |&length| usize::from(u16::from_be_bytes(length)));
                    // A length that is shorter than itself is libjpeg's to refuse.
                    let Some(content) = rest.get(2..length.max(2)) else { return Some(Err(CUT_OFF)) };
                    self.rest = &rest[length.max(2)..];
                    return Some(Ok(Segment { marker, content }));
                }
            }
        }
    }
}
