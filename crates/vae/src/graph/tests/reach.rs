//! What is needed of the input for some part of the output: no less and, at its ends, no more.

use std::ops::Range;
use std::sync::Arc;

use super::super::*;
use crate::device::reference::Reference;
use crate::device::{Device as _, Mode, Weights};
use crate::weight::WeightBytes;
use crate::{DType, HostTensor, Silent, Weight};

/// Weights that no two outputs of a sum cancel: all positive and different.
fn weights(graph: &Graph) -> Weights {
    let mut weights = Weights::default();
    for tensor in (0..graph.nodes().len()).flat_map(|id| graph.tensors(id)) {
        let count: usize = tensor.shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|i| (0.1 + (i % 7) as f32).to_le_bytes()).collect();
        weights.insert(Weight::new(tensor.name, DType::F32, tensor.shape, WeightBytes::Owned(bytes.into())));
    }
    weights
}

/// Checks every part of the output along an axis against what changes when the input does.
fn assert_reach(graph: Graph, input: Shape, axis: Axis) {
    let graph = Arc::new(graph);
    let plan = Reference { exact: true }.prepare(&graph, &weights(&graph)).unwrap();
    let shapes = graph.shapes(input).unwrap();
    let output = shapes[graph.output()];
    let run = |changed: Option<usize>| {
        let mut tensor = HostTensor::new(input.0.to_vec(), vec![1.0; input.values().unwrap()]);
        let inner: usize = input.0[axis as usize + 1..].iter().product();
        for (index, value) in tensor.data.iter_mut().enumerate() {
            if Some(index / inner % input.axis(axis)) == changed {
                *value = 2.0;
            }
        }
        plan.run(&tensor, Mode::default(), &mut Silent).unwrap()
    };
    let plain = run(None);
    // Which positions of the output change with each position of the input.
    let changes: Vec<Vec<bool>> = (0..input.axis(axis))
        .map(|changed| {
            let other = run(Some(changed));
            let inner: usize = output.0[axis as usize + 1..].iter().product();
            let mut at = vec![false; output.axis(axis)];
            for (index, (a, b)) in plain.data.iter().zip(&other.data).enumerate() {
                at[index / inner % output.axis(axis)] |= a != b;
            }
            at
        })
        .collect();
    for start in 0..output.axis(axis) {
        for end in start + 1..=output.axis(axis) {
            let needed = graph.needed(axis, start..end, &shapes).unwrap();
            let matters: Vec<usize> =
                (0..changes.len()).filter(|&at| changes[at][start..end].contains(&true)).collect();
            let expected: Range<usize> = matters[0]..matters[matters.len() - 1] + 1;
            assert_eq!(needed, expected, "{axis} {start}..{end} of {input}");
        }
    }
}

fn video(make: impl Fn(&Scope<'_>, NodeId) -> NodeId) -> Graph {
    Graph::build(true, 4, |root, x| make(&root.pp("here"), x)).unwrap()
}

#[test]
fn convolutions_look_as_far_as_their_kernels_and_paddings() {
    let shape = Shape([1, 4, 5, 6, 4]);
    for mode in [PadMode::Zeros, PadMode::Replicate, PadMode::Reflect] {
        for stride in [1, 2] {
            let side = Pad::both(1, mode);
            let past = Pad { before: 2, after: 0, mode };
            let conv = Conv { pad: [past, side, side], stride: [stride; 3], ..Conv::causal_3d(2, 3) };
            for axis in [Axis::Frames, Axis::Height, Axis::Width] {
                assert_reach(video(|scope, x| scope.conv(x, conv)), shape, axis);
            }
        }
    }
    let two = video(|scope, x| {
        let x = scope.pp("0").conv(x, Conv::same_2d(2, 3));
        scope.pp("1").conv(x, Conv { stride: [1, 2, 2], ..Conv::same_2d(2, 3) })
    });
    assert_reach(two, shape, Axis::Height);
}

#[test]
fn what_moves_positions_is_followed() {
    let shape = Shape([1, 4, 4, 4, 4]);
    for axis in [Axis::Frames, Axis::Height, Axis::Width] {
        assert_reach(
            video(|scope, x| scope.upsample(x, Upsample { frames: true, sides: true })),
            shape,
            axis,
        );
        let blocks = Blocks { factors: [1, 2, 2], order: BlockOrder::ChannelFirst };
        assert_reach(video(|scope, x| scope.op(Op::DepthToSpace(blocks), &[x])), shape, axis);
        let blocks = Blocks { factors: [2, 2, 2], order: BlockOrder::ChannelLast };
        assert_reach(video(|scope, x| scope.op(Op::SpaceToDepth(blocks), &[x])), shape, axis);
        let slice = Op::Slice { axis, start: 1, end: Some(3) };
        assert_reach(video(|scope, x| scope.op(slice.clone(), &[x])), shape, axis);
        let repeat = Op::Repeat { axis, times: 3, interleaved: true };
        assert_reach(video(|scope, x| scope.op(repeat.clone(), &[x])), shape, axis);
        let residual = video(|scope, x| scope.add(scope.conv(x, Conv::causal_3d(4, 3)), x));
        assert_reach(residual, shape, axis);
        let twice = video(|scope, x| {
            let later = scope.op(Op::Affine { scale: 2.0, shift: 0.0 }, &[x]);
            scope.op(Op::Concat(Axis::Channels), &[x, later])
        });
        assert_reach(twice, shape, axis);
    }
    // One behind the other along the axis itself: only the part that is asked for.
    let two = video(|scope, x| {
        let first = scope.op(Op::Slice { axis: Axis::Height, start: 0, end: Some(1) }, &[x]);
        scope.op(Op::Concat(Axis::Height), &[first, x])
    });
    let shapes = two.shapes(shape).unwrap();
    assert_eq!(two.needed(Axis::Height, 0..1, &shapes), Ok(0..1));
    assert_eq!(two.needed(Axis::Height, 3..4, &shapes), Ok(2..3));
}

#[test]
fn norms_and_attention_look_everywhere() {
    let shape = Shape([1, 4, 3, 4, 4]);
    let norm = video(|scope, x| scope.group_norm(x, 2, 1e-6));
    let of = |extent| video(move |scope, x| scope.attention([x; 3], Attention { heads: 1, extent }));
    for axis in [Axis::Frames, Axis::Height, Axis::Width] {
        for graph in [&norm, &of(Extent::All)] {
            let shapes = graph.shapes(shape).unwrap();
            assert_eq!(graph.needed(axis, 0..1, &shapes), Err(Everywhere { node: 1 }), "{axis}");
        }
    }
    let shapes = norm.shapes(shape).unwrap();
    assert_eq!(of(Extent::Frame).needed(Axis::Frames, 1..2, &shapes), Ok(1..2));
    assert_eq!(of(Extent::Causal).needed(Axis::Frames, 1..2, &shapes), Ok(0..2));
    assert_eq!(of(Extent::Causal).needed(Axis::Height, 1..2, &shapes), Err(Everywhere { node: 1 }));
    let per_position = video(|scope, x| scope.op(Op::RmsNorm { eps: 1e-6, floor: 0.0, scale: None }, &[x]));
    assert_eq!(per_position.needed(Axis::Height, 1..2, &shapes), Ok(1..2));
    assert_eq!(norm.looks_everywhere(), ["group norm, 2 groups"]);
}
