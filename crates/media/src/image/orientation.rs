//! How a camera was held.

use exif::{In, Reader, Tag, Value};

use super::{Channels, Image};

/// What a file says about its picture beside the pixels, where it says it as Pillow looks for it.
#[derive(Default)]
pub(super) struct Metadata {
    /// EXIF data, a TIFF structure, perhaps after the name of its JPEG segment.
    pub exif: Option<Vec<u8>>,
    /// EXIF data in hexadecimal digits after three lines, as ImageMagick writes them into a PNG text.
    pub raw_profile: Option<Vec<u8>>,
    /// An XMP packet.
    pub xmp: Option<Vec<u8>>,
}

impl Metadata {
    /// The orientation that Pillow's `ImageOps.exif_transpose` follows: that of the EXIF data, whatever it is; without
    /// one, XMP's. What cannot be understood says nothing: the picture may still be sound.
    pub(super) fn orientation(self) -> Orientation {
        let exif = self.exif.or_else(|| self.raw_profile.as_deref().and_then(raw_profile));
        exif.and_then(of_exif).or_else(|| self.xmp.as_deref().and_then(of_xmp)).unwrap_or_default()
    }
}

/// The orientation in EXIF data; `None` when there is none, which is not the same as one without meaning.
fn of_exif(mut data: Vec<u8>) -> Option<Orientation> {
    const NAME: &[u8] = b"Exif\0\0";
    // Once from a JPEG segment, and once more from writers that mistook it for a part of the data.
    for _ in 0..2 {
        if data.starts_with(NAME) {
            data.drain(..NAME.len());
        }
    }
    let exif = Reader::new()
        .continue_on_error(true)
        .read_raw(data)
        .or_else(|error| error.distill_partial_result(|_| {}))
        .ok()?;
    let value = match &exif.get_field(Tag::Orientation, In::PRIMARY)?.value {
        Value::Short(values) if values.len() == 1 => values[0].into(),
        Value::Long(values) if values.len() == 1 => values[0],
        _ => 0,
    };
    Some(Orientation::new(value).unwrap_or_default())
}

/// The EXIF data in a raw profile.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    // An empty line, the name and the length come before it.
    let lines = text.split(|&byte| byte == b'\n').skip(3).flatten();
    let digits: Vec<u8> = lines.filter(|byte| !byte.is_ascii_whitespace()).copied().collect();
    let byte = |&[upper, lower]: &[u8; 2]| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        Some((digit(upper)? << 4 | digit(lower)?) as u8)
    };
    let (pairs, rest) = digits.as_chunks();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// The orientation in an XMP packet, as an attribute or an element.
fn of_xmp(packet: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    packet.windows(NAME.len()).enumerate().filter(|&(_, window)| window == NAME).find_map(|(at, _)| {
        let rest = &packet[at + NAME.len()..];
        let digit = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?.first()?;
        let value = char::from(*digit).to_digit(10)?;
        Some(Orientation::new(value).unwrap_or_default())
    })
}

/// The value of EXIF's `Orientation` (Exif 2.32, 4.6.4 A), 1 to 8: where the first row and column of the file belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation(u32);

impl Default for Orientation {
    fn default() -> Self {
        Self(1)
    }
}

impl Orientation {
    /// `None` for a value that has no meaning.
    pub(super) fn new(value: u32) -> Option<Self> {
        (1..=8).contains(&value).then_some(Self(value))
    }

    /// Whether the upright picture is as wide as the stored one is high.
    pub(super) fn swaps_sides(self) -> bool {
        self.0 >= 5
    }

    /// The picture upright.
    pub(super) fn apply(self, image: Image) -> Image {
        match image.channels {
            _ if self.0 == 1 => image,
            Channels::Rgb => self.turn::<3>(image),
            Channels::Rgba => self.turn::<4>(image),
        }
    }

    /// [`Self::apply`] for pixels of `N` bytes.
    fn turn<const N: usize>(self, image: Image) -> Image {
        let (stored_width, stored_height) = (image.width, image.height);
        let (width, height) =
            if self.swaps_sides() { (stored_height, stored_width) } else { (stored_width, stored_height) };
        let stored = image.pixels.as_chunks::<N>().0;
        let mut pixels = Vec::with_capacity(image.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (right, down) = (width - 1 - x, height - 1 - y);
                let (column, row) = match self.0 {
                    2 => (right, y),
                    3 => (right, down),
                    4 => (x, down),
                    5 => (y, x),
                    6 => (y, right),
                    7 => (down, right),
                    _ => (down, x),
                };
                pixels.extend_from_slice(&stored[row * stored_width + column]);
            }
        }
        Image { width, height, pixels, ..image }
    }
}
