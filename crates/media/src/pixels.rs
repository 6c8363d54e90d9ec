//! Between a model's values and the values that come in and leave.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::Channels;

/// One value of a decoded picture as a byte: `round(clamp(x / 2 + 0.5, 0, 1) * 255)`.
///
/// Halves go to the even neighbour, as in NumPy and PyTorch; NaN becomes 0.
///
/// ```
/// assert_eq!([-2.0, -1.0, 0.0, 1.0, 2.0].map(media::round8), [0, 0, 128, 255, 255]);
/// ```
#[inline]
pub fn round8(value: f32) -> u8 {
    // 2^23: a float this large has no fraction bits, so adding it rounds (to even) in one instruction where
    // `round_ties_even` is a call on processors without SSE4.1.
    const ROUNDER: f32 = 8_388_608.0;
    ((unit(value) * 255.0 + ROUNDER) - ROUNDER) as u8
}

/// One value of a decoded picture in [0, 1]: `clamp(x / 2 + 0.5, 0, 1)`, diffusers' `denormalize`.
#[inline]
fn unit(value: f32) -> f32 {
    (value * 0.5 + 0.5).clamp(0.0, 1.0)
}

/// Brings the values of a decoded picture from [-1, 1] to [0, 1] and cuts what lies outside.
pub fn unit_range(values: &mut [f32]) {
    for value in values {
        *value = unit(*value);
    }
}

/// The pixels `[height, width, channels]` of one decoded picture `[channels, height, width]`, each value by [`round8`].
///
/// # Panics
/// When `planes` does not divide into so many planes of one size: a bug of the caller, never of a request.
pub fn pixels_from_planes(planes: &[f32], channels: Channels) -> Vec<u8> {
    match channels {
        Channels::Rgb => interleave::<3>(planes),
        Channels::Rgba => interleave::<4>(planes),
    }
}

fn interleave<const N: usize>(planes: &[f32]) -> Vec<u8> {
    assert!(planes.len().is_multiple_of(N), "a picture has {N} planes");
    let area = (planes.len() / N).max(1);
    let mut pixels = vec![0; planes.len()];
    for (channel, plane) in planes.chunks_exact(area).enumerate() {
        for (pixel, &value) in pixels.as_chunks_mut::<N>().0.iter_mut().zip(plane) {
            pixel[channel] = round8(value);
        }
    }
    pixels
}

/// One picture's planes `[channels, height, width]` in [-1, 1] from its pixels `[height, width, channels]`:
/// `2 * (x / 255) - 1`, in float32 as diffusers' `VaeImageProcessor` reckons. Alpha too: what is opaque is 1.
pub fn planes_from_pixels(pixels: &[u8], channels: Channels) -> Vec<f32> {
    match channels {
        Channels::Rgb => separate::<3>(pixels),
        Channels::Rgba => separate::<4>(pixels),
    }
}

fn separate<const N: usize>(pixels: &[u8]) -> Vec<f32> {
    let values: [f32; 256] = std::array::from_fn(|byte| 2.0 * (byte as f32 / 255.0) - 1.0);
    let pixels = pixels.as_chunks::<N>().0;
    (0..N).flat_map(|channel| pixels.iter().map(move |pixel| values[usize::from(pixel[channel])])).collect()
}

/// Brings the values of a picture to [-1, 1] if they are not there: with one value below 0 they are taken to be, else
/// they are taken to be in [0, 1]. diffusers' `VaeImageProcessor.preprocess` decides in the same way.
pub fn model_range(values: &mut [f32]) {
    if !values.iter().any(|&value| value < 0.0) {
        values.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0);
    }
}

/// The values as float16, little-endian, rounded to nearest even.
pub fn f16_bytes(values: &[f32]) -> Vec<u8> {
    const CHUNK: usize = 1024;
    let mut halves = [f16::ZERO; CHUNK];
    let mut bytes = Vec::with_capacity(values.len() * 2);
    for chunk in values.chunks(CHUNK) {
        let halves = &mut halves[..chunk.len()];
        halves.convert_from_f32_slice(chunk);
        bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_numpy() {
        for step in -3000..=3000 {
            let value = step as f32 / 2000.0;
            let expected = ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even();
            assert_eq!(f32::from(round8(value)), expected, "{value}");
        }
        assert_eq!(round8(f32::NAN), 0);
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY].map(round8), [0, 255]);
        assert_eq!(round8(0.0), 128, "127.5 goes to the even neighbour");
    }

    #[test]
    fn planes_become_pixels() {
        // Two pixels: red and green are white and black, blue is grey.
        let planes = [1.0, -1.0, 1.0, -1.0, 0.0, 0.0];
        assert_eq!(pixels_from_planes(&planes, Channels::Rgb), [255, 255, 128, 0, 0, 128]);
        // The same, transparent and opaque.
        let planes = [&planes[..], &[-1.0, 1.0]].concat();
        assert_eq!(pixels_from_planes(&planes, Channels::Rgba), [255, 255, 128, 0, 0, 0, 128, 255]);
    }

    #[test]
    fn pixels_become_planes_and_pixels_again() {
        let rgb: Vec<u8> = (0..=255).flat_map(|byte| [byte, 255 - byte, byte / 2]).collect();
        let planes = planes_from_pixels(&rgb, Channels::Rgb);
        assert_eq!((planes[0], planes[255], planes[256]), (-1.0, 1.0, 1.0));
        assert_eq!(pixels_from_planes(&planes, Channels::Rgb), rgb);

        let rgba: Vec<u8> = rgb.as_chunks().0.iter().flat_map(|&[r, g, b]| [r, g, b, r]).collect();
        let with_alpha = planes_from_pixels(&rgba, Channels::Rgba);
        assert_eq!(with_alpha, [&planes[..], &planes[..256]].concat());
        assert_eq!(pixels_from_planes(&with_alpha, Channels::Rgba), rgba);
    }

    #[test]
    fn one_negative_value_decides_on_the_range() {
        let mut unit = [0.0, 0.25, 1.0];
        model_range(&mut unit);
        assert_eq!(unit, [-1.0, -0.5, 1.0]);
        let mut full = [-0.001, 0.25, 1.0];
        model_range(&mut full);
        assert_eq!(full, [-0.001, 0.25, 1.0]);
    }

    #[test]
    fn the_unit_range_is_cut() {
        let mut values = [-3.0, -1.0, 0.0, 0.5, 1.0, 7.0];
        unit_range(&mut values);
        assert_eq!(values, [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn halves_are_rounded_to_even() {
        // Longer than a chunk, so that both whole and last chunks are seen.
        let values: Vec<f32> = (0..2500).map(|i| (i as f32 - 1250.0) / 777.0).collect();
        let bytes = f16_bytes(&values);
        assert_eq!(bytes.len(), 5000);
        for (pair, value) in bytes.as_chunks::<2>().0.iter().zip(&values) {
            assert_eq!(f16::from_le_bytes(*pair), f16::from_f32(*value));
        }
        // 2049 lies between the halves 2048 and 2050.
        assert_eq!(f16_bytes(&[2049.0]), f16::from_f32(2048.0).to_le_bytes());
    }
}
