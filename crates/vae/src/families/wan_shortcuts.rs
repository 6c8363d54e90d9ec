//! The shortcuts around whole blocks of Wan 2.2 and Qwen-Image 2.1, which have no weights.

use super::wan_blocks::slice;
use crate::graph::{Axis, BlockOrder, Blocks, NodeId, Op, Scope, Upsample};

/// `DupUp3D`: each channel several times, and blocks of channels become blocks of positions. Of the first frame only the last
/// of its block stays; it is the only frame unless `is_clip`.
pub(super) fn duplicate(
    scope: &Scope<'_>,
    mut x: NodeId,
    out_channels: usize,
    frames: usize,
    is_clip: bool,
) -> NodeId {
    let channels = scope.channels(x);
    let repeats = out_channels * frames * 4 / channels.max(1);
    let repeat = |x: NodeId, times: usize| match times {
        1 => x,
        _ => scope.op(Op::Repeat { axis: Axis::Channels, times, interleaved: true }, &[x]),
    };
    let upsample = Upsample { frames: frames == 2 && is_clip, sides: true };
    if repeats == 4 * frames {
        // All positions of a block are the same channel.
        return scope.upsample(x, upsample);
    }
    if is_clip || frames == 1 {
        let blocks = Blocks { factors: [frames, 2, 2], order: BlockOrder::ChannelFirst };
        x = scope.op(Op::DepthToSpace(blocks), &[repeat(x, repeats)]);
        return if frames == 1 { x } else { slice(scope, x, Axis::Frames, 1, None) };
    }
    // The last of two frames alone: every second channel.
    if repeats.is_multiple_of(4) {
        x = every_second(scope, repeat(x, repeats / 4));
        return scope.upsample(x, upsample);
    }
    let blocks = Blocks { factors: [1, 2, 2], order: BlockOrder::ChannelFirst };
    every_second(scope, scope.op(Op::DepthToSpace(blocks), &[repeat(x, repeats)]))
}

/// `AvgDown3D`: blocks of positions become blocks of channels, of which means are taken. A frame of zeros is put before the
/// first one where frames are halved. There is one frame only unless `is_clip`.
pub(super) fn mean(
    scope: &Scope<'_>,
    mut x: NodeId,
    out_channels: usize,
    [frames, side]: [usize; 2],
    is_clip: bool,
) -> NodeId {
    let channels = scope.channels(x);
    let positions = frames * side * side;
    if positions == 1 {
        return x;
    }
    let zero = |x: NodeId| scope.op(Op::Affine { scale: 0.0, shift: 0.0 }, &[x]);
    let mut factors = [frames, side, side];
    // Positions of a block that are zeros.
    let mut zeros = 0;
    if frames == 2 && is_clip {
        let first = slice(scope, x, Axis::Frames, 0, Some(1));
        x = scope.op(Op::Concat(Axis::Frames), &[zero(first), x]);
    } else if frames == 2 {
        factors[0] = 1;
        zeros = side * side;
    }
    let blocks = Blocks { factors, order: BlockOrder::ChannelLast };
    let all = scope.op(Op::SpaceToDepth(blocks), &[x]);
    // A channel becomes so many, each of them the mean of as many positions.
    let parts = (out_channels / channels.max(1)).max(1);
    let of_part = (positions / parts).max(1);
    let part = |part: usize| {
        let of_part = (part * of_part..(part + 1) * of_part).filter(|position| *position >= zeros);
        let summands = of_part.map(|position| {
            let start = (position - zeros) * channels;
            slice(scope, all, Axis::Channels, start, Some(start + channels))
        });
        let sum = summands.reduce(|sum, summand| scope.add(sum, summand));
        sum.map(|sum| scope.op(Op::Affine { scale: 1.0 / (positions / parts) as f64, shift: 0.0 }, &[sum]))
    };
    let means: Vec<_> = (0..parts).map(part).collect();
    let some = means.iter().flatten().next().copied().unwrap_or(x);
    let means: Vec<_> = means.into_iter().map(|mean| mean.unwrap_or_else(|| zero(some))).collect();
    match means[..] {
        [mean] => mean,
        _ => {
            let together = scope.op(Op::Concat(Axis::Channels), &means);
            transpose(scope, together, parts, [BlockOrder::ChannelLast, BlockOrder::ChannelFirst])
        }
    }
}

/// Brings channels that are in one order of `(channel, part)` into the other: parts become rows for a moment.
fn transpose(scope: &Scope<'_>, x: NodeId, parts: usize, [from, to]: [BlockOrder; 2]) -> NodeId {
    let blocks = |order| Blocks { factors: [1, parts, 1], order };
    let rows = scope.op(Op::DepthToSpace(blocks(from)), &[x]);
    scope.op(Op::SpaceToDepth(blocks(to)), &[rows])
}

/// Channels 1, 3, 5 and so on.
fn every_second(scope: &Scope<'_>, x: NodeId) -> NodeId {
    let half = scope.channels(x) / 2;
    let x = transpose(scope, x, 2, [BlockOrder::ChannelFirst, BlockOrder::ChannelLast]);
    slice(scope, x, Axis::Channels, half, None)
}
