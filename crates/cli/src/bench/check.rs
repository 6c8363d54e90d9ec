//! Whether the result is right, before anybody times it.

use anyhow::ensure;
use vae::device::cpu::{Cpu, CpuOptions, Isa, Numerics, Storage};
use vae::{DecodeOptions, HostTensor, Silent, Vae, VaeInfo};

use super::{Progress, latents};
use crate::source::Source;

/// Frames, height and width of the latents that the result is checked with: odd, so that no tile of a kernel fits evenly.
const CHECKED: [usize; 3] = [1, 8, 11];

/// The same for a video, whose layers have three times as much to do in each place.
const CHECKED_VIDEO: [usize; 3] = [2, 3, 5];

/// The largest difference that is accepted of f32 storage, relative to max(1, |x|): what the server promises of its
/// answers against diffusers'.
const MAX_ERROR: f64 = 1.5e-3;

/// The least that is accepted of f16 storage: the ratio of peak signal to noise, in dB.
const MIN_PSNR: f64 = 52.0;

/// How near the engine's result is to the reference's.
#[derive(Debug)]
pub(super) struct Checked {
    /// Largest difference, relative to max(1, |x|).
    pub(super) error: f64,
    /// In dB; infinite when nothing differs.
    pub(super) psnr: f64,
}

/// What the result is checked with.
pub(super) fn checked_latents(info: &VaeInfo) -> [usize; 3] {
    if info.temporal_factor.is_some() { CHECKED_VIDEO } else { CHECKED }
}

/// Decodes something small, and again with plain scalar arithmetic term by term in f32, which shares no fast path.
pub(super) fn check(source: &Source, vae: &mut dyn Vae, options: CpuOptions) -> anyhow::Result<Checked> {
    let plain = CpuOptions {
        isa: Some(Isa::Scalar),
        numerics: Numerics::Strict,
        storage: Storage::F32,
        threads: options.threads,
    };
    let mut reference = source.clone().load(Cpu::new(plain)?, None)?;
    let latents = latents(vae.info(), checked_latents(vae.info()))?;
    let mut progress = Progress::new("checking the result".to_owned());
    let expected = reference.decode(latents.clone(), &DecodeOptions::default(), &mut progress)?;
    let found = vae.decode(latents, &DecodeOptions::default(), &mut Silent)?;
    progress.end();

    let checked = compare(&found, &expected);
    let good = match options.storage {
        Storage::F32 => checked.error <= MAX_ERROR,
        Storage::F16 => checked.psnr >= MIN_PSNR,
    };
    ensure!(
        good,
        "the result is wrong: it differs by {:.1e} (PSNR {:.1} dB) from that of strict arithmetic; please report it \
         with the model, and with `{}`",
        checked.error,
        checked.psnr,
        vae.info().engine
    );
    Ok(checked)
}

fn compare(found: &HostTensor, expected: &HostTensor) -> Checked {
    let (mut error, mut squares, mut peak) = (0.0f64, 0.0, 1.0f64);
    for (&found, &expected) in found.data.iter().zip(&expected.data) {
        let (found, expected) = (f64::from(found), f64::from(expected));
        let difference = (found - expected).abs();
        // What is no number is as wrong as can be.
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        error = error.max(difference / expected.abs().max(1.0));
        squares += difference * difference;
        peak = peak.max(expected.abs());
    }
    if found.shape != expected.shape {
        error = f64::INFINITY;
        squares = f64::INFINITY;
    }
    // Pictures are in [-1, 1], so that their range is twice their peak.
    let psnr = 10.0 * ((2.0 * peak).powi(2) * expected.data.len() as f64 / squares).log10();
    Checked { error, psnr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_result_is_seen() {
        let tensor = |data: &[f32]| HostTensor::new(vec![data.len()], data.to_vec());
        let expected = tensor(&[0.5, -4.0, 0.0, 1.0]);
        let same = compare(&expected, &expected);
        assert_eq!((same.error, same.psnr), (0.0, f64::INFINITY));
        let off = compare(&tensor(&[0.5, -4.4, 0.0, 1.0]), &expected);
        assert!((off.error - 0.1).abs() < 1e-6 && (off.psnr - 32.04).abs() < 0.01, "{off:?}");
        for found in [tensor(&[0.5, -4.0, f32::NAN, 1.0]), tensor(&[0.5])] {
            let wrong = compare(&found, &expected);
            assert_eq!((wrong.error, wrong.psnr), (f64::INFINITY, f64::NEG_INFINITY));
        }
    }
}
