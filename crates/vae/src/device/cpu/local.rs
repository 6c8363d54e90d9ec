//! What is done to each value by itself, in its memory, and what only copies values to other positions.

use kernels::{Context, Gather, Pre, Upsampling, Watched};

use super::fuse::{axis, shuffle};
use super::layer::Layer;
use super::value::{Value, each};
use crate::DeviceError;
use crate::device::Weights;
use crate::graph::{Activation, Graph, NodeId, Op, Upsample};

/// An operation of each value by itself.
pub(super) enum Local {
    /// `x * scale + shift` by channel; an empty shift is zero.
    ScaleShift([Vec<f32>; 2]),
    /// Between two bounds.
    Clamp(f32, f32),
    /// `tanh(x / scale) * scale`.
    Tanh(f32),
    /// `silu(a) * b` of the two halves of the channels.
    SwiGlu,
    /// The sum with another value.
    Add,
    /// The product with another value.
    Multiply,
}

impl Local {
    pub(super) fn new(graph: &Graph, id: NodeId, weights: &Weights) -> Result<Self, DeviceError> {
        let node = &graph.nodes()[id];
        let all = |value: f64| vec![value as f32; node.channels];
        Ok(match node.op {
            Op::Affine { scale, shift } => Self::ScaleShift([all(scale), all(shift)]),
            Op::ScaleShift => Self::ScaleShift(Layer::new(graph, id, weights)?.into_channels()),
            Op::Clamp { min, max } => Self::Clamp(min as f32, max as f32),
            Op::Activation(Activation::Tanh { scale }) => Self::Tanh(scale as f32),
            Op::Activation(Activation::SwiGlu) => Self::SwiGlu,
            Op::Add => Self::Add,
            Op::Mul => Self::Multiply,
            _ => return Err(DeviceError::Unsupported(format!("{} in place", node.title()))),
        })
    }

    /// Runs it in the memory of `x`.
    pub(super) fn run(
        &self,
        context: &Context,
        x: Value,
        other: Option<&Value>,
        watched: &mut Watched<'_>,
    ) -> Result<Value, DeviceError> {
        let activated = |activation| Pre { norm: None, activation: Some(activation) };
        Ok(match self {
            Self::ScaleShift([scale, shift]) => each!(x, x => x.scale_shift(context, scale, shift, watched)?),
            Self::Clamp(min, max) => each!(x, x => x.clamp(context, *min, *max, watched)?),
            Self::Tanh(scale) => {
                let channels = x.shape().channels();
                let all = |value: f32| vec![value; channels];
                each!(x, x => x
                    .scale_shift(context, &all(1.0 / scale), &[], watched)?
                    .apply(context, activated(kernels::Activation::Tanh), watched)?
                    .scale_shift(context, &all(*scale), &[], watched)?)
            }
            Self::SwiGlu => {
                let half = x.shape().channels() / 2;
                let part = |range| Gather::whole(sizes(&x)).sliced(kernels::Axis::Channel, range);
                let gate = gathered(context, &part(0..half), &[&x], watched)?;
                let gate = each!(gate, x => x.apply(context, activated(kernels::Activation::Silu), watched)?);
                let value = gathered(context, &part(half..2 * half), &[&x], watched)?;
                Self::Multiply.run(context, value, Some(&gate), watched)?
            }
            Self::Add | Self::Multiply => {
                let add = matches!(self, Self::Add);
                match (x, other) {
                    (Value::Pictures(x), Some(Value::Pictures(other))) => Value::Pictures(match add {
                        true => x.add(context, other, watched)?,
                        false => x.multiply(context, other, watched)?,
                    }),
                    (Value::Clip(x), Some(Value::Clip(other))) => Value::Clip(match add {
                        true => x.add(context, other, watched)?,
                        false => x.multiply(context, other, watched)?,
                    }),
                    _ => return Err(DeviceError::Lost("two values of different kinds".to_owned())),
                }
            }
        })
    }
}

/// `[C, F, H, W]`.
fn sizes(x: &Value) -> [usize; 4] {
    let [_, channels, frames, height, width] = x.shape().0;
    [channels, frames, height, width]
}

fn gathered(
    context: &Context,
    gather: &Gather,
    parts: &[&Value],
    watched: &mut Watched<'_>,
) -> Result<Value, DeviceError> {
    let (mut pictures, mut clips) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Value::Pictures(x) => pictures.push(x),
            Value::Clip(x) => clips.push(x),
        }
    }
    match (pictures.is_empty(), clips.is_empty()) {
        (false, true) => Ok(Value::Pictures(gather.pictures(context, &pictures, watched)?)),
        (true, false) => Ok(Value::Clip(gather.clip(context, &clips, watched)?)),
        _ => Err(DeviceError::Lost("values of different kinds".to_owned())),
    }
}

/// The same value in memory of its own.
pub(super) fn copied(context: &Context, x: &Value, watched: &mut Watched<'_>) -> Result<Value, DeviceError> {
    gathered(context, &Gather::whole(sizes(x)), &[x], watched)
}

/// What an operation makes that only copies values.
pub(super) fn copy(
    context: &Context,
    op: &Op,
    inputs: &[&Value],
    watched: &mut Watched<'_>,
) -> Result<Value, DeviceError> {
    let x = inputs[0];
    let whole = || Gather::whole(sizes(x));
    let unsupported = || DeviceError::Unsupported(format!("{op} as a copy"));
    let gather = match *op {
        Op::Concat(along) => {
            let shapes: Vec<_> = inputs.iter().map(|x| sizes(x)).collect();
            Gather::concatenated(&shapes, axis(along))
        }
        Op::Slice { axis: along, start, end } => {
            whole().sliced(axis(along), start..end.unwrap_or(x.shape().axis(along)))
        }
        Op::Repeat { axis: along, times, interleaved } => whole().repeated(axis(along), times, interleaved),
        Op::Upsample(Upsample { frames, sides }) => {
            whole().upsampled(Upsampling { time: frames, space: sides })
        }
        Op::DepthToSpace(blocks) => {
            let shuffle = shuffle(blocks).ok_or_else(unsupported)?;
            return Ok(match x {
                Value::Pictures(x) => Value::Pictures(x.depth_to_space(context, shuffle, watched)?),
                Value::Clip(x) => Value::Clip(x.depth_to_space(context, shuffle, 0, watched)?),
            });
        }
        Op::SpaceToDepth(blocks) => {
            let shuffle = shuffle(blocks).ok_or_else(unsupported)?;
            return Ok(each!(x, x => x.space_to_depth(context, shuffle, watched)?));
        }
        _ => return Err(unsupported()),
    };
    gathered(context, &gather, inputs, watched)
}
