//! What of the graph's operations the kernels have, and in which words.

use kernels::{ChannelNormKind, PaddingMode, Shuffle};

use crate::graph::{Activation, Axis, BlockOrder, Blocks, Conv, Graph, Linear, NodeId, Op, Pad, PadMode};

/// The convolution that a node is, if there is a kernel for it. A linear layer is one without neighbours.
pub(in super::super) fn conv_of(graph: &Graph, id: NodeId) -> Option<Conv> {
    match graph.nodes()[id].op {
        Op::Conv(conv) if has_kernel(&conv, graph.is_video()) => Some(conv),
        Op::Linear(Linear { out_channels, bias }) => Some(Conv { bias, ..Conv::same_2d(out_channels, 1) }),
        _ => None,
    }
}

fn has_kernel(conv: &Conv, is_video: bool) -> bool {
    let [time, rows, columns] = conv.pad;
    let [frames, height, width] = conv.kernel;
    let sides = [rows, columns].iter().all(|pad| pad.before.max(pad.after) < 3);
    // In the plane there is one kind of border.
    let modes = is_empty(rows) || is_empty(columns) || rows.mode == columns.mode;
    let taps = conv.kernel.iter().all(|taps| matches!(taps, 1 | 3));
    let steps = conv.stride.iter().all(|step| matches!(step, 1 | 2));
    let of_pictures = frames == 1
        && conv.stride[0] == 1
        && is_empty(time)
        && height == width
        && conv.stride[1] == conv.stride[2];
    sides && modes && taps && steps && time.before.max(time.after) < frames && (is_video || of_pictures)
}

fn is_empty(pad: Pad) -> bool {
    pad.before + pad.after == 0
}

/// Whether there is a kernel for a convolution behind an upsampling of frames and of sides.
pub(super) fn has_upsampled(conv: &Conv, frames: bool, sides: bool) -> bool {
    let [_, rows, columns] = conv.pad;
    let keeps_sides = [rows, columns].iter().all(|pad| (pad.before, pad.after) == (1, 1));
    conv.stride == [1; 3] && (!sides || conv.kernel[1..] == [3; 2] && keeps_sides) && (frames || sides)
}

/// The activation as kernels have it, if they take it over while they read their input.
pub(in super::super) fn kernel_activation(activation: Activation) -> Option<kernels::Activation> {
    match activation {
        Activation::Silu => Some(kernels::Activation::Silu),
        Activation::Relu => Some(kernels::Activation::Relu),
        Activation::Gelu => Some(kernels::Activation::Gelu),
        Activation::Tanh { .. } | Activation::SwiGlu => None,
    }
}

/// A norm as kernels have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum KernelNorm {
    /// Over groups of channels and all positions.
    Group { groups: usize, eps: f64 },
    /// Over the channels of each position.
    Channel(ChannelNormKind),
}

/// The norm that a node is, if kernels take it over while they read their input.
pub(in super::super) fn kernel_norm(graph: &Graph, id: NodeId) -> Option<KernelNorm> {
    let node = &graph.nodes()[id];
    match node.op {
        Op::GroupNorm { groups, eps } => Some(KernelNorm::Group { groups, eps }),
        Op::LayerNorm { eps } => Some(KernelNorm::Channel(ChannelNormKind::Layer { eps })),
        Op::RmsNorm { eps, floor: 0.0, .. } => {
            Some(KernelNorm::Channel(ChannelNormKind::RootMeanSquare { eps }))
        }
        // The root of the mean square is the length by the root of the number of channels.
        Op::RmsNorm { eps: 0.0, floor, .. } => {
            let eps = floor * (node.channels as f64).sqrt();
            Some(KernelNorm::Channel(ChannelNormKind::Length { eps }))
        }
        _ => None,
    }
}

pub(in super::super) fn pad_mode(pad: [Pad; 2]) -> PaddingMode {
    let mode = pad.iter().find(|pad| !is_empty(**pad)).map_or(PadMode::Zeros, |pad| pad.mode);
    match mode {
        PadMode::Zeros => PaddingMode::Zeros,
        PadMode::Replicate => PaddingMode::Replicate,
        PadMode::Reflect => PaddingMode::Reflect,
    }
}

pub(in super::super) fn axis(axis: Axis) -> kernels::Axis {
    match axis {
        Axis::Channels => kernels::Axis::Channel,
        Axis::Frames => kernels::Axis::Time,
        Axis::Height => kernels::Axis::Height,
        Axis::Width => kernels::Axis::Width,
    }
}

/// Blocks as kernels have them.
pub(in super::super) fn shuffle(blocks: Blocks) -> Option<Shuffle> {
    use kernels::Axis::{Channel, Height, Time, Width};
    let order = match blocks.order {
        BlockOrder::ChannelFirst => [Channel, Time, Height, Width],
        BlockOrder::ColumnFirst => [Channel, Time, Width, Height],
        BlockOrder::ChannelLast => [Time, Height, Width, Channel],
    };
    let has_kernel = blocks.factors.iter().all(|side| (1..=16).contains(side));
    has_kernel.then_some(Shuffle { block: blocks.factors, order })
}
