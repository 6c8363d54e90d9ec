//! Steps with their weights, and how they are run.

use kernels::{Context, Features, Pre, Upsampling, Watched};

use super::fuse::{Fused, Kind, kernel_activation, stride};
use super::value::Value;
use crate::device::{Weights, reference};
use crate::graph::{self, Activation, Graph, NodeId, Op, Shape};
use crate::observe::Choice;
use crate::{Cancelled, DeviceError, Weight};

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
        norm: Option<kernels::GroupNorm>,
        activation: Option<kernels::Activation>,
        upsampling: Upsampling,
        conv: Conv,
    },
    Pointwise(Conv),
    Attention {
        norm: kernels::GroupNorm,
        layers: [Layer; 4],
    },
    /// Of each value by itself, with the channels of the value.
    InPlace(Op, usize),
    /// The operation and its tensors.
    Alone(Op, Vec<Vec<f64>>),
}

/// A convolution's weights, as they lie in the checkpoint.
struct Conv {
    spec: graph::Conv,
    in_channels: usize,
    layer: Layer,
}

/// A weight as it lies in the checkpoint, and its bias, which is empty for none.
struct Layer {
    weight: Weight,
    bias: Vec<f32>,
}

impl Layer {
    fn new(graph: &Graph, id: NodeId, weights: &Weights) -> Result<Self, DeviceError> {
        let tensors = graph.tensors(id);
        let weight = weights.get(&tensors[0].name)?;
        let bias = tensors.get(1).map(|bias| weights.get(&bias.name)).transpose()?;
        Ok(Self { weight, bias: bias.map_or_else(Vec::new, |bias| bias.to_f32()) })
    }

    fn view(&self) -> (kernels::WeightView<'_>, &[f32]) {
        (self.weight.view(), &self.bias)
    }

    /// Lets go of the weight's pages: the next run reads them from the file's cache again. Those of a rehearsal may be in
    /// use by a run.
    fn done(&self, context: &Context) {
        if !context.is_rehearsal() {
            self.weight.release_pages();
        }
    }
}

impl Conv {
    fn new(graph: &Graph, id: NodeId, weights: &Weights) -> Result<Self, DeviceError> {
        let node = &graph.nodes()[id];
        let Op::Conv(spec) = node.op else {
            return Err(DeviceError::Unsupported(format!("{} as a convolution", node.title())));
        };
        let in_channels = graph.nodes()[node.inputs[0]].channels;
        Ok(Self { spec, in_channels, layer: Layer::new(graph, id, weights)? })
    }

    fn of_pictures(&self) -> kernels::Conv2d<'_> {
        let [_, rows, columns] = self.spec.pad;
        kernels::Conv2d {
            weight: self.layer.weight.view(),
            bias: &self.layer.bias,
            in_channels: self.in_channels,
            out_channels: self.spec.out_channels,
            kernel: self.spec.kernel[1],
            stride: self.spec.stride[1],
            padding: [rows.before, rows.after, columns.before, columns.after],
            ..kernels::Conv2d::default()
        }
    }

    fn of_clip(&self) -> kernels::CausalConv3d<'_> {
        kernels::CausalConv3d {
            weight: self.layer.weight.view(),
            bias: &self.layer.bias,
            in_channels: self.in_channels,
            out_channels: self.spec.out_channels,
            stride: stride(&self.spec),
        }
    }
}

fn group_norm(graph: &Graph, id: NodeId, weights: &Weights) -> Result<kernels::GroupNorm, DeviceError> {
    let node = &graph.nodes()[id];
    let Op::GroupNorm { groups, eps } = node.op else {
        return Err(DeviceError::Unsupported(format!("{} as a group norm", node.title())));
    };
    let Layer { weight, bias } = Layer::new(graph, id, weights)?;
    Ok(kernels::GroupNorm { groups, eps, weight: weight.to_f32(), bias })
}

/// What happens to the input of a convolution.
fn pre(norm: Option<&kernels::GroupNorm>, activation: Option<kernels::Activation>) -> Pre<'_> {
    Pre { norm: norm.map(Into::into), activation }
}

fn attention<'a>(norm: &'a kernels::GroupNorm, layers: &'a [Layer; 4]) -> kernels::Attention<'a> {
    let [to_q, to_k, to_v, to_out] = layers.each_ref().map(Layer::view);
    kernels::Attention { norm: Some(norm.into()), heads: 1, to_q, to_k, to_v, to_out }
}

/// What an operation of each value by itself makes of pictures, or of a clip, in their memory.
macro_rules! in_place {
    ($name:ident, $value:ty) => {
        fn $name(
            x: $value,
            other: Option<&$value>,
            op: &Op,
            channels: usize,
            context: &Context,
            watched: &mut Watched<'_>,
        ) -> Result<$value, DeviceError> {
            let all = |value: f64| vec![value as f32; channels];
            let pre = |activation| Pre { norm: None, activation: Some(activation) };
            match (op, other) {
                (Op::Affine { scale, shift }, None) => {
                    Ok(x.scale_shift(context, &all(*scale), &all(*shift), watched)?)
                }
                (Op::Clamp { min, max }, None) => Ok(x.clamp(context, *min as f32, *max as f32, watched)?),
                (Op::Activation(Activation::Tanh { scale }), None) => {
                    let x = x.scale_shift(context, &all(1.0 / scale), &[], watched)?;
                    let x = x.apply(context, pre(kernels::Activation::Tanh), watched)?;
                    Ok(x.scale_shift(context, &all(*scale), &[], watched)?)
                }
                (Op::Activation(activation), None) if kernel_activation(*activation).is_some() => Ok(x
                    .apply(
                        context,
                        Pre { norm: None, activation: kernel_activation(*activation) },
                        watched,
                    )?),
                (Op::Add, Some(other)) => Ok(x.add(context, other, watched)?),
                (Op::Mul, Some(other)) => Ok(x.multiply(context, other, watched)?),
                (op, _) => Err(DeviceError::Unsupported(format!("{op} in place"))),
            }
        }
    };
}

in_place!(pictures_in_place, Features);
in_place!(clip_in_place, kernels::Clip);

impl Step {
    pub(super) fn new(graph: &Graph, fused: Fused, weights: &Weights) -> Result<Self, DeviceError> {
        let inputs = fused.inputs(graph);
        let node = &graph.nodes()[fused.output];
        let mut name = node.stages.first().cloned().unwrap_or_else(|| node.title());
        let prepared = match fused.kind {
            Kind::Conv { norm, activation, upsampling, conv, .. } => {
                name.clone_from(&graph.nodes()[conv].name);
                let norm = norm.map(|norm| group_norm(graph, norm, weights)).transpose()?;
                let activation = activation.and_then(kernel_activation);
                Prepared::Conv { norm, activation, upsampling, conv: Conv::new(graph, conv, weights)? }
            }
            Kind::Pointwise { conv, .. } => {
                name.clone_from(&graph.nodes()[conv].name);
                Prepared::Pointwise(Conv::new(graph, conv, weights)?)
            }
            Kind::Attention { norm, layers: [q, k, v, out], .. } => Prepared::Attention {
                norm: group_norm(graph, norm, weights)?,
                layers: [
                    Layer::new(graph, q, weights)?,
                    Layer::new(graph, k, weights)?,
                    Layer::new(graph, v, weights)?,
                    Layer::new(graph, out, weights)?,
                ],
            },
            Kind::InPlace { .. } => Prepared::InPlace(node.op.clone(), node.channels),
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
        let mut watched = Watched::new(&mut go_on);
        let mut inputs = inputs.into_iter();
        let mut next =
            || inputs.next().ok_or_else(|| DeviceError::Lost("a step without its input".to_owned()));
        match &self.prepared {
            Prepared::Conv { norm, activation, upsampling, conv } => {
                let x = next()?;
                let residual = match next() {
                    Ok(residual) => Some(residual.owned()?),
                    Err(_) => None,
                };
                let pre = pre(norm.as_ref(), *activation);
                let y = match (x.value(), residual) {
                    (Value::Pictures(x), None) if upsampling.space => {
                        conv.of_pictures().run_upsampled(context, x, &mut watched).map(Value::Pictures)?
                    }
                    (Value::Pictures(x), residual) => {
                        let residual = residual.map(pictures).transpose()?;
                        conv.of_pictures()
                            .run(context, x, pre, residual, &mut watched)
                            .map(Value::Pictures)?
                    }
                    (Value::Clip(x), residual) => {
                        let residual = residual.map(clip).transpose()?;
                        let conv = conv.of_clip();
                        Value::Clip(conv.run(context, x, pre, *upsampling, residual, &mut watched)?)
                    }
                };
                conv.layer.done(context);
                Ok(y)
            }
            Prepared::Pointwise(conv) => {
                let y = match next()?.owned()? {
                    Value::Pictures(x) => {
                        Value::Pictures(conv.of_pictures().run_pointwise(context, x, &mut watched)?)
                    }
                    Value::Clip(x) => {
                        Value::Clip(conv.of_pictures().run_pointwise_on_clip(context, x, &mut watched)?)
                    }
                };
                conv.layer.done(context);
                Ok(y)
            }
            Prepared::Attention { norm, layers } => {
                let attention = attention(norm, layers);
                let y = match next()?.owned()? {
                    Value::Pictures(x) => Value::Pictures(attention.run(context, x, &mut watched)?),
                    Value::Clip(x) => Value::Clip(attention.run_causal(context, x, &mut watched)?),
                };
                layers.iter().for_each(|layer| layer.done(context));
                Ok(y)
            }
            Prepared::InPlace(op, channels) => {
                let x = next()?.owned()?;
                let other = next().ok();
                match (x, other.as_ref().map(Taken::value)) {
                    (Value::Pictures(x), None) => {
                        pictures_in_place(x, None, op, *channels, context, &mut watched).map(Value::Pictures)
                    }
                    (Value::Pictures(x), Some(Value::Pictures(other))) => {
                        pictures_in_place(x, Some(other), op, *channels, context, &mut watched)
                            .map(Value::Pictures)
                    }
                    (Value::Clip(x), None) => {
                        clip_in_place(x, None, op, *channels, context, &mut watched).map(Value::Clip)
                    }
                    (Value::Clip(x), Some(Value::Clip(other))) => {
                        clip_in_place(x, Some(other), op, *channels, context, &mut watched).map(Value::Clip)
                    }
                    _ => Err(DeviceError::Lost("a clip among pictures".to_owned())),
                }
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
            Prepared::Attention { .. } => {
                return Choice {
                    algorithm: "blocks of keys",
                    reason: "a running softmax: the matrix of scores never exists",
                };
            }
            Prepared::InPlace(..) => {
                return Choice { algorithm: "in place", reason: "of each value by itself" };
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

    fn owned(self) -> Result<Value, DeviceError> {
        match self {
            Self::Owned(value) => Ok(value),
            Self::Borrowed(_) => {
                Err(DeviceError::Lost("a value was to be used up that is still needed".to_owned()))
            }
        }
    }
}

fn pictures(value: Value) -> Result<Features, DeviceError> {
    match value {
        Value::Pictures(features) => Ok(features),
        Value::Clip(_) => Err(DeviceError::Lost("a clip among pictures".to_owned())),
    }
}

fn clip(value: Value) -> Result<kernels::Clip, DeviceError> {
    match value {
        Value::Clip(clip) => Ok(clip),
        Value::Pictures(_) => Err(DeviceError::Lost("pictures among clips".to_owned())),
    }
}
