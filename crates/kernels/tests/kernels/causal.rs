//! Convolutions and attention over clips.

use kernels::{
    Activation, Attention, CausalConv3d, Clip, Context, Conv2d, DType, GroupNorm, Numerics, Pre, Stopped,
    Storage, Stride, Upsampling, Watched, WeightView, reference,
};
use reference::Image;
use remote_vae_kernels as kernels;

use crate::attention::scale_and_bound;
use crate::common::{bytes, check, values};

struct Case {
    channels: (usize, usize),
    /// Frames, height, width.
    size: (usize, usize, usize),
}

/// One frame, two, three and more; odd sizes, sizes below a tile, many tiles, few and many channels.
const CASES: &[Case] = &[
    Case { channels: (16, 16), size: (1, 1, 1) },
    Case { channels: (16, 32), size: (2, 5, 7) },
    Case { channels: (4, 32), size: (3, 9, 6) },
    Case { channels: (32, 3), size: (4, 10, 50) },
    Case { channels: (48, 80), size: (5, 13, 8) },
];

fn bound(context: &Context, depth: usize) -> f64 {
    let rounding = match context.numerics {
        Numerics::Fast => 8e-5,
        Numerics::Strict => 4.0 * f64::from(f32::EPSILON) * (depth as f64).sqrt(),
    };
    match context.storage {
        Storage::F32 => rounding,
        Storage::F16 => 2e-3,
    }
}

/// `[C, F, H, W]` as an image whose rows are those of all frames.
fn image([channels, frames, height, width]: [usize; 4], data: &[f32]) -> Image {
    Image::new([1, channels, frames * height, width], data)
}

fn clip(context: &Context, shape: [usize; 4], data: &[f32]) -> Clip {
    Clip::from_cfhw(context, shape, data).expect("memory")
}

pub(crate) fn check_stats(name: &str, y: &Clip, want: &Image, tolerance: f64) {
    let pixels = want.shape[2] * want.shape[3];
    let stats = y.stats();
    for (c, plane) in want.data.chunks_exact(pixels).enumerate() {
        let mean = plane.iter().sum::<f64>() / pixels as f64;
        let m2 = plane.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let rms = (plane.iter().map(|v| v * v).sum::<f64>() / pixels as f64).sqrt().max(1e-3);
        let largest = plane.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        assert!((stats.mean[c] - mean).abs() < tolerance * rms, "{name}: mean of channel {c}");
        assert!(
            (stats.m2[c] - m2).abs() < tolerance * rms * rms * pixels as f64,
            "{name}: m2 of channel {c}"
        );
        assert!(
            (f64::from(stats.abs_max[c]) - largest).abs() < tolerance * largest.max(rms),
            "{name}: abs_max"
        );
    }
}

#[test]
fn causal_convolutions_match_the_reference() {
    for (case_number, case) in CASES.iter().enumerate() {
        let (cin, cout) = case.channels;
        let (frames, height, width) = case.size;
        let shape = [cin, frames, height, width];
        let x = values(shape.iter().product(), 1);
        let weight = values(cout * cin * 27, 2);
        let bias = values(cout, 3);
        let raw = bytes(&weight);
        let conv = CausalConv3d {
            weight: WeightView::new(DType::F32, &raw),
            bias: &bias,
            in_channels: cin,
            out_channels: cout,
            stride: Stride::default(),
        };
        let norm = GroupNorm { groups: cin / 4, eps: 1e-6, weight: values(cin, 4), bias: values(cin, 5) };
        let plain = image(shape, &x);
        let activated = reference::group_norm(&plain, norm.groups, norm.eps, &norm.weight, &norm.bias, true);
        let wanted = |x: &Image, upsampling: Upsampling| {
            let upsampled = reference::upsample_clip(x, frames, upsampling.time, upsampling.space);
            let frames = if upsampling.time { 2 * frames - 1 } else { frames };
            reference::causal_conv3d(&upsampled, frames, &weight, &bias)
        };
        let still = Upsampling::default();
        let want_plain = wanted(&plain, still);
        let want_activated = wanted(&activated, still);
        let upsampled = [(false, true), (true, true), (true, false)].map(|(time, space)| {
            let upsampling = Upsampling { time, space };
            (upsampling, wanted(&plain, upsampling))
        });
        // With a stride, outputs of the convolution without one are left out.
        let strided = [(1, 2), (2, 2), (2, 1)].map(|(time, space)| {
            (Stride { time, space }, reference::stride_clip(&want_plain, frames, time, space))
        });
        let residual = values(want_plain.data.len(), 6);
        let want_activated =
            reference::add(&want_activated, &image([cout, frames, height, width], &residual));
        let scale = (cin as f64 * 27.0).sqrt() / 3.0;
        for (name, context) in crate::common::contexts() {
            let name = format!("case {case_number}, {name}");
            let bound = bound(&context, cin * 27);
            let input = clip(&context, shape, &x);
            let run = |pre, upsampling, residual| {
                let mut go_on = |_| true;
                conv.run(&context, &input, pre, upsampling, residual, &mut Watched::new(&mut go_on))
                    .expect("memory")
            };
            let y = run(Pre::default(), still, None);
            assert_eq!(y.shape(), [cout, frames, height, width]);
            check(&name, &y.to_cfhw(), &want_plain, scale, bound);
            check_stats(&name, &y, &want_plain, bound * 4.0);

            let residual = clip(&context, [cout, frames, height, width], &residual);
            let pre = Pre { norm: Some((&norm).into()), activation: Some(Activation::Silu) };
            let y = run(pre, still, Some(residual));
            check(&format!("{name}, norm and residual"), &y.to_cfhw(), &want_activated, scale, bound);
            check_stats(&format!("{name}, norm and residual"), &y, &want_activated, bound * 4.0);

            for &(stride, ref want) in &strided {
                let name = format!("{name}, {stride:?}");
                let mut go_on = |_| true;
                let y = CausalConv3d { stride, ..conv }
                    .run(&context, &input, Pre::default(), still, None, &mut Watched::new(&mut go_on))
                    .expect("memory");
                let sides = [height, width].map(|side| side.div_ceil(stride.space));
                assert_eq!(y.shape(), [cout, frames.div_ceil(stride.time), sides[0], sides[1]]);
                check(&name, &y.to_cfhw(), want, scale, bound);
                check_stats(&name, &y, want, bound * 4.0);
            }

            for (upsampling, want) in &upsampled {
                let name = format!("{name}, {upsampling:?}");
                let y = run(Pre::default(), *upsampling, None);
                check(&name, &y.to_cfhw(), want, scale, bound * 2.0);
                check_stats(&name, &y, want, bound * 4.0);
            }
        }
    }
}

#[test]
fn pointwise_convolutions_of_clips_match_the_reference() {
    let shape = [32, 3, 7, 9];
    let x = values(shape.iter().product(), 1);
    let (weight, bias) = (values(16 * 32, 2), values(16, 3));
    let raw = bytes(&weight);
    let conv = Conv2d {
        weight: WeightView::new(DType::F32, &raw),
        bias: &bias,
        in_channels: 32,
        out_channels: 16,
        kernel: 1,
        stride: 1,
        padding: [0; 4],
        ..Conv2d::default()
    };
    let want = reference::conv2d(&image(shape, &x), &weight, &bias, 1, 1, [0; 4]);
    for (name, context) in crate::common::contexts() {
        let y = conv
            .run_pointwise_on_clip(&context, clip(&context, shape, &x), &mut Watched::unwatched())
            .expect("memory");
        let bound = bound(&context, 32);
        check(&name, &y.to_cfhw(), &want, 32f64.sqrt() / 3.0, bound);
        check_stats(&name, &y, &want, bound * 4.0);
    }
}

#[test]
fn causal_attention_matches_the_reference() {
    // One position; frames within a block of queries; frames that no block divides, over several blocks of keys.
    for shape @ [channels, frames, height, width] in [[32, 1, 1, 1], [16, 3, 5, 1], [32, 4, 7, 13]] {
        let x: Vec<f32> = values(shape.iter().product(), 1).iter().map(|v| v * 3.0).collect();
        let tall = image(shape, &x);
        let norm = GroupNorm { groups: 4, eps: 1e-6, weight: values(channels, 2), bias: values(channels, 3) };
        let scaled = |seed, factor: f32| -> Vec<f32> {
            let values = values(channels * channels, seed);
            values.iter().map(|v| v * factor / (channels as f32).sqrt()).collect()
        };
        let weights = [scaled(4, 6.0), scaled(5, 6.0), scaled(6, 2.0), scaled(7, 2.0)];
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
        let normed = reference::group_norm(&tall, norm.groups, norm.eps, &norm.weight, &norm.bias, false);
        let layers = [0, 1, 2, 3].map(|i| (&weights[i][..], &biases[i][..]));
        let want = reference::attention_over(&tall, &normed, layers, height * width);
        assert_eq!(want.shape, [1, channels, frames * height, width]);
        for (name, context) in crate::common::contexts() {
            let name = format!("{shape:?} {name}");
            let mut go_on = |_| true;
            let watched = &mut Watched::new(&mut go_on);
            let y = attention.run_causal(&context, clip(&context, shape, &x), watched).expect("memory");
            let (scale, bound) = scale_and_bound(&context, &want);
            check(&name, &y.to_cfhw(), &want, scale, bound);
            check_stats(&name, &y, &want, bound * 4.0);
        }
    }
}

#[test]
fn a_kernel_stops_when_it_is_told_to() {
    let context = Context::new(2).expect("threads");
    let shape = [16, 2, 3, 3];
    let x = clip(&context, shape, &values(shape.iter().product(), 1));
    let raw = bytes(&values(16 * 16 * 27, 2));
    let conv = CausalConv3d {
        weight: WeightView::new(DType::F32, &raw),
        bias: &[],
        in_channels: 16,
        out_channels: 16,
        stride: Stride::default(),
    };
    let mut no = |_| false;
    let stopped =
        conv.run(&context, &x, Pre::default(), Upsampling::default(), None, &mut Watched::new(&mut no));
    assert!(matches!(stopped, Err(Stopped::Cancelled)));
}
