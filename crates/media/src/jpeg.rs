//! JPEG as Pillow writes it by default.
//!
//! Pillow hands its pixels to libjpeg(-turbo) with that library's defaults: baseline, the quantization tables of
//! ITU-T T.81 Annex K scaled by `quality`, the standard Huffman tables, and chroma at half size in both directions
//! (4:2:0), each sample the average of its four pixels. People compare our files with those, so we ask for the
//! same, at every quality: Pillow keeps 4:2:0 there too.
//!
//! A file is made of 16×16 pixel units, and what an encoder puts into the part of the last units that lies outside
//! the picture is its own choice, but costs bytes and, through chroma, changes the border. [`Planes`] makes
//! libjpeg's choice.

use jpeg_encoder::{
    ChromaSubsamplingMethod, Encoder, ImageBuffer, JpegColorType, SamplingFactor, rgb_to_ycbcr,
};

use crate::Channels;
use crate::error::{MediaError, check_size};
use crate::guard;

/// The quality that Pillow uses when none is given.
pub const DEFAULT_QUALITY: u8 = 75;

/// The longest side of a JPEG picture, in pixels: libjpeg's, and so Pillow's (`JPEG_MAX_DIMENSION` of jmorecfg.h).
pub const JPEG_MAX_SIDE: usize = 65_500;

/// Pixels along a side of a coded unit: two luma blocks, one chroma block.
const UNIT: usize = 16;
/// Samples along a side of a block.
const BLOCK: usize = 8;

/// Encodes `rgb` (`[height, width, 3]`, C order) as a baseline JPEG file.
///
/// `quality` goes from 1 to 100, as in Pillow; values outside are brought to the nearest of these.
///
/// # Errors
/// When `rgb` has not `height * width * 3` bytes, or a side is 0 or more than 65,500 pixels.
pub fn encode_jpeg(rgb: &[u8], width: usize, height: usize, quality: u8) -> Result<Vec<u8>, MediaError> {
    check_size("JPEG", rgb, Channels::Rgb, [width, height], JPEG_MAX_SIDE)?;
    guard::encoder("JPEG", || encode(rgb, width, height, quality))
}

/// [`encode_jpeg`] of a picture that fits the format.
fn encode(rgb: &[u8], width: usize, height: usize, quality: u8) -> Result<Vec<u8>, MediaError> {
    let failed = |message: String| MediaError::Encoder { format: "JPEG", message };
    // Photographs at quality 75 take about one byte in fifteen of the pixels.
    let mut file = Vec::with_capacity(1024 + rgb.len() / 8);
    let mut encoder = Encoder::new(&mut file, quality.clamp(1, 100));
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode_image(Planes::new(rgb, width, height)).map_err(|error| failed(error.to_string()))?;
    write_size(&mut file, width, height).ok_or_else(|| failed("it wrote no frame header".to_owned()))?;
    Ok(file)
}

/// A picture as Y, Cb and Cr planes of full size, extended to whole units as libjpeg extends it.
struct Planes {
    luma: Vec<u8>,
    blue: Vec<u8>,
    red: Vec<u8>,
    width: usize,
    height: usize,
}

impl Planes {
    /// `rgb` is not empty and has `width * height` pixels.
    fn new(rgb: &[u8], width: usize, height: usize) -> Self {
        let (padded_width, padded_height) = (width.next_multiple_of(UNIT), height.next_multiple_of(UNIT));
        let plane = || vec![0; padded_width * padded_height];
        let mut planes =
            Self { luma: plane(), blue: plane(), red: plane(), width: padded_width, height: padded_height };
        let lines = rgb.as_chunks::<3>().0.chunks_exact(width).zip(planes.lines_mut());
        for (pixels, [luma, blue, red]) in lines {
            for (((pixel, y), cb), cr) in pixels.iter().zip(&mut *luma).zip(&mut *blue).zip(&mut *red) {
                let [r, g, b] = *pixel;
                (*y, *cb, *cr) = rgb_to_ycbcr(r, g, b);
            }
            // To the right, the last pixel is repeated.
            for line in [luma, blue, red] {
                let last = line[width - 1];
                line[width..].fill(last);
            }
        }
        // Below, luma repeats its last line. So does chroma to the end of a pair of lines; from there on libjpeg
        // repeats the averages of that pair, which is to repeat the pair.
        for y in height..padded_height {
            planes.copy_line(y, y - 1, if y == height && height % 2 == 1 { y - 1 } else { y - 2 });
        }
        planes.flatten_outside(width.next_multiple_of(BLOCK), height.next_multiple_of(BLOCK));
        planes
    }

    /// The lines of the three planes, from top to bottom.
    fn lines_mut(&mut self) -> impl Iterator<Item = [&mut [u8]; 3]> {
        let luma = self.luma.chunks_exact_mut(self.width);
        let blue = self.blue.chunks_exact_mut(self.width);
        let red = self.red.chunks_exact_mut(self.width);
        luma.zip(blue).zip(red).map(|((luma, blue), red)| [luma, blue, red])
    }

    /// Makes line `to` a copy of the line `luma` in luma and of the line `chroma` in both chroma planes.
    fn copy_line(&mut self, to: usize, luma: usize, chroma: usize) {
        for (plane, from) in [(&mut self.luma, luma), (&mut self.blue, chroma), (&mut self.red, chroma)] {
            plane.copy_within(from * self.width..(from + 1) * self.width, to * self.width);
        }
    }

    /// Makes the luma blocks that lie wholly outside the picture (right of `inside_width`, below `inside_height`)
    /// flat and as bright as the block written before them, so that they cost next to nothing.
    fn flatten_outside(&mut self, inside_width: usize, inside_height: usize) {
        if inside_width < self.width {
            for top in (0..inside_height).step_by(BLOCK) {
                let mean = self.luma_mean(inside_width - BLOCK, top);
                self.fill_luma(inside_width, top, mean);
            }
        }
        if inside_height < self.height {
            for left in (0..self.width).step_by(UNIT) {
                let mean = self.luma_mean(left + BLOCK, inside_height - BLOCK);
                self.fill_luma(left, inside_height, mean);
                self.fill_luma(left + BLOCK, inside_height, mean);
            }
        }
    }

    /// The mean of the luma block at these pixels.
    fn luma_mean(&self, left: usize, top: usize) -> u8 {
        let lines = self.luma.chunks_exact(self.width).skip(top).take(BLOCK);
        let sum: usize = lines.flat_map(|line| &line[left..left + BLOCK]).map(|&y| usize::from(y)).sum();
        ((sum + BLOCK * BLOCK / 2) / (BLOCK * BLOCK)) as u8
    }

    /// Fills the luma block at these pixels.
    fn fill_luma(&mut self, left: usize, top: usize, value: u8) {
        for line in self.luma.chunks_exact_mut(self.width).skip(top).take(BLOCK) {
            line[left..left + BLOCK].fill(value);
        }
    }
}

impl ImageBuffer for Planes {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.width as u16
    }

    fn height(&self) -> u16 {
        self.height as u16
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let line = usize::from(y) * self.width..(usize::from(y) + 1) * self.width;
        for (buffer, plane) in buffers.iter_mut().zip([&self.luma, &self.blue, &self.red]) {
            buffer.extend_from_slice(&plane[line.clone()]);
        }
    }
}

/// Writes the picture's own size into the frame header of `file`, which was encoded with whole units.
/// `None` when there is no such header.
fn write_size(file: &mut [u8], width: usize, height: usize) -> Option<()> {
    /// Start of frame, baseline (T.81, B.1.1.3).
    const SOF0: u8 = 0xC0;
    // Segments follow the two bytes of the start marker: 0xFF, marker, length (two bytes, without the marker).
    let mut at = 2;
    while *file.get(at + 1)? != SOF0 {
        at += 2 + usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
    }
    // Marker, length, one byte of sample precision, then height and width.
    let size = file.get_mut(at + 5..at + 9)?;
    size[..2].copy_from_slice(&(height as u16).to_be_bytes());
    size[2..].copy_from_slice(&(width as u16).to_be_bytes());
    Some(())
}
