//! Attention.

use kernels::{
    Attention, ChannelNorm, ChannelNormKind, Clip, Context, DType, Features, GroupNorm, Isa, Numerics,
    Storage, Watched, WeightView, reference,
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
        let attention = Attention {
            norm: Some((&norm).into()),
            heads: 1,
            to_q: layer(0),
            to_k: layer(1),
            to_v: layer(2),
            to_out: layer(3),
        };
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

/// Heads whose channels are a vector or less, or several panels; no norm, and those over channels; no biases; over a picture,
/// in each frame, and in each frame and those before it.
#[test]
fn attention_with_heads_and_other_norms_matches_the_reference() {
    for (channels, heads, frames, height, width, norm) in [
        (32, 4, 1, 5, 7, None),
        (24, 3, 2, 3, 5, Some(ChannelNormKind::Length { eps: 1e-12 })),
        (128, 2, 3, 17, 11, Some(ChannelNormKind::RootMeanSquare { eps: 1e-6 })),
        (40, 1, 2, 9, 4, Some(ChannelNormKind::Layer { eps: 1e-6 })),
    ] {
        let shape = [channels, frames, height, width];
        let x = values(shape.iter().product(), 1);
        let weights = [4, 5, 6, 7].map(|seed| {
            let values = values(channels * channels, seed);
            values.iter().map(|v| v * 3.0 / (channels as f32).sqrt()).collect::<Vec<_>>()
        });
        let biases = [8, 9, 10, 11].map(|seed| if heads == 4 { Vec::new() } else { values(channels, seed) });
        let raw = [0, 1, 2, 3].map(|i| bytes(&weights[i]));
        let layer = |i: usize| (WeightView::new(DType::F32, &raw[i]), biases[i].as_slice());
        let layers = [0, 1, 2, 3].map(|i| (&weights[i][..], &biases[i][..]));
        let norm = norm.map(|kind| ChannelNorm {
            kind,
            weight: values(channels, 2).iter().map(|v| 1.0 + 0.5 * v).collect(),
            bias: values(channels, 3),
        });
        let attention = Attention {
            norm: norm.as_ref().map(Into::into),
            heads,
            to_q: layer(0),
            to_k: layer(1),
            to_v: layer(2),
            to_out: layer(3),
        };
        let tall = Image::new([1, channels, frames * height, width], &x);
        let normed = match &norm {
            Some(norm) => reference::channel_norm(&tall, norm.kind, &norm.weight, &norm.bias),
            None => tall.clone(),
        };
        let causal = reference::attention_with_heads(&tall, &normed, layers, height * width, heads);
        // Each frame as an image of its own.
        let of_frame = |image: &Image, frame: usize| {
            let pixels = height * width;
            let plane = |c: usize| &image.data[(c * frames + frame) * pixels..][..pixels];
            let data = (0..channels).flat_map(|c| plane(c).to_vec()).collect();
            Image { shape: [1, channels, height, width], data }
        };
        let alone: Vec<Image> = (0..frames)
            .map(|frame| {
                let (x, normed) = (of_frame(&tall, frame), of_frame(&normed, frame));
                reference::attention_with_heads(&x, &normed, layers, height * width, heads)
            })
            .collect();
        for (name, context) in contexts() {
            let name = format!("{shape:?}, {heads} heads, {name}");
            let clip = || Clip::from_cfhw(&context, shape, &x).expect("memory");
            let unwatched = &mut Watched::unwatched();
            let y = attention.run_causal(&context, clip(), unwatched).expect("memory").to_cfhw();
            let (scale, bound) = scale_and_bound(&context, &causal);
            check(&format!("{name}, causal"), &y, &causal, scale, bound);
            let y = attention.run_in_frames(&context, clip(), unwatched).expect("memory").to_cfhw();
            for (frame, want) in alone.iter().enumerate() {
                let got: Vec<f32> = (0..channels)
                    .flat_map(|c| y[(c * frames + frame) * height * width..][..height * width].to_vec())
                    .collect();
                check(&format!("{name}, frame {frame}"), &got, want, scale, bound);
            }
        }
    }
}
