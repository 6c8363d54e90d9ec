//! What the kernel tests share: inputs, the contexts to run in, and the comparison.

use kernels::{Context, Features, Isa, Numerics, Pool, Storage};
use remote_vae_kernels as kernels;
use remote_vae_kernels::reference::Image;

/// Deterministic values in [-1, 1).
pub(crate) fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn contexts() -> Vec<(String, Context)> {
    let mut all = Vec::new();
    for isa in Isa::available() {
        for numerics in [Numerics::Fast, Numerics::Strict] {
            for storage in [Storage::F32, Storage::F16] {
                for threads in [1, 3] {
                    let context = Context {
                        isa,
                        numerics,
                        storage,
                        pool: Pool::new(threads).expect("threads"),
                        arena: Default::default(),
                    };
                    all.push((format!("{isa:?} {numerics:?} {storage:?} {threads}"), context));
                }
            }
        }
    }
    assert!(all.len() >= 8, "the scalar kernels run everywhere");
    all
}

pub(crate) fn check(name: &str, got: &[f32], want: &Image, scale: f64, bound: f64) {
    assert_eq!(got.len(), want.data.len(), "{name}");
    let error =
        got.iter().zip(&want.data).map(|(&g, &w)| (f64::from(g) - w).abs()).fold(0.0, f64::max) / scale;
    if std::env::var_os("PRINT_ERRORS").is_some() {
        println!("{name}: {error:.2e} of {bound:.2e}");
    }
    assert!(error < bound, "{name}: error {error:e}, bound {bound:e}");
    assert!(want.data.iter().any(|w| w.abs() > scale * 1e-2), "{name}: nothing to compare");
}

pub(crate) fn check_stats(name: &str, y: &Features, want: &Image, tolerance: f64) {
    let [_, channels, height, width] = want.shape;
    let pixels = height * width;
    for (image, stats) in y.stats().iter().enumerate() {
        for c in 0..channels {
            let plane = &want.data[(image * channels + c) * pixels..][..pixels];
            let mean = plane.iter().sum::<f64>() / pixels as f64;
            let m2 = plane.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let rms = (plane.iter().map(|v| v * v).sum::<f64>() / pixels as f64).sqrt().max(1e-3);
            assert!((stats.mean[c] - mean).abs() < tolerance * rms, "{name}: mean of channel {c}");
            assert!(
                (stats.m2[c] - m2).abs() < tolerance * rms * rms * pixels as f64,
                "{name}: m2 of channel {c}"
            );
            let largest = plane.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert!(
                (f64::from(stats.abs_max[c]) - largest).abs() < tolerance * largest.max(rms),
                "{name}: abs_max"
            );
        }
    }
}
