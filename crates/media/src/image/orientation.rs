//! How a camera was held.

use exif::{In, Tag};

use super::RgbImage;

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

    /// What EXIF data (a TIFF structure) says; `None` when it says nothing that can be understood.
    pub(super) fn of_exif(mut data: Vec<u8>) -> Option<Self> {
        // Some writers put the name of the JPEG segment before it.
        if data.starts_with(b"Exif\0\0") {
            data.drain(..6);
        }
        let exif = exif::Reader::new().read_raw(data).ok()?;
        Self::new(exif.get_field(Tag::Orientation, In::PRIMARY)?.value.get_uint(0)?)
    }

    /// Whether the upright picture is as wide as the stored one is high.
    pub(super) fn swaps_sides(self) -> bool {
        self.0 >= 5
    }

    /// The picture upright.
    pub(super) fn apply(self, image: RgbImage) -> RgbImage {
        if self.0 == 1 {
            return image;
        }
        let (stored_width, stored_height) = (image.width, image.height);
        let (width, height) =
            if self.swaps_sides() { (stored_height, stored_width) } else { (stored_width, stored_height) };
        let stored = image.pixels.as_chunks::<3>().0;
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
        RgbImage { width, height, pixels }
    }
}
