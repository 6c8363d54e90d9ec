//! Convolutions.

use kernels::{
    Activation, Context, Conv2d, DType, Features, GroupNorm, Numerics, Pre, Storage, Watched, WeightView,
    reference,
};
use reference::Image;
use remote_vae_kernels as kernels;

use crate::common::{bytes, check, check_stats, contexts, values};

struct Case {
    batch: usize,
    channels: (usize, usize),
    size: (usize, usize),
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
}

const fn same(batch: usize, channels: (usize, usize), size: (usize, usize)) -> Case {
    Case { batch, channels, size, kernel: 3, stride: 1, padding: [1; 4] }
}

/// Odd sizes, sizes below a tile, many tiles, few and many channels, batches.
const CASES: &[Case] = &[
    same(1, (16, 16), (1, 1)),
    same(1, (16, 32), (5, 7)),
    same(2, (32, 48), (17, 31)),
    same(1, (4, 64), (9, 6)),
    same(1, (64, 3), (20, 50)),
    same(3, (64, 64), (24, 25)),
    same(1, (128, 80), (43, 37)),
    same(1, (48, 40), (21, 70)),
    Case { batch: 1, channels: (32, 64), size: (10, 9), kernel: 1, stride: 1, padding: [0; 4] },
    Case { batch: 2, channels: (64, 32), size: (37, 29), kernel: 1, stride: 1, padding: [0; 4] },
    Case { batch: 1, channels: (32, 32), size: (14, 18), kernel: 3, stride: 2, padding: [0, 1, 0, 1] },
    Case { batch: 2, channels: (32, 16), size: (53, 51), kernel: 3, stride: 2, padding: [0, 1, 0, 1] },
];

/// Relative to the root of `Σ w² Σ x²` over a filter's support, about the size of a sum whose terms have random signs.
/// A sum of `depth` products in sequence is off by a random walk of roundings; four times its deviation is allowed.
fn bound(context: &Context, depth: usize) -> f64 {
    let rounding = match context.numerics {
        // Measured: 4e-5 at most on every machine we have, with and without fused multiplication.
        Numerics::Fast => 8e-5,
        Numerics::Strict => 4.0 * f64::from(f32::EPSILON) * (depth as f64).sqrt(),
    };
    match context.storage {
        Storage::F32 => rounding,
        // Output and residual are rounded to 11 bits.
        Storage::F16 => 2e-3,
    }
}

#[test]
fn convolutions_match_the_reference() {
    for (case_number, case) in CASES.iter().enumerate() {
        let (cin, cout) = case.channels;
        let (height, width) = case.size;
        let shape = [case.batch, cin, height, width];
        let x = values(shape.iter().product(), 1);
        let weight = values(cout * cin * case.kernel * case.kernel, 2);
        let bias = values(cout, 3);
        let raw = bytes(&weight);
        let conv = Conv2d {
            weight: WeightView::new(DType::F32, &raw),
            bias: &bias,
            in_channels: cin,
            out_channels: cout,
            kernel: case.kernel,
            stride: case.stride,
            padding: case.padding,
            ..Conv2d::default()
        };
        let image = Image::new(shape, &x);
        let norm = (cin % 16 == 0).then(|| GroupNorm {
            groups: cin / 4,
            eps: 1e-6,
            weight: values(cin, 4),
            bias: values(cin, 5),
        });
        let plain = reference::conv2d(&image, &weight, &bias, case.kernel, case.stride, case.padding);
        let activated = norm.as_ref().map(|n| {
            let a = reference::group_norm(&image, n.groups, n.eps, &n.weight, &n.bias, true);
            reference::conv2d(&a, &weight, &bias, case.kernel, case.stride, case.padding)
        });
        let residual = values(plain.data.len(), 6);
        let scale = (cin as f64 * (case.kernel * case.kernel) as f64).sqrt() / 3.0;
        for (name, context) in contexts() {
            let name = format!("case {case_number}, {name}");
            let bound = bound(&context, cin * case.kernel * case.kernel);
            let features = || Features::from_nchw(&context.arena, shape, &x).expect("memory");
            let y = conv
                .run(&context, &features(), Pre::default(), None, &mut Watched::unwatched())
                .expect("memory");
            check(&name, &y.to_nchw(), &plain, scale, bound);
            check_stats(&name, &y, &plain, bound * 4.0);

            if let (Some(norm), Some(activated)) = (&norm, &activated) {
                let residual_features =
                    Features::from_nchw(&context.arena, plain.shape, &residual).expect("memory");
                let residual_features = residual_features.stored(&context).expect("memory");
                let pre = Pre { norm: Some(norm.into()), activation: Some(Activation::Silu) };
                let input = features().stored(&context).expect("memory");
                let y = conv
                    .run(&context, &input, pre, Some(residual_features), &mut Watched::unwatched())
                    .expect("memory");
                let want = reference::add(activated, &Image::new(plain.shape, &residual));
                check(&format!("{name}, norm and residual"), &y.to_nchw(), &want, scale, bound);
                check_stats(&format!("{name}, norm and residual"), &y, &want, bound * 4.0);
            }
            if case.kernel == 1 {
                let input = features().stored(&context).expect("memory");
                let y = conv.run_pointwise(&context, input, &mut Watched::unwatched()).expect("memory");
                check(&format!("{name}, pointwise"), &y.to_nchw(), &plain, scale, bound);
                check_stats(&format!("{name}, pointwise"), &y, &plain, bound * 4.0);
            }
            if case.kernel == 3 && case.stride == 1 {
                let want = reference::conv2d(&reference::upsample2x(&image), &weight, &bias, 3, 1, [1; 4]);
                let y = conv
                    .run_upsampled(
                        &context,
                        &features().stored(&context).expect("memory"),
                        &mut Watched::unwatched(),
                    )
                    .expect("memory");
                check(&format!("{name}, upsampled"), &y.to_nchw(), &want, scale, bound * 2.0);
                check_stats(&format!("{name}, upsampled"), &y, &want, bound * 4.0);
            }
        }
    }
}
