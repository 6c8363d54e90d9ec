//! The parts of a PNG file (PNG specification, 5.3): what they say of the picture beside its pixels, and whether the file
//! is whole.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::failed;
use crate::MediaError;
use crate::image::Channels;
use crate::image::orientation::Metadata;
use crate::png::PNG_MAX_SIDE;

/// What a compressed text may grow to; Pillow's limit too.
const MAX_TEXT: u64 = 1 << 20;

const CUT_OFF: MediaError = MediaError::CutOff { format: "PNG" };

/// What a file says of its picture.
pub(super) struct Head {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) channels: Channels,
    pub(super) metadata: Metadata,
}

/// Reads size and metadata. A file that is cut off may lack some of the latter.
///
/// # Errors
/// A file that does not begin with its header, or ends before its pixels begin.
pub(super) fn read(file: &[u8]) -> Result<Head, MediaError> {
    let mut chunks = Chunks::new(file);
    let head = chunks.next().ok_or(CUT_OFF)?;
    if head.name != b"IHDR" {
        return Err(failed("its first chunk is not IHDR"));
    }
    let (width, height) = size(head.content)?;
    // Width, height and bits come before the type of colour, of which this bit says that there is alpha (11.2.2).
    let has_alpha = head.content.get(9).is_some_and(|color_type| color_type & 4 != 0);
    let mut metadata = Metadata::default();
    let mut has_pixels = false;
    for Chunk { name, content, whole } in &mut chunks {
        match name {
            b"IDAT" => has_pixels = true,
            _ if !whole => {}
            b"eXIf" => metadata.exif = Some(content.to_vec()),
            b"tEXt" => latin_text(content, &mut metadata),
            b"zTXt" => compressed_text(content, &mut metadata),
            b"iTXt" => international_text(content, &mut metadata),
            _ => {}
        }
    }
    match has_pixels {
        true => {
            let is_transparent = has_alpha || transparency(file).is_some();
            let channels = if is_transparent { Channels::Rgba } else { Channels::Rgb };
            Ok(Head { width, height, channels, metadata })
        }
        false if chunks.rest.len() < 8 => Err(CUT_OFF),
        false => Err(failed("it has no picture data")),
    }
}

/// # Errors
/// A file that ends within one of its chunks, which Pillow refuses too. Whether pixels are missing, the decoder knows
/// better: their last bytes are a checksum.
pub(super) fn check_whole(file: &[u8]) -> Result<(), MediaError> {
    if Chunks::new(file).all(|chunk| chunk.whole || chunk.name == b"IDAT") { Ok(()) } else { Err(CUT_OFF) }
}

/// `tRNS` (11.3.1.1): the alpha of the first colours of a palette, or the one colour that is transparent. It comes before the
/// pixels.
pub(super) fn transparency(file: &[u8]) -> Option<&[u8]> {
    let before_pixels = Chunks::new(file).take_while(|chunk| chunk.name != b"IDAT");
    before_pixels.filter(|chunk| chunk.name == b"tRNS" && chunk.whole).last().map(|chunk| chunk.content)
}

fn size(header: &[u8]) -> Result<(usize, usize), MediaError> {
    let &[w0, w1, w2, w3, h0, h1, h2, h3, ..] = header else { return Err(CUT_OFF) };
    let [width, height] = [[w0, w1, w2, w3], [h0, h1, h2, h3]].map(|side| u32::from_be_bytes(side) as usize);
    let fits = 1..=PNG_MAX_SIDE;
    if fits.contains(&width) && fits.contains(&height) {
        Ok((width, height))
    } else {
        Err(failed(format!("its size is {width} x {height}, and a side is from 1 to {PNG_MAX_SIDE}")))
    }
}

/// `tEXt` (11.3.3.2): keyword, 0, text.
fn latin_text(content: &[u8], metadata: &mut Metadata) {
    if let Some((keyword, text)) = split(content) {
        keep(keyword, || Some(text.to_vec()), metadata);
    }
}

/// `zTXt` (11.3.3.3): keyword, 0, method, compressed text.
fn compressed_text(content: &[u8], metadata: &mut Metadata) {
    if let Some((keyword, [0, text @ ..])) = split(content) {
        keep(keyword, || inflate(text), metadata);
    }
}

/// `iTXt` (11.3.3.4): keyword, 0, whether it is compressed, method, language, 0, keyword again, 0, text.
fn international_text(content: &[u8], metadata: &mut Metadata) {
    let parts = || {
        let (keyword, rest) = split(content)?;
        let [compressed, method, rest @ ..] = rest else { return None };
        let (_, rest) = split(rest)?;
        let (_, text) = split(rest)?;
        Some((keyword, *compressed, *method, text))
    };
    match parts() {
        Some((keyword, 0, _, text)) => keep(keyword, || Some(text.to_vec()), metadata),
        Some((keyword, _, 0, text)) => keep(keyword, || inflate(text), metadata),
        _ => {}
    }
}

/// Keeps a text if it is one of those in which programs hide metadata.
fn keep(keyword: &[u8], text: impl FnOnce() -> Option<Vec<u8>>, metadata: &mut Metadata) {
    match keyword {
        b"Raw profile type exif" => metadata.raw_profile = text(),
        b"XML:com.adobe.xmp" => metadata.xmp = text(),
        _ => {}
    }
}

/// What comes before and after the first 0.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// `None` for what cannot be unpacked, and for what grows too large.
fn inflate(packed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    ZlibDecoder::new(packed).take(MAX_TEXT + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= MAX_TEXT).then_some(text)
}

/// One part of a file.
struct Chunk<'a> {
    name: &'a [u8; 4],
    /// Up to the end of the file, if that comes first.
    content: &'a [u8],
    whole: bool,
}

/// The chunks of a file, as far as they belong to its first picture.
struct Chunks<'a> {
    rest: &'a [u8],
    is_animated: bool,
    has_pixels: bool,
}

impl<'a> Chunks<'a> {
    /// `file` begins with the signature.
    fn new(file: &'a [u8]) -> Self {
        Self { rest: &file[8..], is_animated: false, has_pixels: false }
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&length, rest) = self.rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_first_chunk::<4>()?;
        let is_name = name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
        // The second frame of an animation begins with its own header.
        let is_next_frame = name == b"fcTL" && self.is_animated && self.has_pixels;
        if !is_name || name == b"IEND" || is_next_frame {
            return None;
        }
        self.is_animated |= name == b"acTL";
        self.has_pixels |= name == b"IDAT";
        let length = u32::from_be_bytes(length) as usize;
        let content = rest.get(..length).unwrap_or(rest);
        // The checksum is the decoder's to look at.
        self.rest = rest.get(length + 4..).unwrap_or_default();
        Some(Chunk { name, content, whole: content.len() == length })
    }
}
