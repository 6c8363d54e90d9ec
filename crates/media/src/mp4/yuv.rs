//! RGB to 4:2:0 in BT.709, limited range.

use rusty_h264_common::YuvPlanes;

/// One picture as the encoder takes it.
pub(super) struct Yuv {
    /// Of the RGB pictures.
    source: [usize; 2],
    /// Even.
    width: usize,
    height: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
    /// Colour differences of two lines at full width.
    lines: [Vec<f32>; 4],
}

impl Yuv {
    /// For RGB pictures of this size.
    pub(super) fn new(width: usize, height: usize) -> Self {
        let source = [width, height];
        let [width, height] = source.map(|side| side.next_multiple_of(2));
        let (area, chroma) = (width * height, width * height / 4);
        Self {
            source,
            width,
            height,
            y: vec![0; area],
            u: vec![0; chroma],
            v: vec![0; chroma],
            lines: [0; 4].map(|_| vec![0.0; width]),
        }
    }

    /// Width and height as they are encoded.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// The picture as the encoder sees it.
    pub(super) fn planes(&self) -> YuvPlanes<'_> {
        YuvPlanes {
            width: self.width,
            height: self.height,
            y: &self.y,
            u: &self.u,
            v: &self.v,
            stride_y: self.width,
            stride_c: self.width / 2,
        }
    }

    /// Takes a picture `[height, width, 3]`.
    pub(super) fn fill(&mut self, rgb: &[u8]) {
        /// Shares of red, green and blue in the luma, and of luma in the full range (ITU-R BT.709-6, 3).
        const SHARES: [f32; 3] = [0.2126, 0.7152, 0.0722];
        const LUMA: f32 = 219.0 / 255.0;
        let [width, height] = self.source;
        // Colour differences reach from -112 to 112.
        let scale = |share: f32| 112.0 / 255.0 / (1.0 - share);
        let (blue, red) = (scale(SHARES[2]), scale(SHARES[0]));
        for row in 0..self.height {
            let line = &rgb[row.min(height - 1) * width * 3..][..width * 3];
            let (pixels, _) = line.as_chunks::<3>();
            for column in 0..self.width {
                let [r, g, b] = pixels[column.min(width - 1)].map(f32::from);
                let luma = SHARES[0] * r + SHARES[1] * g + SHARES[2] * b;
                self.y[row * self.width + column] = (16.5 + luma * LUMA) as u8;
                self.lines[row % 2][column] = (b - luma) * blue;
                self.lines[2 + row % 2][column] = (r - luma) * red;
            }
            if row % 2 == 1 {
                let at = row / 2 * (self.width / 2);
                let [u0, u1, v0, v1] = &self.lines;
                subsample(u0, u1, &mut self.u[at..at + self.width / 2]);
                subsample(v0, v1, &mut self.v[at..at + self.width / 2]);
            }
        }
    }
}

/// Colour lies at the left pixel of each pair, between two lines, as H.264 has it when nothing else is said.
fn subsample(above: &[f32], below: &[f32], out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        let sum = |x: usize| above[x] + below[x];
        let (left, middle, right) = ((2 * i).saturating_sub(1), 2 * i, 2 * i + 1);
        *out = (128.5 + (sum(left) + 2.0 * sum(middle) + sum(right)) / 8.0) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_the_standard() {
        // ITU-R BT.709-6 in 8 bits: white, black, and the primaries, rounded.
        for (rgb, yuv) in [
            ([255, 255, 255], [235, 128, 128]),
            ([0, 0, 0], [16, 128, 128]),
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
        ] {
            let mut picture = Yuv::new(3, 5);
            picture.fill(&rgb.repeat(15));
            assert_eq!(picture.size(), [4, 6]);
            for (plane, value) in [&picture.y, &picture.u, &picture.v].into_iter().zip(yuv) {
                assert!(plane.iter().all(|&x| x == value), "{rgb:?}: {plane:?} is not {value}");
            }
        }
    }
}
