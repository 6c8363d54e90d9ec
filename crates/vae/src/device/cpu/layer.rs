//! Layers with their weights, as they lie in the checkpoint.

use kernels::{ChannelNorm, Context, Conv2d, Conv3d, GroupNorm, Norm, Padding3d, Pre};

use super::fuse::{self, KernelNorm, Projections, conv_of, kernel_norm, pad_mode};
use crate::device::Weights;
use crate::graph::{self, Graph, NodeId};
use crate::{DeviceError, Weight};

/// A weight, and its bias, which is empty for none.
pub(super) struct Layer {
    weight: Weight,
    bias: Vec<f32>,
}

impl Layer {
    pub(super) fn new(graph: &Graph, id: NodeId, weights: &Weights) -> Result<Self, DeviceError> {
        let tensors = graph.tensors(id);
        let weight = weights.get(&tensors[0].name)?;
        let bias = tensors.get(1).map(|bias| weights.get(&bias.name)).transpose()?;
        Ok(Self { weight, bias: bias.map_or_else(Vec::new, |bias| bias.to_f32()) })
    }

    fn view(&self) -> (kernels::WeightView<'_>, &[f32]) {
        (self.weight.view(), &self.bias)
    }

    /// Part `index` of three of the output's channels.
    fn third(&self, index: usize) -> (kernels::WeightView<'_>, &[f32]) {
        let part = |count: usize| index * count / 3..(index + 1) * count / 3;
        let weight = self.weight.view();
        (weight.part(part(weight.len())), &self.bias[part(self.bias.len())])
    }

    /// Factors and terms of channels, empty for none.
    pub(super) fn into_channels(self) -> [Vec<f32>; 2] {
        [self.weight.to_f32(), self.bias]
    }

    /// Lets go of the weight's pages: the next run reads them from the file's cache again. Those of a rehearsal may be in
    /// use by a run.
    pub(super) fn done(&self, context: &Context) {
        if !context.is_rehearsal() {
            self.weight.release_pages();
        }
    }
}

/// A convolution.
pub(super) struct Conv {
    pub(super) spec: graph::Conv,
    in_channels: usize,
    pub(super) layer: Layer,
}

impl Conv {
    pub(super) fn new(graph: &Graph, id: NodeId, weights: &Weights) -> Result<Self, DeviceError> {
        let node = &graph.nodes()[id];
        let Some(spec) = conv_of(graph, id) else {
            return Err(DeviceError::Unsupported(format!("{} as a convolution", node.title())));
        };
        let in_channels = graph.nodes()[node.inputs[0]].channels;
        Ok(Self { spec, in_channels, layer: Layer::new(graph, id, weights)? })
    }

    pub(super) fn of_pictures(&self) -> Conv2d<'_> {
        let [_, rows, columns] = self.spec.pad;
        Conv2d {
            weight: self.layer.weight.view(),
            bias: &self.layer.bias,
            in_channels: self.in_channels,
            out_channels: self.spec.out_channels,
            kernel: self.spec.kernel[1],
            stride: self.spec.stride[1],
            padding: [rows.before, rows.after, columns.before, columns.after],
            padding_mode: pad_mode([rows, columns]),
            groups: self.spec.groups,
        }
    }

    pub(super) fn of_clip(&self) -> Conv3d<'_> {
        let [time, rows, columns] = self.spec.pad;
        Conv3d {
            weight: self.layer.weight.view(),
            bias: &self.layer.bias,
            in_channels: self.in_channels,
            out_channels: self.spec.out_channels,
            kernel: self.spec.kernel,
            stride: self.spec.stride,
            padding: Padding3d {
                time: [time.before, time.after],
                time_mode: pad_mode([time, time]),
                space: [rows.before, rows.after, columns.before, columns.after],
                space_mode: pad_mode([rows, columns]),
            },
            groups: self.spec.groups,
        }
    }
}

/// A norm.
pub(super) enum AnyNorm {
    Group(GroupNorm),
    Channel(ChannelNorm),
}

impl AnyNorm {
    pub(super) fn new(graph: &Graph, id: NodeId, weights: &Weights) -> Result<Self, DeviceError> {
        // A norm over channels may have no weights.
        let [weight, bias] = match graph.tensors(id).is_empty() {
            true => [Vec::new(), Vec::new()],
            false => Layer::new(graph, id, weights)?.into_channels(),
        };
        match kernel_norm(graph, id) {
            Some(KernelNorm::Group { groups, eps }) => {
                Ok(Self::Group(GroupNorm { groups, eps, weight, bias }))
            }
            Some(KernelNorm::Channel(kind)) => Ok(Self::Channel(ChannelNorm { kind, weight, bias })),
            None => Err(DeviceError::Unsupported(format!("{} as a norm", graph.nodes()[id].title()))),
        }
    }

    fn view(&self) -> Norm<'_> {
        match self {
            Self::Group(norm) => norm.into(),
            Self::Channel(norm) => norm.into(),
        }
    }
}

/// What happens to a value when it is read.
pub(super) fn pre(norm: Option<&AnyNorm>, activation: Option<kernels::Activation>) -> Pre<'_> {
    Pre { norm: norm.map(AnyNorm::view), activation }
}

/// An attention block.
pub(super) struct Attention {
    norm: Option<AnyNorm>,
    /// Of queries, keys and values, or one of all.
    projections: Vec<Layer>,
    to_out: Layer,
    heads: usize,
    pub(super) extent: graph::Extent,
}

impl Attention {
    pub(super) fn new(
        graph: &Graph,
        block: &fuse::Attention,
        weights: &Weights,
    ) -> Result<Self, DeviceError> {
        let layer = |id: NodeId| Layer::new(graph, id, weights);
        let projections = match &block.projections {
            Projections::Separate(layers) => layers.iter().map(|&id| layer(id)).collect::<Result<_, _>>()?,
            Projections::Joint(all) => vec![layer(*all)?],
        };
        Ok(Self {
            norm: block.norm.map(|norm| AnyNorm::new(graph, norm, weights)).transpose()?,
            projections,
            to_out: layer(block.to_out)?,
            heads: block.heads,
            extent: block.extent,
        })
    }

    pub(super) fn kernel(&self) -> kernels::Attention<'_> {
        let [to_q, to_k, to_v] = match self.projections.as_slice() {
            [q, k, v] => [q.view(), k.view(), v.view()],
            all => [0, 1, 2].map(|index| all[0].third(index)),
        };
        let norm = self.norm.as_ref().map(AnyNorm::view);
        kernels::Attention { norm, heads: self.heads, to_q, to_k, to_v, to_out: self.to_out.view() }
    }

    pub(super) fn done(&self, context: &Context) {
        self.projections.iter().chain([&self.to_out]).for_each(|layer| layer.done(context));
    }
}
