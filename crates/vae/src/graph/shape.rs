//! Shapes of values, and the rules by which they follow from each other. No product may wrap: sizes come from requests.

use std::fmt;

use super::{Axis, Conv, Graph, GraphError, Op};

/// Axis lengths of a value, always in the order batch, channels, frames, height, width. A picture has one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape(pub [usize; 5]);

impl Shape {
    /// Images, or clips.
    pub fn batch(self) -> usize {
        self.0[0]
    }

    /// Channels.
    pub fn channels(self) -> usize {
        self.0[1]
    }

    /// Frames, height and width.
    pub fn space(self) -> [usize; 3] {
        [self.0[2], self.0[3], self.0[4]]
    }

    /// The length of one axis.
    pub fn axis(self, axis: Axis) -> usize {
        self.0[axis as usize]
    }

    /// The number of values; `None` for more than can be counted.
    pub fn values(self) -> Option<usize> {
        self.0.into_iter().try_fold(1usize, usize::checked_mul)
    }

    /// Bytes of the values in f32; as many as can be counted if there are more.
    pub fn bytes(self) -> usize {
        self.0.into_iter().fold(size_of::<f32>(), usize::saturating_mul)
    }

    /// The same with another batch.
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.0[0] = batch;
        self
    }

    /// The same with other channels.
    pub fn with_channels(mut self, channels: usize) -> Self {
        self.0[1] = channels;
        self
    }

    /// The same with other frames, height and width.
    pub fn with_space(self, [frames, height, width]: [usize; 3]) -> Self {
        Self([self.0[0], self.0[1], frames, height, width])
    }

    /// The same with another length of one axis.
    pub fn with_axis(mut self, axis: Axis, length: usize) -> Self {
        self.0[axis as usize] = length;
        self
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [batch, channels, frames, height, width] = self.0;
        write!(f, "{batch} x {channels} x ")?;
        if frames != 1 {
            write!(f, "{frames} x ")?;
        }
        write!(f, "{height} x {width}")
    }
}

impl Graph {
    /// The shape of each node's value for an input of this shape, in the order of the nodes.
    ///
    /// # Errors
    /// An input with other channels, or one that is too small or too large for some node.
    pub fn shapes(&self, input: Shape) -> Result<Vec<Shape>, GraphError> {
        self.shapes_with(Some(input), &[])
    }

    /// The same for a chunk of a stream: `states` are the shapes of [`Graph::states_in`].
    ///
    /// # Errors
    /// As for [`Graph::shapes`], and too few or too many inputs.
    pub fn shapes_with(&self, input: Option<Shape>, states: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        if input.is_some() != self.takes_input() || states.len() != self.states_in.len() {
            let expected = self.states_in.len() + usize::from(self.takes_input());
            let found = states.len() + usize::from(input.is_some());
            return Err(GraphError(format!("a graph of {expected} inputs and states was given {found}")));
        }
        let mut given = input.into_iter().chain(states.iter().copied());
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let inputs: Vec<Shape> = node.inputs.iter().map(|&id| shapes[id]).collect();
            let shape = match &node.op {
                Op::Input { channels } => match given.next() {
                    Some(input) if *channels == input.channels() => Ok(input),
                    Some(input) => {
                        Err(format!("the input has {} channels, expected {channels}", input.channels()))
                    }
                    None => Err("it has no value".to_owned()),
                },
                op => output(op, &inputs),
            };
            let shape = shape.and_then(|shape| match shape.values() {
                Some(0) | None => Err(format!("its value would be {shape}")),
                Some(_) => Ok(shape),
            });
            shapes.push(shape.map_err(|message| GraphError(format!("{}: {message}", node.title())))?);
        }
        Ok(shapes)
    }

    /// The shape of what comes out for an input of this shape.
    ///
    /// # Errors
    /// As for [`Graph::shapes`].
    pub fn output_shape(&self, input: Shape) -> Result<Shape, GraphError> {
        Ok(self.shapes(input)?[self.output])
    }
}

/// The shape that a node's value has, from those of its inputs.
pub(super) fn output(op: &Op, inputs: &[Shape]) -> Result<Shape, String> {
    let wrong = || format!("too many values for {op}");
    let x = *inputs.first().ok_or_else(|| format!("{op} has no input"))?;
    let times = |axis: Axis, factor: usize| {
        Ok::<_, String>(x.with_axis(axis, x.axis(axis).checked_mul(factor).ok_or_else(wrong)?))
    };
    match op {
        Op::Input { channels } => Ok(x.with_channels(*channels)),
        Op::Conv(conv) => {
            if !x.channels().is_multiple_of(conv.groups) || !conv.out_channels.is_multiple_of(conv.groups) {
                return Err(format!("{} channels do not divide into {} groups", x.channels(), conv.groups));
            }
            let mut space = x.space();
            for (axis, length) in space.iter_mut().enumerate() {
                *length = conv.output_length(axis, *length)?;
            }
            Ok(x.with_channels(conv.out_channels).with_space(space))
        }
        Op::Linear(linear) => Ok(x.with_channels(linear.out_channels)),
        Op::GroupNorm { groups, .. } if !x.channels().is_multiple_of(*groups) => {
            Err(format!("{} channels do not divide into {groups} groups", x.channels()))
        }
        Op::GroupNorm { .. }
        | Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::ScaleShift
        | Op::Affine { .. }
        | Op::Clamp { .. } => Ok(x),
        Op::Activation(activation) => activation
            .out_channels(x.channels())
            .map(|channels| x.with_channels(channels))
            .ok_or_else(|| format!("{} channels have no two halves", x.channels())),
        Op::Attention(attention) if !x.channels().is_multiple_of(attention.heads) => {
            Err(format!("{} channels do not divide into {} heads", x.channels(), attention.heads))
        }
        Op::Add | Op::Mul | Op::Attention(_) => match inputs.iter().find(|other| **other != x) {
            None => Ok(x),
            Some(other) => Err(format!("{op} of {x} and {other}")),
        },
        Op::Concat(axis) => {
            let mut length = 0usize;
            for other in inputs {
                if other.with_axis(*axis, 0) != x.with_axis(*axis, 0) {
                    return Err(format!("{op} of {x} and {other}"));
                }
                length = length.checked_add(other.axis(*axis)).ok_or_else(wrong)?;
            }
            Ok(x.with_axis(*axis, length))
        }
        Op::Slice { axis, start, end } => {
            let end = end.unwrap_or(x.axis(*axis));
            if *start >= end || end > x.axis(*axis) {
                return Err(format!("{op} of {x}"));
            }
            Ok(x.with_axis(*axis, end - start))
        }
        Op::Repeat { axis, times: factor, .. } => times(*axis, *factor),
        Op::Upsample(upsample) => {
            let [frames, height, width] = x.space();
            let frames = match upsample.frames {
                // All but the first.
                true => frames.checked_mul(2).map(|frames| frames.saturating_sub(1)),
                false => Some(frames),
            };
            let side = |side: usize| side.checked_mul(if upsample.sides { 2 } else { 1 });
            let space = frames.zip(side(height)).zip(side(width));
            space.map(|((f, h), w)| x.with_space([f, h, w])).ok_or_else(wrong)
        }
        Op::DepthToSpace(blocks) => {
            let [t, h, w] = blocks.factors;
            let depth = blocks.size();
            if !x.channels().is_multiple_of(depth) {
                return Err(format!("{} channels do not divide into blocks of {depth}", x.channels()));
            }
            let mut space = x.space();
            for (length, factor) in space.iter_mut().zip([t, h, w]) {
                *length = length.checked_mul(factor).ok_or_else(wrong)?;
            }
            Ok(x.with_channels(x.channels() / depth).with_space(space))
        }
        Op::SpaceToDepth(blocks) => {
            let mut space = x.space();
            for (length, factor) in space.iter_mut().zip(blocks.factors) {
                if !length.is_multiple_of(factor) {
                    return Err(format!("{x} does not divide into blocks of {factor}"));
                }
                *length /= factor;
            }
            let channels = x.channels().checked_mul(blocks.size()).ok_or_else(wrong)?;
            Ok(x.with_channels(channels).with_space(space))
        }
    }
}

impl Conv {
    /// The length of the output along an axis of space (frames, height, width), for an input of this length.
    fn output_length(&self, axis: usize, length: usize) -> Result<usize, String> {
        let (pad, kernel) = (self.pad[axis], self.kernel[axis]);
        let padded = length.checked_add(pad.before).and_then(|sum| sum.checked_add(pad.after));
        let padded = padded.ok_or_else(|| format!("{length} positions are too many"))?;
        if pad.mode == super::PadMode::Reflect && pad.before.max(pad.after) >= length {
            return Err(format!("{length} positions cannot be reflected at their ends"));
        }
        match padded.checked_sub(kernel) {
            Some(rest) => Ok(rest / self.stride[axis] + 1),
            None => Err(format!("{length} positions are fewer than its kernel takes")),
        }
    }
}
