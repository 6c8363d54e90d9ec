//! Kernels that are told to stop.

use std::cell::Cell;
use std::time::Instant;

use kernels::{
    Attention, Context, Conv2d, DType, Features, Numerics, Pre, Shuffle, Stopped, Watched, WeightView,
};
use remote_vae_kernels as kernels;

use crate::common::{bytes, values};

#[test]
fn every_kernel_stops_when_it_is_told_to() {
    let shape = [1, 16, 9, 9];
    let data = values(shape.iter().product(), 1);
    let raw = bytes(&values(16 * 16 * 9, 2));
    let weight = |outputs: usize, taps: usize| WeightView::new(DType::F32, &raw[..outputs * 16 * taps * 4]);
    let conv = Conv2d {
        weight: weight(16, 9),
        in_channels: 16,
        out_channels: 16,
        kernel: 3,
        padding: [1; 4],
        ..Conv2d::default()
    };
    let few = Conv2d { weight: weight(3, 9), out_channels: 3, ..conv };
    let pointwise = Conv2d { weight: weight(16, 1), kernel: 1, padding: [0; 4], ..conv };
    let square = (weight(16, 1), &[][..]);
    let attention =
        Attention { norm: None, heads: 1, to_q: square, to_k: square, to_v: square, to_out: square };
    for (name, context) in crate::common::contexts() {
        let strict = Context { numerics: Numerics::Strict, ..context.clone() };
        let x = || {
            let x = Features::from_nchw(&context.arena, shape, &data).expect("memory");
            x.stored(&context).expect("memory")
        };
        let mut asked = 0;
        let mut no = |_| {
            asked += 1;
            false
        };
        let watched = &mut Watched::new(&mut no);
        let pre = Pre::default();
        let stopped = [
            conv.run(&context, &x(), pre, None, watched).err(),
            conv.run(&strict, &x(), pre, None, watched).err(),
            few.run(&context, &x(), pre, None, watched).err(),
            conv.run_upsampled(&context, &x(), watched).err(),
            pointwise.run_pointwise(&context, x(), watched).err(),
            attention.run(&context, x(), watched).err(),
            x().clamp(&context, 0.0, 1.0, watched).err(),
            x().depth_to_space(&context, Shuffle::pixels([1, 2, 2]), watched).err(),
        ];
        assert_eq!(stopped, [Some(Stopped::Cancelled); 8], "{name}");
        assert!(asked >= 8, "{name}");
        // Nothing of it is still in use.
        context.arena.release();
        assert_eq!(context.arena.resident(), 0, "{name}");
    }
}

/// Long before it would have ended by itself.
#[test]
fn attention_over_a_picture_is_stopped() {
    const CHANNELS: usize = 64;
    let context = Context::new(2).expect("threads");
    let raw = bytes(&values(CHANNELS * CHANNELS, 2));
    let square = (WeightView::new(DType::F32, &raw), &[][..]);
    let attention =
        Attention { norm: None, heads: 1, to_q: square, to_k: square, to_v: square, to_out: square };
    let shape = [1, CHANNELS, 128, 128];
    let x =
        || Features::from_nchw(&context.arena, shape, &values(shape.iter().product(), 1)).expect("memory");
    let start = Instant::now();
    attention.run(&context, x(), &mut Watched::unwatched()).expect("memory");
    let whole = start.elapsed();
    let start = Instant::now();
    let told = Cell::new(None);
    let mut go_on = |_| {
        let soon = start.elapsed() < whole / 10;
        if !soon && told.get().is_none() {
            told.set(Some(Instant::now()));
        }
        soon
    };
    let stopped = attention.run(&context, x(), &mut Watched::new(&mut go_on));
    assert!(matches!(stopped, Err(Stopped::Cancelled)));
    let took = told.get().expect("it was asked").elapsed();
    assert!(took < whole / 2, "{took:?} after it was told to stop, of {whole:?}");
}
