//! Kernels give the same bits however many threads run them, and however little of the processor each gets.
//!
//! In debug builds every buffer is handed out full of NaNs, so that this finds reads of what no thread has written yet.

use kernels::{
    Activation, Arena, Attention, Context, Conv2d, DType, Features, GroupNorm, Isa, Numerics, Pool, Pre,
    Storage, Watched, WeightView,
};
use remote_vae_kernels as kernels;

use crate::common::{bytes, values};

/// More than the machine has, so that threads are taken off the processor in the middle of their tasks.
const THREADS: [usize; 4] = [2, 3, 5, 8];
const RUNS: usize = 3;

fn context(isa: Isa, numerics: Numerics, threads: usize) -> Context {
    let pool = Pool::new(threads).expect("threads");
    Context { isa, pool, arena: Arena::default(), storage: Storage::F32, numerics }
}

/// Runs `kernel` on an input of this shape with one thread, then several times with several.
fn assert_same(
    name: &str,
    shape: [usize; 4],
    numerics: Numerics,
    kernel: impl Fn(&Context, Features) -> Features,
) {
    let data = values(shape.iter().product(), 1);
    for isa in Isa::available() {
        let run = |context: &Context| {
            let x = Features::from_nchw(&context.arena, shape, &data).expect("memory");
            kernel(context, x).to_nchw()
        };
        let expected = run(&context(isa, numerics, 1));
        assert!(expected.iter().all(|x| x.is_finite()), "{name}, {isa:?}");
        for threads in THREADS {
            let context = context(isa, numerics, threads);
            for _ in 0..RUNS {
                assert_eq!(run(&context), expected, "{name}, {isa:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn convolutions_do_not_depend_on_the_threads() {
    // Blocks of tiles that all threads share, many blocks, a few outputs, strides, in place.
    for (inputs, outputs, [height, width], kernel, stride) in [
        (64, 64, [32, 32], 3, 1),
        (48, 96, [50, 70], 3, 1),
        (32, 3, [37, 53], 3, 1),
        (3, 32, [37, 53], 3, 1),
        (64, 64, [33, 65], 3, 2),
        (64, 32, [19, 40], 1, 1),
    ] {
        let weight = bytes(&values(outputs * inputs * kernel * kernel, 2));
        let bias = values(outputs, 3);
        let conv = Conv2d {
            weight: WeightView::new(DType::F32, &weight),
            bias: &bias,
            in_channels: inputs,
            out_channels: outputs,
            kernel,
            stride,
            padding: if stride == 2 { [0, 1, 0, 1] } else { [kernel / 2; 4] },
            ..Conv2d::default()
        };
        let norm = GroupNorm {
            groups: if inputs % 16 == 0 { 16 } else { 1 },
            eps: 1e-6,
            weight: values(inputs, 4),
            bias: values(inputs, 5),
        };
        for numerics in [Numerics::Fast, Numerics::Strict] {
            let name = format!("{inputs} to {outputs}, {height} x {width}, {numerics:?}");
            let shape = [2, inputs, height, width];
            assert_same(&name, shape, numerics, |context, x| match kernel {
                1 => conv.run_pointwise(context, x, &mut Watched::unwatched()).expect("memory"),
                _ => {
                    let pre = Pre { norm: Some((&norm).into()), activation: Some(Activation::Silu) };
                    conv.run(context, &x, pre, None, &mut Watched::unwatched()).expect("memory")
                }
            });
            if inputs == outputs && stride == 1 {
                assert_same(&format!("{name}, residual"), shape, numerics, |context, x| {
                    let residual = Features::from_nchw(&context.arena, shape, &x.to_nchw()).expect("memory");
                    conv.run(context, &x, Pre::default(), Some(residual), &mut Watched::unwatched())
                        .expect("memory")
                });
                assert_same(&format!("{name}, upsampled"), shape, numerics, |context, x| {
                    conv.run_upsampled(context, &x, &mut Watched::unwatched()).expect("memory")
                });
            }
        }
    }
}

#[test]
fn attention_does_not_depend_on_the_threads() {
    const CHANNELS: usize = 32;
    let weights = [1, 2, 3, 4].map(|seed| bytes(&values(CHANNELS * CHANNELS, seed)));
    let bias = values(CHANNELS, 5);
    let linear = |i: usize| (WeightView::new(DType::F32, &weights[i]), bias.as_slice());
    let norm = GroupNorm { groups: 4, eps: 1e-6, weight: values(CHANNELS, 6), bias: values(CHANNELS, 7) };
    let attention = Attention {
        norm: Some((&norm).into()),
        heads: 1,
        to_q: linear(0),
        to_k: linear(1),
        to_v: linear(2),
        to_out: linear(3),
    };
    assert_same("attention", [2, CHANNELS, 19, 23], Numerics::Fast, |context, x| {
        attention.run(context, x, &mut Watched::unwatched()).expect("memory")
    });
}
