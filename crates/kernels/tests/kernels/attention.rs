//! Attention.

use kernels::{
    Attention, Context, DType, Features, GroupNorm, Isa, Numerics, Storage, Watched, WeightView, reference,
};
use reference::Image;
use remote_vae_kernels as kernels;

use crate::common::{bytes, check, check_stats, contexts, values};

/// One position, fewer than a block, several blocks of queries and keys with odd ends; a batch.
const CASES: &[(usize, usize, usize, usize)] =
    &[(1, 32, 1, 1), (1, 16, 5, 7), (2, 64, 17, 31), (1, 160, 9, 40)];

/// The scale of errors, and how large they may be. In f32 they are those of the scores' rounding, with two bf16 for each value
/// (1.1e-4 at most was seen) those of what these leave out. Stored in 11 bits, the input, the residual and the output are off by half a bit of the largest each.
pub(crate) fn scale_and_bound(context: &Context, want: &Image) -> (f64, f64) {
    let largest = want.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    match context.storage {
        Storage::F32 if context.isa == Isa::Amx && context.numerics == Numerics::Fast => (1.0, 1.6e-4),
        Storage::F32 => (1.0, 2e-5),
        Storage::F16 => (largest, 1.5e-3),
    }
}

#[test]
fn attention_matches_the_reference() {
    // Scores spread over several units, so that the softmax is far from uniform.
    matches_the_reference(6.0, |context, want| Some(scale_and_bound(context, want)));
}

/// Scores of hundreds, whose exponentials two bf16 for each value would get wrong by percents.
#[test]
fn attention_with_large_scores_is_done_in_f32() {
    // What rounding scores of some hundreds to f32 does; rounding inputs to f16 does too much to see anything.
    matches_the_reference(60.0, |context, _| (context.storage == Storage::F32).then_some((1.0, 4e-4)));
}

fn matches_the_reference(spread: f32, bound: impl Fn(&Context, &Image) -> Option<(f64, f64)>) {
    for &(batch, channels, height, width) in CASES {
        let shape = [batch, channels, height, width];
        let x: Vec<f32> = values(shape.iter().product(), 1).iter().map(|v| v * 3.0).collect();
        let image = Image::new(shape, &x);
        let norm = GroupNorm { groups: 4, eps: 1e-6, weight: values(channels, 2), bias: values(channels, 3) };
        let size = channels * channels;
        let scaled = |seed, factor: f32| -> Vec<f32> {
            values(size, seed).iter().map(|v| v * factor / (channels as f32).sqrt()).collect()
        };
        let weights = [scaled(4, spread), scaled(5, spread), scaled(6, 2.0), scaled(7, 2.0)];
        let biases = [8, 9, 10, 11].map(|seed| values(channels, seed));
        let raw = [0, 1, 2, 3].map(|i| bytes(&weights[i]));
        let layer = |i: usize| (WeightView::new(DType::F32, &raw[i]), biases[i].as_slice());
        let attention =
            Attention { norm: &norm, to_q: layer(0), to_k: layer(1), to_v: layer(2), to_out: layer(3) };
        let normed = reference::group_norm(&image, norm.groups, norm.eps, &norm.weight, &norm.bias, false);
        let want =
            reference::attention(&image, &normed, [0, 1, 2, 3].map(|i| (&weights[i][..], &biases[i][..])));
        for (name, context) in contexts() {
            let name = format!("{shape:?} {name}");
            let Some((scale, bound)) = bound(&context, &want) else { continue };
            let features = Features::from_nchw(&context.arena, shape, &x).expect("memory");
            let features = features.stored(&context).expect("memory");
            let y = attention.run(&context, features, &mut Watched::unwatched()).expect("memory");
            check(&name, &y.to_nchw(), &want, scale, bound);
            check_stats(&name, &y, &want, bound * 4.0);
        }
    }
}
