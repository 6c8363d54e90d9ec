//! Operations of the families, as kernels do them.

use super::{assert_has_kernels, assert_right, kinds, picture};
use crate::device::cpu::fuse::Kind;
use crate::graph::{
    Activation, Attention, Axis, BlockOrder, Blocks, Conv, Extent, Graph, Linear, NodeId, Op, Pad, PadMode,
    Scope, Shape, Upsample,
};

const PICTURES: Shape = Shape([2, 16, 1, 6, 5]);
const CLIP: Shape = Shape([1, 16, 3, 6, 4]);

/// Checks a graph of pictures and of a clip.
fn assert_both(make: impl Fn(&Scope<'_>, NodeId) -> NodeId) {
    for (is_video, shape) in [(false, PICTURES), (true, CLIP)] {
        let graph = Graph::build(is_video, 16, |root, x| make(root, x)).unwrap();
        assert_has_kernels("both", &graph);
        assert_right(graph, shape);
    }
}

fn clip(make: impl Fn(&Scope<'_>, NodeId) -> NodeId, shape: Shape) {
    let graph = Graph::build(true, shape.channels(), |root, x| make(root, x)).unwrap();
    assert_has_kernels("clip", &graph);
    assert_right(graph, shape);
}

/// diffusers' `WanRMS_norm`.
fn wan_norm(scope: &Scope<'_>, x: NodeId) -> NodeId {
    let floor = 1e-12 / (scope.channels(x) as f64).sqrt();
    scope.op(Op::RmsNorm { eps: 0.0, floor, scale: Some("gamma") }, &[x])
}

fn slice(scope: &Scope<'_>, x: NodeId, axis: Axis, start: usize, end: Option<usize>) -> NodeId {
    scope.op(Op::Slice { axis, start, end }, &[x])
}

fn pad(before: usize, after: usize, mode: PadMode) -> Pad {
    Pad { before, after, mode }
}

#[test]
fn values_go_to_other_positions() {
    assert_both(|root, x| {
        let left = slice(root, x, Axis::Width, 1, Some(3));
        let right = slice(root, x, Axis::Width, 2, None);
        let rows = root.op(Op::Concat(Axis::Width), &[right, left, left]);
        let rows = root.op(Op::Concat(Axis::Height), &[slice(root, rows, Axis::Height, 3, Some(5)), rows]);
        root.op(Op::Repeat { axis: Axis::Height, times: 3, interleaved: false }, &[rows])
    });
    assert_both(|root, x| {
        // Slices of channels that begin in the middle of a vector.
        let some = slice(root, x, Axis::Channels, 5, Some(12));
        let all = root.op(Op::Concat(Axis::Channels), &[some, x, some]);
        let all = root.op(Op::Repeat { axis: Axis::Channels, times: 2, interleaved: true }, &[all]);
        root.op(Op::Repeat { axis: Axis::Width, times: 2, interleaved: true }, &[all])
    });
    assert_both(|root, x| {
        let up = root.upsample(x, Upsample { frames: true, sides: true });
        root.op(Op::Concat(Axis::Frames), &[slice(root, up, Axis::Frames, 0, Some(1))])
    });
    for order in [BlockOrder::ChannelFirst, BlockOrder::ColumnFirst, BlockOrder::ChannelLast] {
        assert_both(|root, x| {
            let apart = root.op(Op::DepthToSpace(Blocks { factors: [1, 2, 4], order }), &[x]);
            root.op(Op::SpaceToDepth(Blocks { factors: [1, 4, 2], order }), &[apart])
        });
    }
    clip(
        |root, x| {
            let first = slice(root, x, Axis::Frames, 0, Some(1));
            let rest = slice(root, x, Axis::Frames, 1, None);
            let blocks = Blocks { factors: [2, 1, 1], order: BlockOrder::ChannelLast };
            let rest =
                root.op(Op::DepthToSpace(blocks), &[root.op(Op::Concat(Axis::Channels), &[rest, rest])]);
            let all = root.op(Op::Concat(Axis::Frames), &[first, rest]);
            root.op(Op::Repeat { axis: Axis::Frames, times: 2, interleaved: true }, &[all])
        },
        CLIP,
    );
}

#[test]
fn values_are_changed_in_place() {
    assert_both(|root, x| {
        let y = root.activation(x, Activation::Tanh { scale: 0.4 });
        let y = root.op(Op::Affine { scale: 2.0, shift: -0.25 }, &[y]);
        let y = root.op(Op::Clamp { min: -0.5, max: 0.75 }, &[y]);
        let y = root.pp("scale").op(Op::ScaleShift, &[y]);
        // Of one value with itself, and of one that is needed once more.
        root.op(Op::Mul, &[root.add(y, y), root.add(x, y)])
    });
    assert_both(|root, x| {
        let y = root.activation(root.pp("0").op(Op::LayerNorm { eps: 1e-5 }, &[x]), Activation::Gelu);
        root.add(root.activation(y, Activation::Relu), wan_norm(&root.pp("1"), x))
    });
    assert_both(|root, x| {
        let y = root.activation(x, Activation::SwiGlu);
        root.op(Op::RmsNorm { eps: 1e-6, floor: 0.0, scale: None }, &[y])
    });
}

#[test]
fn convolutions_take_every_norm_activation_and_border() {
    let two = |mode| [pad(0, 0, mode), pad(1, 1, mode), pad(1, 1, mode)];
    for mode in [PadMode::Zeros, PadMode::Replicate, PadMode::Reflect] {
        assert_both(|root, x| {
            let y = root.activation(wan_norm(&root.pp("0.norm"), x), Activation::Silu);
            let y = root.pp("0").conv(y, Conv { pad: two(mode), ..Conv::same_2d(24, 3) });
            let y = root.activation(y, Activation::Relu);
            let pad = [pad(0, 0, mode), pad(0, 2, mode), pad(1, 0, mode)];
            let y = root.pp("1").conv(y, Conv { pad, bias: false, ..Conv::same_2d(16, 3) });
            let y =
                root.activation(root.pp("2.norm").op(Op::LayerNorm { eps: 1e-6 }, &[y]), Activation::Gelu);
            root.pp("2")
                .conv(y, Conv { groups: 4, stride: [1, 2, 2], pad: two(mode), ..Conv::same_2d(12, 3) })
        });
    }
    for mode in [PadMode::Zeros, PadMode::Replicate, PadMode::Reflect] {
        let conv = |kernel: [usize; 3], stride, time: Pad, out| {
            let side = |taps: usize| pad(taps / 2, taps / 2, PadMode::Zeros);
            let pad = [time, side(kernel[1]), side(kernel[2])];
            Conv { kernel, stride, pad, ..Conv::causal_3d(out, 3) }
        };
        clip(
            |root, x| {
                let y = root.activation(wan_norm(&root.pp("0.norm"), x), Activation::Silu);
                let y = root.pp("0").conv(y, conv([3; 3], [1; 3], pad(2, 0, mode), 24));
                let y = root.pp("1").conv(y, conv([3, 1, 1], [2, 1, 1], pad(1, 1, mode), 16));
                let y = root.add(root.pp("2").conv(y, conv([1, 3, 3], [1; 3], Pad::default(), 16)), y);
                root.pp("3").conv(y, conv([1; 3], [1, 2, 1], Pad::default(), 8))
            },
            CLIP,
        );
    }
}

#[test]
fn upsampling_is_part_of_the_convolution_behind_it() {
    let up = |frames| Upsample { frames, sides: true };
    let make = |root: &Scope<'_>, x: NodeId| {
        let y = root.activation(wan_norm(&root.pp("norm"), x), Activation::Silu);
        let y = root.upsample(y, up(false));
        let y = root.pp("0").conv(y, Conv { bias: false, ..Conv::same_2d(8, 3) });
        root.add(y, root.pp("1").conv(root.upsample(x, up(false)), Conv::same_2d(8, 3)))
    };
    assert_eq!(kinds(&picture(make)).len(), 2);
    assert_both(make);
    clip(|root, x| root.pp("0").conv(root.upsample(x, up(true)), Conv::causal_3d(8, 3)), CLIP);
    // No kernel has these together.
    assert_both(|root, x| {
        let valid = Conv { pad: [Pad::default(); 3], ..Conv::same_2d(8, 3) };
        root.pp("0").conv(root.upsample(x, up(false)), valid)
    });
}

#[test]
fn attention_takes_one_projection_or_three() {
    let block = |root: &Scope<'_>, x: NodeId, heads, extent, is_joint: bool| {
        let channels = root.channels(x);
        let normed = wan_norm(&root.pp("norm"), x);
        let projected = match is_joint {
            true => {
                let all =
                    root.pp("to_qkv").conv(normed, Conv { bias: false, ..Conv::same_2d(3 * channels, 1) });
                [0, 1, 2].map(|part| {
                    slice(root, all, Axis::Channels, part * channels, Some((part + 1) * channels))
                })
            }
            false => ["to_q", "to_k", "to_v"].map(|name| root.pp(name).linear(normed, channels)),
        };
        let attended = root.attention(projected, Attention { heads, extent });
        root.add(x, root.pp("proj").linear(attended, channels))
    };
    for extent in [Extent::All, Extent::Frame, Extent::Causal] {
        for (heads, is_joint) in [(1, true), (1, false), (4, true)] {
            assert_both(|root, x| block(root, x, heads, extent, is_joint));
        }
    }
    let one = picture(|root, x| block(root, x, 1, Extent::All, true));
    assert!(matches!(kinds(&one)[..], [Kind::Attention(_)]));
    // What goes in is needed once more, so that a copy is worked on.
    assert_both(|root, x| root.add(block(root, x, 1, Extent::Frame, true), x));
    // Queries and keys the other way round are no kernel's.
    let graph = picture(|root, x| {
        let all = root.pp("to_qkv").op(Op::Linear(Linear { out_channels: 48, bias: true }), &[x]);
        let [q, k, v] =
            [1, 0, 2].map(|part| slice(root, all, Axis::Channels, 16 * part, Some(16 * part + 16)));
        let attended = root.attention([q, k, v], Attention { heads: 1, extent: Extent::All });
        root.add(x, root.pp("proj").linear(attended, 16))
    });
    assert!(kinds(&graph).contains(&Kind::Alone));
    assert_right(graph, PICTURES);
}
