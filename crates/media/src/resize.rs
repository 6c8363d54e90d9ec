//! Sizes that a model can take, as diffusers' `VaeImageProcessor` makes them: pictures by Pillow's Lanczos filter,
//! tensors by the nearest value.
//!
//! Libraries resample well, but none to Pillow's very bytes, and a byte is more than the difference that latents may
//! have. So this is Pillow's algorithm (`Resample.c`, `ImagingResampleInner` for eight bits): along rows first and then
//! along columns, each with weights in fixed point and rounded to a byte.

use std::f64::consts::PI;

use crate::image::{Channels, Image};

/// Half the width of the filter, in samples of the larger side (`lanczos_filter`, three lobes).
const SUPPORT: f64 = 3.0;
/// Fraction bits of a weight (`PRECISION_BITS`): eight of 32 are the byte's, two are left for what goes beyond it.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half a unit, for rounding.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Resizes as Pillow's `resize((width, height), Resampling.LANCZOS)` does, to the same bytes. With alpha, colours count by it,
/// so that what is transparent has no colour in what lies beside it.
///
/// # Panics
/// When a side is 0.
pub fn resize_lanczos(image: Image, width: usize, height: usize) -> Image {
    assert!(width > 0 && height > 0 && image.width > 0 && image.height > 0, "a picture has sides");
    if (width, height) == (image.width, image.height) {
        return image;
    }
    match image.channels {
        Channels::Rgb => resample::<3>(image, width, height),
        Channels::Rgba => {
            let mut image = image;
            image.pixels.as_chunks_mut().0.iter_mut().for_each(premultiply);
            let mut image = resample::<4>(image, width, height);
            image.pixels.as_chunks_mut().0.iter_mut().for_each(divide_by_alpha);
            image
        }
    }
}

/// RGBA to Pillow's mode `RGBa` (`rgba2rgbA`).
fn premultiply([colours @ .., alpha]: &mut [u8; 4]) {
    for value in colours {
        let product = u32::from(*value) * u32::from(*alpha) + 128;
        *value = (((product >> 8) + product) >> 8) as u8;
    }
}

/// The way back (`rgbA2rgba`).
fn divide_by_alpha([colours @ .., alpha]: &mut [u8; 4]) {
    if !matches!(alpha, 0 | 255) {
        for value in colours {
            *value = (255 * u32::from(*value) / u32::from(*alpha)).min(255) as u8;
        }
    }
}

/// [`resize_lanczos`] of pixels of `N` bytes, each by itself.
fn resample<const N: usize>(image: Image, width: usize, height: usize) -> Image {
    let mut image = image;
    if width != image.width {
        let taps = taps(image.width, width);
        let mut pixels = Vec::with_capacity(width * image.height * N);
        for row in image.pixels.chunks_exact(image.width * N) {
            let row = row.as_chunks::<N>().0;
            for Taps { first, weights } in &taps {
                let mut sums = [HALF; N];
                for (pixel, &weight) in row[*first..].iter().zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(value) * weight;
                    }
                }
                pixels.extend(sums.map(to_byte));
            }
        }
        image = Image { width, pixels, ..image };
    }
    if height != image.height {
        let row_bytes = image.width * N;
        let mut pixels = Vec::with_capacity(row_bytes * height);
        let mut sums = vec![0; row_bytes];
        for Taps { first, weights } in taps(image.height, height) {
            sums.fill(HALF);
            let rows = image.pixels[first * row_bytes..].chunks_exact(row_bytes);
            for (row, weight) in rows.zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            pixels.extend(sums.iter().copied().map(to_byte));
        }
        image = Image { height, pixels, ..image };
    }
    image
}

/// `clip8`.
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Which samples make one new sample.
struct Taps {
    first: usize,
    /// In fixed point; their sum is one, up to rounding.
    weights: Vec<i32>,
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    // When it enlarges, the filter is as wide as it is for no change.
    let filter_scale = scale.max(1.0);
    let support = SUPPORT * filter_scale;
    let taps = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        // Both are cut to integers, as C does.
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weights: Vec<f64> =
            (first..end).map(|sample| lanczos((sample as f64 - center + 0.5) / filter_scale)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| {
            let weight = weight / sum * f64::from(1 << PRECISION_BITS);
            (weight + 0.5_f64.copysign(weight)) as i32
        };
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(taps).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if (-SUPPORT..SUPPORT).contains(&x) { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}

/// Resizes planes of `from` (height, width) to `to` as PyTorch's `interpolate` in its mode `nearest` does.
///
/// # Panics
/// When a side is 0 or `planes` is not made of whole planes.
pub fn resize_nearest(planes: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let area = from.0 * from.1;
    assert!(area > 0 && planes.len().is_multiple_of(area), "planes of {from:?} are whole");
    let rows = nearest(from.0, to.0);
    let columns = nearest(from.1, to.1);
    let mut resized = Vec::with_capacity(planes.len() / area * to.0 * to.1);
    for plane in planes.chunks_exact(area) {
        for &row in &rows {
            let row = &plane[row * from.1..(row + 1) * from.1];
            resized.extend(columns.iter().map(|&column| row[column]));
        }
    }
    resized
}

/// PyTorch's `nearest_neighbor_compute_source_index`, which reckons in float32.
fn nearest(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f32 / to as f32;
    (0..to).map(|index| ((index as f32 * scale) as usize).min(from - 1)).collect()
}
