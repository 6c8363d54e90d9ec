//! Geometry that no kernel has is refused before anything is computed, in release builds too: what would wrap there would end
//! in writes past the end of a buffer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::{
    Attention, CausalConv3d, Clip, Context, Conv2d, DType, Features, GroupNorm, OutOfMemory, Pre, Stride,
    Upsampling, Watched, WeightView,
};
use remote_vae_kernels as kernels;

use crate::common::{bytes, values};

fn context() -> Context {
    Context::new(2).expect("threads")
}

fn features(context: &Context, shape: [usize; 4]) -> Features {
    Features::from_nchw(&context.arena, shape, &values(shape.iter().product(), 1)).expect("memory")
}

/// What `run` panics with.
fn refusal<T>(run: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { panic!("it was not refused") };
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => (*panic.downcast::<&str>().expect("a message")).to_owned(),
    }
}

#[test]
fn convolutions_refuse_geometry_that_would_wrap() {
    let context = context();
    let weight = bytes(&values(16 * 16 * 9, 2));
    let conv = Conv2d {
        weight: WeightView::new(DType::F32, &weight),
        bias: &[],
        in_channels: 16,
        out_channels: 16,
        kernel: 3,
        stride: 1,
        padding: [0; 4],
        ..Conv2d::default()
    };
    let refused = |conv: Conv2d<'_>, [height, width]: [usize; 2]| {
        let x = features(&context, [1, 16, height, width]);
        refusal(|| conv.run(&context, &x, Pre::default(), None, &mut Watched::unwatched()))
    };
    // An output of 1 - 3 + 1 rows.
    for size in [[1, 9], [9, 2]] {
        assert!(refused(conv, size).contains("no smaller than the kernel"));
    }
    let wrapping = Conv2d { padding: [usize::MAX, 1, 1, 1], ..conv };
    assert!(refused(wrapping, [4, 4]).contains("padding"));
    assert!(refusal(|| wrapping.output_size(4, 4)).contains("padding"));
    for stride in [0, 3] {
        assert!(refused(Conv2d { stride, ..conv }, [4, 4]).contains("stride"));
    }
    for kernel in [0, 2, 5] {
        assert!(refused(Conv2d { kernel, ..conv }, [8, 8]).contains("kernel"));
    }
    // Weights, biases and channels that are not the geometry's.
    assert!(refused(Conv2d { out_channels: 32, ..conv }, [4, 4]).contains("weights"));
    assert!(refused(Conv2d { out_channels: usize::MAX / 8, ..conv }, [4, 4]).contains("weights"));
    assert!(refused(Conv2d { in_channels: 32, ..conv }, [4, 4]).contains("channels"));
    assert!(refused(Conv2d { bias: &[0.0; 15], ..conv }, [4, 4]).contains("biases"));
    // What only some convolutions can do.
    let x = features(&context, [1, 16, 4, 4]);
    let upsampled = refusal(|| conv.run_upsampled(&context, &x, &mut Watched::unwatched()));
    assert!(upsampled.contains("keep the size"));
    let pointwise = refusal(|| conv.run_pointwise(&context, x, &mut Watched::unwatched()));
    assert!(pointwise.contains("1×1"));
}

#[test]
fn residuals_of_another_shape_or_storage_are_refused() {
    let context = context();
    let weight = bytes(&values(16 * 16 * 9, 2));
    let conv = Conv2d {
        weight: WeightView::new(DType::F32, &weight),
        bias: &[],
        in_channels: 16,
        out_channels: 16,
        kernel: 3,
        stride: 1,
        padding: [1; 4],
        ..Conv2d::default()
    };
    let x = features(&context, [1, 16, 4, 4]);
    let with = |context: &Context, residual| {
        refusal(|| conv.run(context, &x, Pre::default(), Some(residual), &mut Watched::unwatched()))
    };
    for shape in [[1, 16, 4, 3], [1, 16, 5, 4], [2, 16, 4, 4], [1, 32, 4, 4]] {
        assert!(with(&context, features(&context, shape)).contains("residual"));
    }
    let halves = Context { storage: kernels::Storage::F16, ..context.clone() };
    assert!(with(&halves, features(&halves, [1, 16, 4, 4])).contains("storage"));
}

#[test]
fn shapes_whose_products_wrap_are_refused() {
    let context = context();
    let half = 1 << (usize::BITS / 2);
    // The number of values wraps to 0, as many as there are.
    for shape in [[half, half, 1, 1], [1, 1, half, half], [half, 2, half / 2, 1]] {
        assert!(refusal(|| Features::from_nchw(&context.arena, shape, &[])).contains("0 values"));
        assert!(refusal(|| Clip::from_cfhw(&context, shape, &[])).contains("0 values"));
    }
    for shape in [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]] {
        assert!(refusal(|| Features::from_nchw(&context.arena, shape, &[])).contains("at least 1"));
    }
    assert!(refusal(|| Features::from_nchw(&context.arena, [1, 2, 2, 2], &[0.0; 7])).contains("7 values"));
    let refused = context.arena.take(usize::MAX).err();
    assert_eq!(refused, Some(OutOfMemory(usize::MAX)));
}

#[test]
fn norms_and_attention_refuse_weights_of_other_channels() {
    let context = context();
    let weight = bytes(&values(16 * 16, 2));
    let square = (WeightView::new(DType::F32, &weight), &[][..]);
    let norm = |groups, channels| GroupNorm {
        groups,
        eps: 1e-6,
        weight: vec![1.0; channels],
        bias: vec![0.0; channels],
    };
    let refused = |norm: &GroupNorm, to_q| {
        let attention =
            Attention { norm: Some(norm.into()), heads: 1, to_q, to_k: square, to_v: square, to_out: square };
        let x = features(&context, [1, 16, 3, 3]);
        refusal(|| attention.run(&context, x, &mut Watched::unwatched()))
    };
    assert!(refused(&norm(0, 16), square).contains("groups"));
    assert!(refused(&norm(3, 16), square).contains("groups"));
    assert!(refused(&norm(4, 12), square).contains("for each channel"));
    let short = (WeightView::new(DType::F32, &weight[4..]), &[][..]);
    assert!(refused(&norm(4, 16), short).contains("weights"));
    assert!(refused(&norm(4, 16), (square.0, &[1.0; 3][..])).contains("biases"));
}

#[test]
fn convolutions_of_clips_refuse_what_they_do_not_have() {
    let context = context();
    let weight = bytes(&values(16 * 16 * 27, 2));
    let conv = CausalConv3d {
        weight: WeightView::new(DType::F32, &weight),
        bias: &[],
        in_channels: 16,
        out_channels: 16,
        stride: Stride::default(),
    };
    let x = Clip::from_cfhw(&context, [16, 2, 3, 3], &values(16 * 18, 1)).expect("memory");
    let refused = |conv: CausalConv3d<'_>, upsampling| {
        refusal(|| conv.run(&context, &x, Pre::default(), upsampling, None, &mut Watched::unwatched()))
    };
    let still = Upsampling::default();
    for stride in [Stride { time: 0, space: 1 }, Stride { time: 1, space: 3 }] {
        assert!(refused(CausalConv3d { stride, ..conv }, still).contains("stride"));
    }
    assert!(refused(CausalConv3d { out_channels: 17, ..conv }, still).contains("weights"));
    assert!(refused(CausalConv3d { in_channels: 8, out_channels: 32, ..conv }, still).contains("channels"));
    let strided = CausalConv3d { stride: Stride { time: 2, space: 1 }, ..conv };
    assert!(refused(strided, Upsampling { time: false, space: true }).contains("upsampling"));
}
