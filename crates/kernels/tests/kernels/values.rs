//! What is done to each value alone, and how values change places.

use kernels::{
    Activation, Axis, ChannelNorm, ChannelNormKind, Clip, Context, Features, GroupNorm, Pre, Shuffle,
    Stopped, Storage, Watched, reference,
};
use reference::Image;
use remote_vae_kernels as kernels;

use crate::common::{check, check_stats, contexts, values};

/// Two images, more pixels than a task has, channels that are no whole vector.
const SHAPE: [usize; 4] = [2, 20, 9, 13];

fn bound(context: &Context) -> f64 {
    match context.storage {
        Storage::F32 => 2e-6,
        Storage::F16 => 2e-3,
    }
}

fn stored(context: &Context, data: &[f32]) -> Features {
    let x = Features::from_nchw(&context.arena, SHAPE, data).expect("memory");
    x.stored(context).expect("memory")
}

type Run<'a> = dyn Fn(&Context, Features, &Features, &mut Watched<'_>) -> Result<Features, Stopped> + 'a;

#[test]
fn operations_on_each_value_match_the_reference() {
    let channels = SHAPE[1];
    let data =
        [1, 2].map(|seed| values(SHAPE.iter().product(), seed).iter().map(|v| v * 3.0).collect::<Vec<_>>());
    let [x, other] = [0, 1].map(|i| Image::new(SHAPE, &data[i]));
    let (scale, shift) = (values(channels, 3), values(channels, 4));
    let group = GroupNorm { groups: 4, eps: 1e-6, weight: scale.clone(), bias: shift.clone() };
    let kind = ChannelNormKind::Length { eps: 1e-12 };
    let channel = ChannelNorm { kind, weight: scale.clone(), bias: Vec::new() };
    let activate = |activation| {
        move |context: &Context, x: Features, _: &Features, w: &mut Watched<'_>| {
            x.apply(context, Pre { norm: None, activation: Some(activation) }, w)
        }
    };
    let exact = |activation: reference::Activation| reference::map(&x, |v| activation.of(v));
    let zeros = vec![0.0; channels];
    let cases: Vec<(&str, Box<Run<'_>>, Image)> = vec![
        ("add", Box::new(|c, x, o, w| x.add(c, o, w)), reference::add(&x, &other)),
        ("multiply", Box::new(|c, x, o, w| x.multiply(c, o, w)), reference::multiply(&x, &other)),
        (
            "clamp",
            Box::new(|c, x, _, w| x.clamp(c, -1.0, 0.5, w)),
            reference::map(&x, |v| v.clamp(-1.0, 0.5)),
        ),
        (
            "scale and shift",
            Box::new(|c, x, _, w| x.scale_shift(c, &scale, &shift, w)),
            reference::map_channels(&x, |c, v| v * f64::from(scale[c]) + f64::from(shift[c])),
        ),
        (
            "scale",
            Box::new(|c, x, _, w| x.scale_shift(c, &scale, &[], w)),
            reference::map_channels(&x, |c, v| v * f64::from(scale[c])),
        ),
        ("swiglu", Box::new(|c, x, _, w| x.swiglu(c, w)), reference::swiglu(&x)),
        ("silu", Box::new(activate(Activation::Silu)), exact(reference::Activation::Silu)),
        ("relu", Box::new(activate(Activation::Relu)), exact(reference::Activation::Relu)),
        ("tanh", Box::new(activate(Activation::Tanh)), exact(reference::Activation::Tanh)),
        ("gelu", Box::new(activate(Activation::Gelu)), exact(reference::Activation::Gelu)),
        ("gelu tanh", Box::new(activate(Activation::GeluTanh)), exact(reference::Activation::GeluTanh)),
        (
            "group norm",
            Box::new(|c, x, _, w| x.apply(c, Pre { norm: Some((&group).into()), activation: None }, w)),
            reference::group_norm(&x, 4, 1e-6, &scale, &shift, false),
        ),
        (
            "channel norm",
            Box::new(|c, x, _, w| x.apply(c, Pre { norm: Some((&channel).into()), activation: None }, w)),
            reference::channel_norm(&x, kind, &scale, &zeros),
        ),
    ];
    for (what, run, want) in &cases {
        for (name, context) in contexts() {
            let name = format!("{what}, {name}");
            let largest = want.data.iter().fold(0.0f64, |most, v| most.max(v.abs()));
            let [x, other] = [0, 1].map(|i| stored(&context, &data[i]));
            let y = run(&context, x, &other, &mut Watched::unwatched()).expect("memory");
            assert_eq!(y.shape(), want.shape, "{name}");
            check(&name, &y.to_nchw(), want, largest, bound(&context));
            check_stats(&name, &y, want, bound(&context) * 8.0);
        }
    }
}

#[test]
fn a_nan_passes_through() {
    let context = Context::new(1).expect("threads");
    let mut data = values(SHAPE.iter().product(), 1);
    data[5] = f32::NAN;
    let x = || Features::from_nchw(&context.arena, SHAPE, &data).expect("memory");
    let unwatched = &mut Watched::unwatched();
    let clamped = x().clamp(&context, -1.0, 1.0, unwatched).expect("memory").to_nchw();
    let added = x().add(&context, &x(), unwatched).expect("memory").to_nchw();
    for y in [clamped, added] {
        assert!(y[5].is_nan());
        assert_eq!(y.iter().filter(|v| v.is_nan()).count(), 1);
    }
}

/// The index among the packed channels of channel `c` of `channels` at `[t, y, x]` of a block.
type Packed = fn(usize, [usize; 3], usize, [usize; 3]) -> usize;

/// Orders that are in use, with the definitions of those who use them.
const ORDERS: [([Axis; 4], Packed); 3] = [
    // PyTorch's PixelShuffle; Wan 2.2 and LTX-2, width first; HunyuanVideo 1.5.
    ([Axis::Channel, Axis::Time, Axis::Height, Axis::Width], |c, [t, y, x], _, [ft, fy, fx]| {
        ((c * ft + t) * fy + y) * fx + x
    }),
    ([Axis::Channel, Axis::Time, Axis::Width, Axis::Height], |c, [t, y, x], _, [ft, fy, fx]| {
        ((c * ft + t) * fx + x) * fy + y
    }),
    ([Axis::Time, Axis::Height, Axis::Width, Axis::Channel], |c, [t, y, x], channels, [_, fy, fx]| {
        ((t * fy + y) * fx + x) * channels + c
    }),
];

#[test]
fn depth_and_space_change_places() {
    for (order, packed) in ORDERS {
        for block @ [ft, fy, fx] in [[1, 2, 2], [1, 4, 2], [2, 2, 2], [2, 1, 1]] {
            let (channels, frames, height, width) = (3, 2, 3, 50);
            let shape = [channels * ft * fy * fx, frames, height, width];
            let data = values(shape.iter().product(), 1);
            let x = Image::new([1, shape[0], frames * height, width], &data);
            let want = reference::depth_to_space(&x, frames, block, |c, at, channels| {
                packed(c, at, channels, block)
            });
            let shuffle = Shuffle { block, order };
            for (name, context) in contexts() {
                let name = format!("{order:?} {block:?} {name}");
                let clip = Clip::from_cfhw(&context, shape, &data).expect("memory");
                let unwatched = &mut Watched::unwatched();
                let y = clip.depth_to_space(&context, shuffle, 0, unwatched).expect("memory");
                assert_eq!(y.shape(), [channels, frames * ft, height * fy, width * fx]);
                check(&name, &y.to_cfhw(), &want, 1.0, bound(&context));
                crate::causal::check_stats(&name, &y, &want, bound(&context) * 8.0);
                // There and back again.
                let back = y.space_to_depth(&context, shuffle, unwatched).expect("memory");
                assert_eq!(back.shape(), shape);
                check(&name, &back.to_cfhw(), &x, 1.0, 2.0 * bound(&context));
                crate::causal::check_stats(&name, &back, &x, bound(&context) * 8.0);
                if ft > 1 {
                    let later = clip.depth_to_space(&context, shuffle, 1, unwatched).expect("memory");
                    let rows = frames * ft * height * fy;
                    let first = height * fy * width * fx;
                    let left_out: Vec<f32> = (0..channels)
                        .flat_map(|c| {
                            y.to_cfhw()[c * rows * width * fx + first..(c + 1) * rows * width * fx].to_vec()
                        })
                        .collect();
                    assert_eq!(later.to_cfhw(), left_out, "{name}");
                }
                if ft == 1 {
                    let pictures = Features::from_nchw(
                        &context.arena,
                        [1, shape[0], height, width],
                        &(0..shape[0])
                            .flat_map(|c| data[c * frames * height * width..][..height * width].to_vec())
                            .collect::<Vec<_>>(),
                    );
                    let pictures = pictures.expect("memory").stored(&context).expect("memory");
                    let y = pictures.depth_to_space(&context, shuffle, unwatched).expect("memory");
                    let back = y.space_to_depth(&context, shuffle, unwatched).expect("memory");
                    assert_eq!(back.to_nchw(), pictures.to_nchw(), "{name}");
                    let first: Vec<f64> = (0..channels)
                        .flat_map(|c| {
                            want.data[c * frames * height * fy * width * fx..][..height * fy * width * fx]
                                .to_vec()
                        })
                        .collect();
                    let want = Image { shape: [1, channels, height * fy, width * fx], data: first };
                    check(&name, &y.to_nchw(), &want, 1.0, bound(&context));
                }
            }
        }
    }
}

#[test]
fn channels_are_repeated_and_averaged() {
    let data = values(SHAPE.iter().product(), 1);
    let x = Image::new(SHAPE, &data);
    let [batch, channels, height, width] = SHAPE;
    let pixels = height * width;
    let plane = |b: usize, c: usize| &x.data[(b * channels + c) * pixels..][..pixels];
    let repeated =
        (0..batch * channels * 3).flat_map(|i| plane(i / (3 * channels), i % (3 * channels) / 3).to_vec());
    let repeated = Image { shape: [batch, 3 * channels, height, width], data: repeated.collect() };
    let mean = |b: usize, c: usize| -> Vec<f64> {
        (0..pixels).map(|p| (0..5).map(|i| plane(b, 5 * c + i)[p]).sum::<f64>() / 5.0).collect()
    };
    let means = (0..batch * channels / 5).flat_map(|i| mean(i / (channels / 5), i % (channels / 5)));
    let means = Image { shape: [batch, channels / 5, height, width], data: means.collect() };
    for (name, context) in contexts() {
        let unwatched = &mut Watched::unwatched();
        let x = stored(&context, &data);
        let y = x.repeat_channels(&context, 3, unwatched).expect("memory");
        check(&name, &y.to_nchw(), &repeated, 1.0, bound(&context));
        check_stats(&name, &y, &repeated, bound(&context) * 8.0);
        let y = x.mean_channels(&context, 5, unwatched).expect("memory");
        check(&name, &y.to_nchw(), &means, 1.0, bound(&context));
        check_stats(&name, &y, &means, bound(&context) * 8.0);
    }
}
