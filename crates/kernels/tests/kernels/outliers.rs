//! Inputs with channels far from zero and with single bright spots, as real checkpoints have them: the planner must
//! choose an algorithm whose error stays below what it promises.

use kernels::{Algorithm, Context, Conv2d, DType, Features, Isa, Pre, Watched, WeightView, reference};
use reference::Image;
use remote_vae_kernels as kernels;

use crate::common::{bytes, values};

/// Deviations of the output, as `plan.rs` promises.
const TOLERANCE: f64 = 1e-3;

const CHANNELS: usize = 32;
const SIZE: usize = 40;

/// Signal of deviation 0.58 everywhere, a constant added to every eighth channel, and one bright spot in another.
fn input(offset: f32, spot: f32) -> Vec<f32> {
    let mut x = values(CHANNELS * SIZE * SIZE, 1);
    for (c, plane) in x.chunks_exact_mut(SIZE * SIZE).enumerate() {
        if c % 8 == 0 {
            plane.iter_mut().for_each(|v| *v += offset);
        }
        if c == 3 {
            plane[SIZE * 17 + 11] += spot;
        }
    }
    x
}

fn deviation(image: &Image) -> f64 {
    // Offsets pass through the filters as constants, so the deviation is taken channel by channel.
    let [_, channels, height, width] = image.shape;
    let planes = image.data.chunks_exact(height * width);
    let variances = planes.map(|plane| {
        // Without the border, where the zeros around the image meet the offset.
        let inner: Vec<f64> =
            (2..height - 2).flat_map(|y| plane[y * width + 2..(y + 1) * width - 2].iter().copied()).collect();
        let mean = inner.iter().sum::<f64>() / inner.len() as f64;
        inner.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / inner.len() as f64
    });
    (variances.sum::<f64>() / channels as f64).sqrt()
}

#[test]
fn the_planned_algorithm_keeps_its_promise() {
    let weight = values(CHANNELS * CHANNELS * 9, 2);
    let raw = bytes(&weight);
    let conv = Conv2d {
        weight: WeightView::new(DType::F32, &raw),
        bias: &[],
        in_channels: CHANNELS,
        out_channels: CHANNELS,
        kernel: 3,
        stride: 1,
        padding: [1; 4],
        ..Conv2d::default()
    };
    let mut chosen = Vec::new();
    for (offset, spot) in
        [(0.0, 0.0), (10.0, 0.0), (0.0, 100.0), (100.0, 0.0), (1e3, 0.0), (0.0, 1e4), (1e4, 1e4)]
    {
        let x = input(offset, spot);
        let shape = [1, CHANNELS, SIZE, SIZE];
        let image = Image::new(shape, &x);
        let plain = reference::conv2d(&image, &weight, &[], 3, 1, [1; 4]);
        let upsampled = reference::conv2d(&reference::upsample2x(&image), &weight, &[], 3, 1, [1; 4]);
        for isa in Isa::available() {
            let context = Context { isa, ..Context::new(2).expect("threads") };
            let features = Features::from_nchw(&context.arena, shape, &x).expect("memory");
            let plan = conv.plan(&context, &features, Pre::default());
            chosen.push(plan.algorithm);
            let y = conv
                .run(&context, &features, Pre::default(), None, &mut Watched::unwatched())
                .expect("memory");
            let z = conv.run_upsampled(&context, &features, &mut Watched::unwatched()).expect("memory");
            for (name, got, want) in [("plain", y, &plain), ("upsampled", z, &upsampled)] {
                let got = got.to_nchw();
                let error = got.iter().zip(&want.data).map(|(&g, &w)| (f64::from(g) - w).abs());
                let error = error.fold(0.0, f64::max) / deviation(want);
                // A direct convolution is as good as f32 gets: four deviations of a random walk of roundings, of the
                // size of the inputs under one filter (as in the tests of convolutions), in deviations of the signal.
                let depth = (CHANNELS * 9) as f64;
                let inputs =
                    (f64::from(offset).powi(2) / 8.0 + f64::from(spot).powi(2) / depth + 0.33).sqrt() / 0.577;
                let allowed = match plan.algorithm {
                    Algorithm::Direct => 4.0 * f64::from(f32::EPSILON) * depth.sqrt() * inputs,
                    _ => TOLERANCE,
                };
                if std::env::var_os("PRINT_ERRORS").is_some() {
                    println!(
                        "{offset} {spot} {name} {isa:?} {:?}: {error:.2e} of {allowed:.2e}",
                        plan.algorithm
                    );
                }
                assert!(error < allowed, "{offset} {spot} {name} {isa:?} {:?}: {error:e}", plan.algorithm);
            }
        }
    }
    let mut algorithms = vec![Algorithm::Winograd6, Algorithm::Winograd4, Algorithm::Direct];
    if Isa::Amx.is_available() {
        algorithms.extend([Algorithm::WinogradTiles, Algorithm::Tiles]);
    }
    for algorithm in algorithms {
        assert!(chosen.contains(&algorithm), "no input leads to {algorithm:?}");
    }
}
