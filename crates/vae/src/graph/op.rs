//! What a node does.

use std::fmt;

/// An operation with its static attributes. Weights are not part of it: they are found by the name of the node.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// What goes into the graph.
    Input {
        /// Its channels.
        channels: usize,
    },
    /// Convolution.
    Conv(Conv),
    /// A linear layer over the channels of each position.
    Linear(Linear),
    /// PyTorch's `GroupNorm`: each group of channels, over all positions of all frames, to mean 0 and variance 1; then
    /// scaled and shifted by channel.
    GroupNorm {
        /// Divides the channels.
        groups: usize,
        /// Added to the variance.
        eps: f64,
    },
    /// `x / max(sqrt(mean(x²) + eps), floor)` over the channels of each position, then scaled by channel.
    RmsNorm {
        /// Added to the mean square.
        eps: f64,
        /// The smallest divisor.
        floor: f64,
        /// The name of the tensor that scales, if there is one.
        scale: Option<&'static str>,
    },
    /// PyTorch's `LayerNorm` over the channels of each position, scaled and shifted by channel.
    LayerNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// `x * weight + bias` by channel.
    ScaleShift,
    /// `x * scale + shift` with two constants.
    Affine {
        /// The factor.
        scale: f64,
        /// The summand.
        shift: f64,
    },
    /// An activation of each value.
    Activation(Activation),
    /// The sum of two values.
    Add,
    /// The product of two values.
    Mul,
    /// Values one behind the other along an axis.
    Concat(Axis),
    /// Part of a value along an axis.
    Slice {
        /// Which axis.
        axis: Axis,
        /// The first position that is kept.
        start: usize,
        /// The first that is not; `None` for all to the end.
        end: Option<usize>,
    },
    /// A value several times along an axis.
    Repeat {
        /// Which axis.
        axis: Axis,
        /// How often.
        times: usize,
        /// Each position by itself, as `repeat_interleave`; else the whole, as `repeat`.
        interleaved: bool,
    },
    /// Nearest upsampling.
    Upsample(Upsample),
    /// Channels become positions.
    DepthToSpace(Blocks),
    /// Positions become channels.
    SpaceToDepth(Blocks),
    /// `softmax(q kᵀ / sqrt(C / heads)) v` of three values.
    Attention(Attention),
    /// Each value brought between two bounds.
    Clamp {
        /// The lower bound.
        min: f64,
        /// The upper bound.
        max: f64,
    },
}

/// An axis of a value; as a number, its index in [`Shape`](super::Shape).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Channels.
    Channels = 1,
    /// Frames.
    Frames = 2,
    /// Rows.
    Height = 3,
    /// Columns.
    Width = 4,
}

/// A convolution over frames, height and width, as PyTorch's `Conv2d` (of one frame at a time) or `Conv3d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Channels of the output.
    pub out_channels: usize,
    /// Taps along frames, height and width.
    pub kernel: [usize; 3],
    /// Steps between outputs.
    pub stride: [usize; 3],
    /// What is put around the input.
    pub pad: [Pad; 3],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How its weight lies in a checkpoint.
    pub weight: ConvWeight,
}

/// How the weight of a convolution lies in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvWeight {
    /// As that of a `Conv2d`, with four axes.
    Conv2d,
    /// As that of a `Conv3d`, with five axes.
    Conv3d,
    /// As that of a `Conv3d` with so many taps in time, of which only the last is used: what a causal convolution with zeros
    /// before the first frame does to a single frame. Devices are given the last tap alone, with four axes.
    LastTap(usize),
}

/// What is put before and behind an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pad {
    /// Positions before it.
    pub before: usize,
    /// Positions behind it.
    pub after: usize,
    /// What is there.
    pub mode: PadMode,
}

/// What padding holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PadMode {
    /// Zeros.
    #[default]
    Zeros,
    /// The value at the border.
    Replicate,
    /// The values inside of the border, in reverse.
    Reflect,
}

impl Pad {
    /// The same on both sides.
    pub fn both(count: usize, mode: PadMode) -> Self {
        Self { before: count, after: count, mode }
    }
}

impl Conv {
    /// A 2-D convolution with an odd square kernel that keeps the size of a picture, with zeros around it.
    pub fn same_2d(out_channels: usize, side: usize) -> Self {
        let pad = Pad::both(side / 2, PadMode::Zeros);
        Self {
            out_channels,
            kernel: [1, side, side],
            stride: [1; 3],
            pad: [Pad::default(), pad, pad],
            groups: 1,
            bias: true,
            weight: ConvWeight::Conv2d,
        }
    }

    /// What a causal 3-D convolution with an odd cubic kernel, with zeros around it, does to a single frame.
    pub fn last_tap(out_channels: usize, side: usize) -> Self {
        Self { weight: ConvWeight::LastTap(side), ..Self::same_2d(out_channels, side) }
    }

    /// A 3-D convolution with an odd cubic kernel that keeps the size of a clip. It is causal: a frame sees itself and those
    /// before it. Borders are repeated, the first frame among them.
    pub fn causal_3d(out_channels: usize, side: usize) -> Self {
        let pad = Pad::both(side / 2, PadMode::Replicate);
        let time = Pad { before: side - 1, after: 0, mode: PadMode::Replicate };
        Self {
            out_channels,
            kernel: [side; 3],
            stride: [1; 3],
            pad: [time, pad, pad],
            groups: 1,
            bias: true,
            weight: ConvWeight::Conv3d,
        }
    }

    /// Whether each output depends on the input at its own position only.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1; 3]
            && self.stride == [1; 3]
            && self.pad.iter().all(|pad| (pad.before, pad.after) == (0, 0))
    }
}

/// A linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

/// What is done to each value by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`; diffusers calls it `silu` or `swish`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x / scale) * scale`.
    Tanh {
        /// Where the output ends.
        scale: f64,
    },
    /// `x * Φ(x)` with the error function, PyTorch's default.
    Gelu,
    /// `silu(a) * b` of the two halves of the channels.
    SwiGlu,
}

impl Activation {
    /// Channels of the output; `None` where the input has no two halves.
    pub fn out_channels(self, channels: usize) -> Option<usize> {
        match self {
            Self::SwiGlu => channels.is_multiple_of(2).then_some(channels / 2),
            _ => Some(channels),
        }
    }
}

/// Nearest upsampling by two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upsample {
    /// Each frame but the first twice.
    pub frames: bool,
    /// Each row and each column twice.
    pub sides: bool,
}

/// How positions and channels become each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Frames, rows and columns of a block.
    pub factors: [usize; 3],
    /// How the channels of a block are ordered.
    pub order: BlockOrder,
}

/// The order of channels that are a block's positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOrder {
    /// `(channel, frame, row, column)`, as PyTorch's `pixel_shuffle`.
    ChannelFirst,
    /// `(channel, frame, column, row)`.
    ColumnFirst,
    /// `(frame, row, column, channel)`.
    ChannelLast,
}

impl Blocks {
    /// Positions of a block.
    pub fn size(self) -> usize {
        self.factors.into_iter().fold(1, usize::saturating_mul)
    }
}

/// Softmax attention of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Divides the channels.
    pub heads: usize,
    /// Which positions a position sees.
    pub extent: Extent,
}

/// Which positions see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of them.
    All,
    /// Those of their own frame.
    Frame,
    /// Those of their own frame and of all before it.
    Causal,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input { .. } => f.write_str("input"),
            Self::Conv(conv) => conv.fmt(f),
            Self::Linear(linear) => f.write_str(if linear.bias { "linear" } else { "linear, no bias" }),
            Self::GroupNorm { groups, .. } => write!(f, "group norm, {groups} groups"),
            Self::RmsNorm { .. } => f.write_str("RMS norm"),
            Self::LayerNorm { .. } => f.write_str("layer norm"),
            Self::ScaleShift => f.write_str("scale and shift"),
            Self::Affine { scale, shift } => write!(f, "times {scale} plus {shift}"),
            Self::Activation(Activation::Silu) => f.write_str("SiLU"),
            Self::Activation(Activation::Relu) => f.write_str("ReLU"),
            Self::Activation(Activation::Tanh { scale }) => write!(f, "tanh within {scale}"),
            Self::Activation(Activation::Gelu) => f.write_str("GELU"),
            Self::Activation(Activation::SwiGlu) => f.write_str("SwiGLU"),
            Self::Add => f.write_str("add"),
            Self::Mul => f.write_str("multiply"),
            Self::Concat(axis) => write!(f, "concatenate {axis}"),
            Self::Slice { axis, start, end: Some(end) } => write!(f, "{axis} {start} to {end}"),
            Self::Slice { axis, start, end: None } => write!(f, "{axis} from {start}"),
            Self::Repeat { axis, times, interleaved: true } => write!(f, "each of {axis} {times} times"),
            Self::Repeat { axis, times, interleaved: false } => write!(f, "{axis} {times} times"),
            Self::Upsample(Upsample { frames, sides }) => f.write_str(match (frames, sides) {
                (true, true) => "upsample frames and sides by 2",
                (true, false) => "upsample frames by 2",
                _ => "upsample by 2",
            }),
            Self::DepthToSpace(Blocks { factors: [t, h, w], .. }) => write!(f, "depth to space {t}x{h}x{w}"),
            Self::SpaceToDepth(Blocks { factors: [t, h, w], .. }) => write!(f, "space to depth {t}x{h}x{w}"),
            Self::Attention(Attention { heads, extent }) => {
                let extent = match extent {
                    Extent::All => "attention",
                    Extent::Frame => "attention in each frame",
                    Extent::Causal => "attention, causal by frame",
                };
                write!(f, "{extent}")?;
                if *heads == 1 { Ok(()) } else { write!(f, ", {heads} heads") }
            }
            Self::Clamp { min, max } => write!(f, "clamp to [{min}, {max}]"),
        }
    }
}

impl fmt::Display for Conv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let product = |[t, h, w]: [usize; 3]| {
            if self.weight == ConvWeight::Conv3d { format!("{t}x{h}x{w}") } else { format!("{h}x{w}") }
        };
        write!(f, "conv {}", product(self.kernel))?;
        if self.stride != [1; 3] {
            write!(f, ", stride {}", product(self.stride))?;
        }
        if self.groups != 1 {
            write!(f, ", {} groups", self.groups)?;
        }
        let padded = |mode| self.pad.iter().any(|pad| pad.mode == mode && pad.before + pad.after > 0);
        for (mode, name) in [(PadMode::Replicate, ", borders repeated"), (PadMode::Reflect, ", reflected")] {
            if padded(mode) {
                f.write_str(name)?;
            }
        }
        let [time, ..] = self.pad;
        if time.before > 0 && time.after == 0 {
            f.write_str(", causal")?;
        }
        if let ConvWeight::LastTap(taps @ 2..) = self.weight {
            write!(f, ", last of {taps} taps in time")?;
        }
        if self.bias { Ok(()) } else { f.write_str(", no bias") }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channels => "channels",
            Self::Frames => "frames",
            Self::Height => "rows",
            Self::Width => "columns",
        })
    }
}
