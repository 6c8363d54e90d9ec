//! Steps with their weights, and how they are run.

use kernels::{Context, Pre, Upsampling, Watched};

use super::fuse::{Fused, Kind, kernel_activation};
use super::layer::{AnyNorm, Attention, Conv, pre};
use super::local::{self, Local};
use super::value::{Value, each};
use crate::device::{Weights, reference};
use crate::graph::{Extent, Graph, NodeId, Op, Shape};
use crate::observe::Choice;
use crate::{Cancelled, DeviceError};

/// Called between the parts of a step with the share of it that is done, from 0 to 1.
pub(super) type Watch<'a> = dyn FnMut(f64) -> Result<(), Cancelled> + 'a;

/// A step, ready to run.
pub(super) struct Step {
    pub(super) fused: Fused,
    /// The nodes whose values are taken.
    pub(super) inputs: Vec<NodeId>,
    /// What it is called: the name of its convolution, or of the part of the model that it is.
    pub(super) name: String,
    prepared: Prepared,
}

enum Prepared {
    Conv {
        norm: Option<AnyNorm>,
        activation: Option<kernels::Activation>,
        upsampling: Upsampling,
        conv: Conv,
    },
    Pointwise(Conv),
    Attention(Attention),
    /// A norm and an activation by themselves.
    Apply(Option<AnyNorm>, Option<kernels::Activation>),
    /// Of each value by itself.
    InPlace(Local),
    /// Values copied to other positions.
    Copy(Op),
    /// The operation and its tensors.
    Alone(Op, Vec<Vec<f64>>),
}

impl Step {
    pub(super) fn new(graph: &Graph, fused: Fused, weights: &Weights) -> Result<Self, DeviceError> {
        let inputs = fused.inputs(graph);
        let node = &graph.nodes()[fused.output];
        let mut name = node.stages.first().cloned().unwrap_or_else(|| node.title());
        let any_norm = |norm: Option<NodeId>| norm.map(|norm| AnyNorm::new(graph, norm, weights)).transpose();
        let prepared = match &fused.kind {
            Kind::Conv { norm, activation, upsampling, conv, .. } => {
                name.clone_from(&graph.nodes()[*conv].name);
                let activation = activation.and_then(kernel_activation);
                let conv = Conv::new(graph, *conv, weights)?;
                Prepared::Conv { norm: any_norm(*norm)?, activation, upsampling: *upsampling, conv }
            }
            Kind::Pointwise { conv, .. } => {
                name.clone_from(&graph.nodes()[*conv].name);
                Prepared::Pointwise(Conv::new(graph, *conv, weights)?)
            }
            Kind::Attention(block) => Prepared::Attention(Attention::new(graph, block, weights)?),
            Kind::Apply { norm, activation, .. } => {
                Prepared::Apply(any_norm(*norm)?, activation.and_then(kernel_activation))
            }
            Kind::InPlace { .. } => Prepared::InPlace(Local::new(graph, fused.output, weights)?),
            Kind::Copy => Prepared::Copy(node.op.clone()),
            Kind::Alone => {
                Prepared::Alone(node.op.clone(), reference::node_weights(graph, fused.output, weights)?)
            }
        };
        Ok(Self { fused, inputs, name, prepared })
    }

    /// Runs it on the values of its inputs. Those that nobody needs afterwards come by value and are used up or dropped.
    pub(super) fn run(
        &self,
        context: &Context,
        inputs: Vec<Taken<'_>>,
        shape: Shape,
        watch: &mut Watch<'_>,
    ) -> Result<Value, DeviceError> {
        let mut go_on = |share| watch(share).is_ok();
        let watched = &mut Watched::new(&mut go_on);
        let mut inputs = inputs.into_iter();
        let mut next =
            || inputs.next().ok_or_else(|| DeviceError::Lost("a step without its input".to_owned()));
        match &self.prepared {
            Prepared::Conv { norm, activation, upsampling, conv } => {
                let x = next()?;
                let residual = match next() {
                    Ok(residual) => Some(residual.owned(context, watched)?),
                    Err(_) => None,
                };
                let pre = pre(norm.as_ref(), *activation);
                let factor = if upsampling.space { 2 } else { 1 };
                let y = match (x.value(), residual) {
                    (Value::Pictures(x), None) => Value::Pictures(
                        conv.of_pictures().run_behind(context, x, pre, None, factor, watched)?,
                    ),
                    (Value::Pictures(x), Some(Value::Pictures(residual))) => Value::Pictures(
                        conv.of_pictures().run_behind(context, x, pre, Some(residual), factor, watched)?,
                    ),
                    (Value::Clip(x), None) => {
                        Value::Clip(conv.of_clip().run(context, x, pre, *upsampling, None, watched)?)
                    }
                    (Value::Clip(x), Some(Value::Clip(residual))) => Value::Clip(conv.of_clip().run(
                        context,
                        x,
                        pre,
                        *upsampling,
                        Some(residual),
                        watched,
                    )?),
                    _ => return Err(DeviceError::Lost("a clip among pictures".to_owned())),
                };
                conv.layer.done(context);
                Ok(y)
            }
            Prepared::Pointwise(conv) => {
                let y = match next()?.owned(context, watched)? {
                    Value::Pictures(x) => {
                        Value::Pictures(conv.of_pictures().run_pointwise(context, x, watched)?)
                    }
                    Value::Clip(x) => {
                        Value::Clip(conv.of_pictures().run_pointwise_on_clip(context, x, watched)?)
                    }
                };
                conv.layer.done(context);
                Ok(y)
            }
            Prepared::Attention(attention) => {
                let kernel = attention.kernel();
                let y = match next()?.owned(context, watched)? {
                    Value::Pictures(x) => Value::Pictures(kernel.run(context, x, watched)?),
                    Value::Clip(x) => Value::Clip(match attention.extent {
                        Extent::All => kernel.run_on_clip(context, x, watched)?,
                        Extent::Frame => kernel.run_in_frames(context, x, watched)?,
                        Extent::Causal => kernel.run_causal(context, x, watched)?,
                    }),
                };
                attention.done(context);
                Ok(y)
            }
            Prepared::Apply(norm, activation) => {
                let pre = pre(norm.as_ref(), *activation);
                Ok(each!(next()?.owned(context, watched)?, x => x.apply(context, pre, watched)?))
            }
            Prepared::InPlace(local) => {
                let x = next()?.owned(context, watched)?;
                let other = next().ok();
                local.run(context, x, other.as_ref().map(Taken::value), watched)
            }
            Prepared::Copy(op) => {
                let inputs: Vec<_> = inputs.collect();
                let values: Vec<_> = inputs.iter().map(Taken::value).collect();
                local::copy(context, op, &values, watched)
            }
            Prepared::Alone(op, weights) => {
                let inputs: Vec<_> = inputs.collect();
                let is_video = matches!(inputs[0].value(), Value::Clip(_));
                let host = if context.is_rehearsal() {
                    // Values that nobody looks at.
                    crate::HostTensor::new(shape.0.to_vec(), vec![0.0; shape.0.iter().product()])
                } else {
                    let of_host = |input: &Taken<'_>| reference::Value::of_host(&input.value().download());
                    let values = inputs.iter().map(of_host).collect::<Result<Vec<_>, _>>()?;
                    let values: Vec<_> = values.iter().collect();
                    reference::eval(op, &values, weights, shape).to_host()
                };
                drop(inputs);
                Value::upload(context, is_video, &host)
            }
        }
    }

    /// How it is done on these values, and why.
    pub(super) fn explain(&self, context: &Context, x: &Value) -> Choice {
        let (conv, pre, upsampled) = match &self.prepared {
            Prepared::Conv { norm, activation, upsampling, conv } => {
                (conv, pre(norm.as_ref(), *activation), upsampling.space)
            }
            Prepared::Pointwise(conv) => (conv, Pre::default(), false),
            Prepared::Attention(_) => {
                return Choice {
                    algorithm: "blocks of keys",
                    reason: "a running softmax: the matrix of scores never exists",
                };
            }
            Prepared::Apply(..) | Prepared::InPlace(_) => {
                return Choice { algorithm: "in place", reason: "of each value by itself" };
            }
            Prepared::Copy(_) => {
                return Choice { algorithm: "copied", reason: "the same values at other positions" };
            }
            Prepared::Alone(..) => {
                return Choice { algorithm: "as defined", reason: "there is no kernel for it" };
            }
        };
        let plan = match x {
            Value::Clip(_) if conv.spec.is_pointwise() => None,
            Value::Clip(x) => Some(conv.of_clip().plan(context, x, pre)),
            Value::Pictures(x) => Some(conv.of_pictures().plan(context, x, pre)),
        };
        match plan {
            Some(plan) if conv.spec.kernel != [1; 3] => {
                Choice { algorithm: plan.algorithm.name(upsampled), reason: plan.reason }
            }
            plan => {
                let tiles = plan.is_some_and(|plan| plan.algorithm == kernels::Algorithm::Tiles);
                let algorithm = if tiles { "matrix product, in bf16 tiles" } else { "matrix product" };
                Choice { algorithm, reason: "1×1: one product with the weights" }
            }
        }
    }

    /// Bytes of the host that running it takes, beside the values.
    pub(super) fn host_memory(&self, shapes: &[Shape]) -> usize {
        match self.prepared {
            // Copies of what goes in and comes out, in f32 and f64.
            Prepared::Alone(..) => {
                let values = self.inputs.iter().chain([&self.fused.output]).map(|&id| shapes[id].bytes());
                values.fold(0, usize::saturating_add).saturating_mul(3)
            }
            _ => 0,
        }
    }
}

/// The value of an input.
pub(super) enum Taken<'a> {
    /// Nobody needs it afterwards.
    Owned(Value),
    /// Somebody does.
    Borrowed(&'a Value),
}

impl Taken<'_> {
    pub(super) fn value(&self) -> &Value {
        match self {
            Self::Owned(value) => value,
            Self::Borrowed(value) => value,
        }
    }

    /// A value whose memory may be written: its own, or a copy's where somebody needs it afterwards.
    fn owned(self, context: &Context, watched: &mut Watched<'_>) -> Result<Value, DeviceError> {
        match self {
            Self::Owned(value) => Ok(value),
            Self::Borrowed(value) => local::copied(context, value, watched),
        }
    }
}
