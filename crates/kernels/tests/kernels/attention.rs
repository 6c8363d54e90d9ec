//! Attention.

use kernels::{Attention, DType, Features, GroupNorm, Storage, WeightView, reference};
use reference::Image;
use remote_vae_kernels as kernels;

use crate::common::{bytes, check, check_stats, contexts, values};

/// One position, fewer than a block, several blocks of queries and keys with odd ends; a batch.
const CASES: &[(usize, usize, usize, usize)] =
    &[(1, 32, 1, 1), (1, 16, 5, 7), (2, 64, 17, 31), (1, 160, 9, 40)];

#[test]
fn attention_matches_the_reference() {
    for &(batch, channels, height, width) in CASES {
        let shape = [batch, channels, height, width];
        let x: Vec<f32> = values(shape.iter().product(), 1).iter().map(|v| v * 3.0).collect();
        let image = Image::new(shape, &x);
        let norm = GroupNorm { groups: 4, eps: 1e-6, weight: values(channels, 2), bias: values(channels, 3) };
        let size = channels * channels;
        // Scores spread over several units, so that the softmax is far from uniform.
        let scaled = |seed, factor: f32| -> Vec<f32> {
            values(size, seed).iter().map(|v| v * factor / (channels as f32).sqrt()).collect()
        };
        let weights = [scaled(4, 6.0), scaled(5, 6.0), scaled(6, 2.0), scaled(7, 2.0)];
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
            let features = Features::from_nchw(&context.arena, shape, &x).expect("memory");
            let features = features.stored(&context).expect("memory");
            let y = attention.run(&context, features).expect("memory");
            // Stored in 11 bits, the input, the residual and the output are off by half a bit of the largest each.
            let largest = want.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let (scale, bound) =
                if context.storage == Storage::F32 { (1.0, 2e-5) } else { (largest, 1.5e-3) };
            check(&name, &y.to_nchw(), &want, scale, bound);
            check_stats(&name, &y, &want, bound * 4.0);
        }
    }
}
