//! One small case of each kernel, small enough for Miri, which interprets the plain Rust ones and sees reads of what was never
//! written, accesses outside of a buffer, and data races:
//!
//! The command is in docs/kernels.md.

use kernels::{
    Activation, Algorithm, Attention, CausalConv3d, Clip, Context, Conv2d, DType, Features, GroupNorm, Isa,
    Numerics, Pre, Storage, Stride, Upsampling, Watched, WeightView, reference,
};
use reference::Image;
use remote_vae_kernels as kernels;

use crate::common::{bytes, check, values};

const CHANNELS: usize = 16;
const SIZE: [usize; 2] = [3, 4];
const SCALE: f64 = 4.0;

fn contexts() -> Vec<Context> {
    let context = Context::new(2).expect("threads");
    Isa::available().into_iter().map(|isa| Context { isa, ..context.clone() }).collect()
}

fn bound(context: &Context) -> f64 {
    match context.storage {
        Storage::F32 => 1.6e-4,
        Storage::F16 => 2e-3,
    }
}

fn norm() -> GroupNorm {
    GroupNorm { groups: 4, eps: 1e-6, weight: values(CHANNELS, 4), bias: values(CHANNELS, 5) }
}

fn image(data: &[f32], rows: usize) -> Image {
    Image::new([1, CHANNELS, rows, SIZE[1]], data)
}

fn pictures(context: &Context, data: &[f32]) -> Features {
    let x = Features::from_nchw(&context.arena, [1, CHANNELS, SIZE[0], SIZE[1]], data).expect("memory");
    x.stored(context).expect("memory")
}

#[test]
fn small_convolutions() {
    let x = values(CHANNELS * SIZE[0] * SIZE[1], 1);
    // A channel far from zero, for which filtering with large tiles is not exact enough.
    let far: Vec<f32> =
        x.iter().enumerate().map(|(i, v)| v + if i < SIZE[0] * SIZE[1] { 150.0 } else { 0.0 }).collect();
    let weight = values(CHANNELS * CHANNELS * 9, 2);
    let raw = bytes(&weight);
    let bias = values(CHANNELS, 3);
    let conv = Conv2d {
        weight: WeightView::new(DType::F32, &raw),
        bias: &bias,
        in_channels: CHANNELS,
        out_channels: CHANNELS,
        kernel: 3,
        stride: 1,
        padding: [1; 4],
        ..Conv2d::default()
    };
    let norm = norm();
    let pre = Pre { norm: Some((&norm).into()), activation: Some(Activation::Silu) };
    for base in contexts() {
        for (numerics, storage, data) in [
            (Numerics::Fast, Storage::F32, &x),
            (Numerics::Fast, Storage::F16, &x),
            (Numerics::Strict, Storage::F32, &x),
            (Numerics::Fast, Storage::F32, &far),
        ] {
            let context = &Context { numerics, storage, ..base.clone() };
            let name = format!("{:?} {numerics:?} {storage:?}", context.isa);
            let scale = SCALE * if std::ptr::eq(data, &far) { 150.0 } else { 1.0 };
            let plain = image(data, SIZE[0]);
            let unwatched = &mut Watched::unwatched();
            let y = conv.run(context, &pictures(context, data), Pre::default(), None, unwatched);
            let want = reference::conv2d(&plain, &weight, &bias, 3, 1, [1; 4]);
            check(&name, &y.expect("memory").to_nchw(), &want, scale, bound(context));
            let y = conv.run_upsampled(context, &pictures(context, data), unwatched);
            let want = reference::conv2d(&reference::upsample2x(&plain), &weight, &bias, 3, 1, [1; 4]);
            check(&name, &y.expect("memory").to_nchw(), &want, scale, 2.0 * bound(context));
        }
        let context = &base;
        let name = format!("{:?}", context.isa);
        let plain = image(&x, SIZE[0]);
        let unwatched = &mut Watched::unwatched();
        let residual = Some(pictures(context, &x));
        let y = conv.run(context, &pictures(context, &x), pre, residual, unwatched).expect("memory");
        let normed = reference::group_norm(&plain, norm.groups, norm.eps, &norm.weight, &norm.bias, true);
        let want = reference::add(&reference::conv2d(&normed, &weight, &bias, 3, 1, [1; 4]), &plain);
        check(&name, &y.to_nchw(), &want, SCALE, bound(context));
        let strided = Conv2d { stride: 2, padding: [0, 1, 0, 1], ..conv };
        let y = strided.run(context, &pictures(context, &x), Pre::default(), None, unwatched);
        let want = reference::conv2d(&plain, &weight, &bias, 3, 2, [0, 1, 0, 1]);
        check(&name, &y.expect("memory").to_nchw(), &want, SCALE, bound(context));
        let few = Conv2d {
            weight: WeightView::new(DType::F32, &raw[..raw.len() / CHANNELS * 3]),
            bias: &bias[..3],
            out_channels: 3,
            ..conv
        };
        let y = few.run(context, &pictures(context, &x), pre, None, unwatched).expect("memory");
        let want =
            reference::conv2d(&normed, &weight[..weight.len() / CHANNELS * 3], &bias[..3], 3, 1, [1; 4]);
        check(&name, &y.to_nchw(), &want, SCALE, bound(context));
        // In place, and into more channels than there were.
        for outputs in [CHANNELS / 2, 2 * CHANNELS] {
            let bias = values(outputs, 6);
            let pointwise = Conv2d {
                weight: WeightView::new(DType::F32, &raw[..outputs * CHANNELS * 4]),
                bias: &bias,
                out_channels: outputs,
                kernel: 1,
                padding: [0; 4],
                ..conv
            };
            let y = pointwise.run_pointwise(context, pictures(context, &x), unwatched).expect("memory");
            let want = reference::conv2d(&plain, &weight[..outputs * CHANNELS], &bias, 1, 1, [0; 4]);
            check(&name, &y.to_nchw(), &want, SCALE, bound(context));
        }
    }
}

#[test]
fn small_convolutions_choose_every_algorithm() {
    let x = values(CHANNELS * SIZE[0] * SIZE[1], 1);
    let raw = bytes(&values(CHANNELS * CHANNELS * 9, 2));
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
    let context = Context { isa: Isa::Scalar, ..Context::new(1).expect("threads") };
    let chosen = |offset: f32| {
        let mut x = x.clone();
        x[..SIZE[0] * SIZE[1]].iter_mut().for_each(|v| *v += offset);
        conv.plan(&context, &pictures(&context, &x), Pre::default()).algorithm
    };
    assert_eq!(chosen(0.0), Algorithm::Winograd6);
    assert_eq!(chosen(150.0), Algorithm::Winograd4);
}

#[test]
fn small_attention() {
    let x = values(CHANNELS * SIZE[0] * SIZE[1], 1);
    let norm = norm();
    let weights = [4, 5, 6, 7].map(|seed| values(CHANNELS * CHANNELS, seed));
    let biases = [8, 9, 10, 11].map(|seed| values(CHANNELS, seed));
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
    let plain = image(&x, SIZE[0]);
    let normed = reference::group_norm(&plain, norm.groups, norm.eps, &norm.weight, &norm.bias, false);
    let layers = [0, 1, 2, 3].map(|i| (&weights[i][..], &biases[i][..]));
    let want = reference::attention(&plain, &normed, layers);
    for context in contexts() {
        let y = attention.run(&context, pictures(&context, &x), &mut Watched::unwatched()).expect("memory");
        check(&format!("{:?}", context.isa), &y.to_nchw(), &want, SCALE, 1e-3);
    }
}

#[test]
fn small_clips() {
    const FRAMES: usize = 3;
    let shape = [CHANNELS, FRAMES, SIZE[0], SIZE[1]];
    let x = values(shape.iter().product(), 1);
    let weight = values(CHANNELS * CHANNELS * 27, 2);
    let raw = bytes(&weight);
    let bias = values(CHANNELS, 3);
    let conv = CausalConv3d {
        weight: WeightView::new(DType::F32, &raw),
        bias: &bias,
        in_channels: CHANNELS,
        out_channels: CHANNELS,
        stride: Stride::default(),
    };
    let plain = image(&x, FRAMES * SIZE[0]);
    for base in contexts() {
        for numerics in [Numerics::Fast, Numerics::Strict] {
            let context = &Context { numerics, ..base.clone() };
            let name = format!("{:?} {numerics:?}", context.isa);
            let clip = Clip::from_cfhw(context, shape, &x).expect("memory");
            for (stride, time) in [(1, false), (1, true), (2, false)] {
                let conv = CausalConv3d { stride: Stride { time: stride, space: stride }, ..conv };
                let upsampling = Upsampling { time, space: time };
                let unwatched = &mut Watched::unwatched();
                let y = conv.run(context, &clip, Pre::default(), upsampling, None, unwatched);
                let shown = if time { 2 * FRAMES - 1 } else { FRAMES };
                let upsampled = reference::upsample_clip(&plain, FRAMES, time, time);
                let want = reference::causal_conv3d(&upsampled, shown, &weight, &bias);
                let want = reference::stride_clip(&want, shown, stride, stride);
                check(&name, &y.expect("memory").to_cfhw(), &want, 2.0 * SCALE, 2.0 * bound(context));
            }
        }
    }
}
