//! Convolutions with every padding, stride, norm, activation and grouping that families of autoencoders have.

use kernels::{
    Activation, ChannelNorm, ChannelNormKind, Clip, Context, Conv2d, Conv3d, DType, Features, Numerics,
    Padding3d, PaddingMode, Pre, Storage, Upsampling, Watched, WeightView, reference,
};
use reference::{Geometry, Image};
use remote_vae_kernels as kernels;

use crate::common::{bytes, check, check_stats, contexts, values};

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

fn activated(x: &Image, activation: Activation) -> Image {
    use reference::Activation as Exact;
    let exact = match activation {
        Activation::Silu => Exact::Silu,
        Activation::Relu => Exact::Relu,
        Activation::Tanh => Exact::Tanh,
        Activation::Gelu => Exact::Gelu,
        Activation::GeluTanh => Exact::GeluTanh,
    };
    reference::map(x, |v| exact.of(v))
}

fn channel_norm(kind: ChannelNormKind, channels: usize) -> ChannelNorm {
    // Weights of about one, as a norm's are.
    let weight = values(channels, 4).iter().map(|v| 1.0 + 0.5 * v).collect();
    ChannelNorm { kind, weight, bias: values(channels, 5) }
}

const LENGTH: ChannelNormKind = ChannelNormKind::Length { eps: 1e-12 };
const ROOT: ChannelNormKind = ChannelNormKind::RootMeanSquare { eps: 1e-8 };
const LAYER: ChannelNormKind = ChannelNormKind::Layer { eps: 1e-6 };

struct Case {
    channels: (usize, usize),
    groups: usize,
    size: (usize, usize),
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
    mode: PaddingMode,
    norm: Option<ChannelNormKind>,
    activation: Option<Activation>,
    bias: bool,
}

const PLAIN: Case = Case {
    channels: (16, 32),
    groups: 1,
    size: (9, 11),
    kernel: 3,
    stride: 1,
    padding: [1; 4],
    mode: PaddingMode::Zeros,
    norm: None,
    activation: None,
    bias: true,
};

const CASES: &[Case] = &[
    // Paddings, by every algorithm, and on an image that is all border.
    Case { mode: PaddingMode::Replicate, channels: (32, 48), size: (17, 31), ..PLAIN },
    Case { mode: PaddingMode::Reflect, channels: (32, 48), size: (17, 31), ..PLAIN },
    Case { mode: PaddingMode::Reflect, size: (2, 2), ..PLAIN },
    Case { mode: PaddingMode::Replicate, size: (1, 3), ..PLAIN },
    Case { mode: PaddingMode::Reflect, channels: (32, 3), size: (10, 50), ..PLAIN },
    Case { mode: PaddingMode::Reflect, stride: 2, padding: [0, 1, 0, 1], size: (13, 12), ..PLAIN },
    Case { mode: PaddingMode::Replicate, stride: 2, padding: [1; 4], size: (8, 9), ..PLAIN },
    Case { padding: [2, 0, 0, 2], size: (7, 6), ..PLAIN },
    // Norms over channels, with as many channels as padding needs none of, and others.
    Case { norm: Some(LENGTH), activation: Some(Activation::Silu), channels: (96, 64), ..PLAIN },
    Case { norm: Some(LENGTH), channels: (24, 16), bias: false, ..PLAIN },
    Case { norm: Some(ROOT), activation: Some(Activation::Silu), channels: (36, 20), ..PLAIN },
    Case { norm: Some(LAYER), kernel: 1, padding: [0; 4], channels: (40, 24), ..PLAIN },
    Case { norm: Some(LAYER), activation: Some(Activation::Gelu), channels: (64, 3), ..PLAIN },
    // Activations alone.
    Case { activation: Some(Activation::Silu), channels: (16, 16), ..PLAIN },
    Case { activation: Some(Activation::Relu), channels: (64, 64), bias: false, ..PLAIN },
    Case { activation: Some(Activation::Tanh), channels: (4, 64), ..PLAIN },
    Case { activation: Some(Activation::GeluTanh), channels: (20, 40), ..PLAIN },
    // Groups: depthwise, in pairs, of more channels than a panel has and of fewer, of different sizes.
    Case { groups: 48, channels: (48, 48), ..PLAIN },
    Case { groups: 12, channels: (24, 48), mode: PaddingMode::Reflect, ..PLAIN },
    Case { groups: 3, channels: (96, 24), kernel: 1, padding: [0; 4], bias: false, ..PLAIN },
    Case { groups: 2, channels: (24, 80), stride: 2, padding: [0, 1, 0, 1], ..PLAIN },
    Case { groups: 40, channels: (40, 40), norm: Some(LENGTH), activation: Some(Activation::Relu), ..PLAIN },
];

#[test]
fn convolutions_of_pictures_match_the_reference() {
    for (number, case) in CASES.iter().enumerate() {
        let Case { channels: (cin, cout), size: (height, width), kernel, stride, groups, .. } = *case;
        let shape = [1, cin, height, width];
        let x = values(shape.iter().product(), 1);
        let weight = values(cout * cin / groups * kernel * kernel, 2);
        let raw = bytes(&weight);
        let bias = if case.bias { values(cout, 3) } else { Vec::new() };
        let conv = Conv2d {
            weight: WeightView::new(DType::F32, &raw),
            bias: &bias,
            in_channels: cin,
            out_channels: cout,
            kernel,
            stride,
            padding: case.padding,
            padding_mode: case.mode,
            groups,
        };
        let norm = case.norm.map(|kind| channel_norm(kind, cin));
        let pre = Pre { norm: norm.as_ref().map(Into::into), activation: case.activation };
        let mut input = Image::new(shape, &x);
        if let Some(norm) = &norm {
            input = reference::channel_norm(&input, norm.kind, &norm.weight, &norm.bias);
        }
        if let Some(activation) = case.activation {
            input = activated(&input, activation);
        }
        let padding = Padding3d { space: case.padding, space_mode: case.mode, ..Padding3d::default() };
        let kernel3 = [1, kernel, kernel];
        let geometry = Geometry { kernel: kernel3, stride: [1, stride, stride], padding, groups };
        let (plain, _) = reference::conv3d(&input, 1, &weight, &bias, geometry);
        let residual = values(plain.data.len(), 6);
        let want = reference::add(&plain, &Image::new(plain.shape, &residual));
        let depth = cin / groups * kernel * kernel;
        let scale = (depth as f64).sqrt() / 3.0 * if case.norm.is_some() { 2.0 } else { 1.0 };
        for (name, context) in contexts() {
            let name = format!("case {number}, {name}");
            let bound = bound(&context, depth);
            let stored = |shape, data: &[f32]| {
                let x = Features::from_nchw(&context.arena, shape, data).expect("memory");
                x.stored(&context).expect("memory")
            };
            let unwatched = &mut Watched::unwatched();
            let residual = Some(stored(plain.shape, &residual));
            let y = conv.run(&context, &stored(shape, &x), pre, residual, unwatched).expect("memory");
            check(&name, &y.to_nchw(), &want, scale, bound);
            check_stats(&name, &y, &want, bound * 4.0);
            if kernel == 3 && stride == 1 && case.padding == [1; 4] && pre.norm.is_none() && groups == 1 {
                let upsampled = reference::upsample2x(&Image::new(shape, &x));
                let (want, _) = reference::conv3d(&upsampled, 1, &weight, &bias, geometry);
                let y = conv.run_upsampled(&context, &stored(shape, &x), unwatched).expect("memory");
                check(&format!("{name}, upsampled"), &y.to_nchw(), &want, scale, bound * 2.0);
            }
        }
    }
}

struct ClipCase {
    channels: (usize, usize),
    groups: usize,
    /// Frames, height, width.
    size: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: Padding3d,
    norm: Option<ChannelNormKind>,
}

const fn padding(time: [usize; 2], time_mode: PaddingMode, space_mode: PaddingMode) -> Padding3d {
    Padding3d { time, time_mode, space: [1; 4], space_mode }
}

/// Wan's and Qwen-Image's convolutions.
const WAN: ClipCase = ClipCase {
    channels: (16, 32),
    groups: 1,
    size: [4, 5, 8],
    kernel: [3; 3],
    stride: [1; 3],
    padding: padding([2, 0], PaddingMode::Zeros, PaddingMode::Zeros),
    norm: None,
};
const NONE: Padding3d =
    Padding3d { space: [0; 4], ..padding([0; 2], PaddingMode::Zeros, PaddingMode::Zeros) };

const CLIP_CASES: &[ClipCase] = &[
    WAN,
    ClipCase { size: [1, 7, 6], norm: Some(LENGTH), ..WAN },
    ClipCase { size: [2, 13, 8], channels: (48, 40), norm: Some(LENGTH), ..WAN },
    ClipCase { channels: (32, 3), norm: Some(LENGTH), ..WAN },
    // LTX-2: one frame to each side, repeated; zeros or mirrored in the plane; or causal.
    ClipCase {
        padding: padding([1; 2], PaddingMode::Replicate, PaddingMode::Zeros),
        norm: Some(ROOT),
        ..WAN
    },
    ClipCase {
        padding: padding([1; 2], PaddingMode::Replicate, PaddingMode::Reflect),
        size: [5, 5, 8],
        ..WAN
    },
    ClipCase { padding: padding([2, 0], PaddingMode::Replicate, PaddingMode::Reflect), ..WAN },
    ClipCase { padding: padding([1; 2], PaddingMode::Zeros, PaddingMode::Replicate), size: [1, 5, 8], ..WAN },
    ClipCase { padding: padding([1; 2], PaddingMode::Reflect, PaddingMode::Zeros), size: [3, 5, 8], ..WAN },
    // In time only, in the plane only, and in neither.
    ClipCase {
        kernel: [3, 1, 1],
        padding: Padding3d { space: [0; 4], ..WAN.padding },
        channels: (32, 64),
        ..WAN
    },
    ClipCase { kernel: [3, 1, 1], stride: [2, 1, 1], padding: NONE, size: [5, 4, 6], ..WAN },
    ClipCase {
        kernel: [1, 3, 3],
        padding: Padding3d { time: [0; 2], ..WAN.padding },
        norm: Some(LAYER),
        ..WAN
    },
    ClipCase { kernel: [1; 3], padding: NONE, channels: (24, 16), ..WAN },
    // A stride along one axis each, and along all; kernels along one axis of the plane.
    ClipCase { stride: [2, 1, 1], size: [5, 5, 8], ..WAN },
    ClipCase { stride: [1, 2, 1], ..WAN },
    ClipCase { stride: [1, 1, 2], ..WAN },
    ClipCase { stride: [2; 3], size: [5, 9, 7], ..WAN },
    ClipCase {
        stride: [1, 2, 2],
        kernel: [1, 3, 3],
        padding: Padding3d { time: [0; 2], ..WAN.padding },
        ..WAN
    },
    ClipCase {
        kernel: [1, 1, 3],
        padding: Padding3d { time: [0; 2], space: [0, 0, 1, 1], ..WAN.padding },
        ..WAN
    },
    ClipCase {
        kernel: [1, 3, 1],
        stride: [2, 1, 1],
        padding: Padding3d { space: [1, 1, 0, 0], ..NONE },
        ..WAN
    },
    // Groups.
    ClipCase { groups: 16, channels: (16, 16), ..WAN },
    ClipCase {
        groups: 4,
        channels: (24, 40),
        kernel: [3, 1, 1],
        padding: Padding3d { space: [0; 4], ..WAN.padding },
        ..WAN
    },
];

#[test]
fn convolutions_of_clips_match_the_reference() {
    for (number, case) in CLIP_CASES.iter().enumerate() {
        let ClipCase { channels: (cin, cout), groups, size, kernel, stride, padding, norm } = *case;
        let [frames, height, width] = size;
        let shape = [cin, frames, height, width];
        let x = values(shape.iter().product(), 1);
        let taps: usize = kernel.iter().product();
        let weight = values(cout * cin / groups * taps, 2);
        let raw = bytes(&weight);
        let bias = values(cout, 3);
        let conv = Conv3d {
            weight: WeightView::new(DType::F32, &raw),
            bias: &bias,
            in_channels: cin,
            out_channels: cout,
            kernel,
            stride,
            padding,
            groups,
        };
        let norm = norm.map(|kind| channel_norm(kind, cin));
        let activation = norm.is_some().then_some(Activation::Silu);
        let pre = Pre { norm: norm.as_ref().map(Into::into), activation };
        let mut input = Image::new([1, cin, frames * height, width], &x);
        if let Some(norm) = &norm {
            let normed = reference::channel_norm(&input, norm.kind, &norm.weight, &norm.bias);
            input = activated(&normed, Activation::Silu);
        }
        let geometry = Geometry { kernel, stride, padding, groups };
        let (plain, made) = reference::conv3d(&input, frames, &weight, &bias, geometry);
        let residual = values(plain.data.len(), 6);
        let want = reference::add(&plain, &Image::new(plain.shape, &residual));
        let of_clip = [cout, made, plain.shape[2] / made, plain.shape[3]];
        let depth = cin / groups * taps;
        let scale = (depth as f64).sqrt() / 3.0 * if pre.norm.is_some() { 2.0 } else { 1.0 };
        for (name, context) in contexts() {
            let name = format!("case {number}, {name}");
            let bound = bound(&context, depth);
            let clip = |shape, data: &[f32]| Clip::from_cfhw(&context, shape, data).expect("memory");
            let (still, unwatched) = (Upsampling::default(), &mut Watched::unwatched());
            let residual = Some(clip(of_clip, &residual));
            let y = conv.run(&context, &clip(shape, &x), pre, still, residual, unwatched).expect("memory");
            assert_eq!(y.shape(), of_clip, "{name}");
            check(&name, &y.to_cfhw(), &want, scale, bound);
            crate::causal::check_stats(&name, &y, &want, bound * 4.0);
        }
    }
}

/// Where whole frames are enlarged before a convolution of each, as Wan does it.
#[test]
fn convolutions_of_enlarged_frames_match_the_reference() {
    let shape @ [channels, frames, height, width] = [16, 2, 5, 7];
    let x = values(shape.iter().product(), 1);
    let weight = values(32 * channels * 9, 2);
    let raw = bytes(&weight);
    let conv = Conv3d {
        weight: WeightView::new(DType::F32, &raw),
        bias: &[],
        in_channels: channels,
        out_channels: 32,
        kernel: [1, 3, 3],
        stride: [1; 3],
        padding: Padding3d { time: [0; 2], ..WAN.padding },
        groups: 1,
    };
    let plain = Image::new([1, channels, frames * height, width], &x);
    let upsampled = reference::upsample_clip(&plain, frames, false, true);
    let geometry = Geometry { kernel: conv.kernel, stride: conv.stride, padding: conv.padding, groups: 1 };
    let (want, _) = reference::conv3d(&upsampled, frames, &weight, &[], geometry);
    for (name, context) in contexts() {
        let clip = Clip::from_cfhw(&context, shape, &x).expect("memory");
        let upsampling = Upsampling { time: false, space: true };
        let y = conv.run(&context, &clip, Pre::default(), upsampling, None, &mut Watched::unwatched());
        let y = y.expect("memory");
        assert_eq!(y.shape(), [32, frames, 2 * height, 2 * width]);
        check(&name, &y.to_cfhw(), &want, 4.0, 2.0 * bound(&context, channels * 9));
    }
}

/// Positions of very different size, and one of nothing but zeros: each is normalised alone.
#[test]
fn norms_over_channels_hold_for_positions_of_every_size() {
    let shape @ [_, channels, height, width] = [2, 40, 3, 5];
    let mut x = values(shape.iter().product(), 1);
    for (i, v) in x.iter_mut().enumerate() {
        let pixel = i % (height * width);
        *v *= if pixel == 7 { 0.0 } else { 10f32.powi(pixel as i32 % 7 - 3) };
    }
    let image = Image::new(shape, &x);
    for kind in [LENGTH, ROOT, LAYER, ChannelNormKind::Length { eps: 10.0 }] {
        let norm = channel_norm(kind, channels);
        let want = reference::channel_norm(&image, kind, &norm.weight, &norm.bias);
        for (name, context) in contexts() {
            let name = format!("{kind:?}, {name}");
            // Values of very different size cannot be stored as f16 in the units of one channel.
            if context.storage == Storage::F16 {
                continue;
            }
            let features = Features::from_nchw(&context.arena, shape, &x).expect("memory");
            let pre = Pre { norm: Some((&norm).into()), activation: None };
            let y = features.apply(&context, pre, &mut Watched::unwatched()).expect("memory");
            check(&name, &y.to_nchw(), &want, 4.0, 2e-6);
            check_stats(&name, &y, &want, 1e-5);
        }
    }
}
