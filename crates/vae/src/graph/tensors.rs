//! The tensors that a checkpoint must have for a graph.

use super::{Conv, Graph, NodeId, Op};

/// A tensor that a node needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape, in PyTorch's order.
    pub shape: Vec<usize>,
    /// Whether it may have further axes of length one: old checkpoints have linear layers as 1×1 convolutions.
    pub may_have_more_axes: bool,
}

impl Op {
    /// Whether it has weights.
    pub fn has_weights(&self) -> bool {
        match self {
            Self::Conv(_)
            | Self::Linear(_)
            | Self::GroupNorm { .. }
            | Self::LayerNorm { .. }
            | Self::ScaleShift => true,
            Self::RmsNorm { scale, .. } => scale.is_some(),
            _ => false,
        }
    }
}

impl Graph {
    /// The tensors of a node: its weight, and its bias if it has one.
    pub fn tensors(&self, id: NodeId) -> Vec<Expected> {
        let node = &self.nodes[id];
        if !node.op.has_weights() {
            return Vec::new();
        }
        let channels = node.channels;
        let in_channels = self.nodes[node.inputs[0]].channels;
        let tensor = |name: &str, shape: &[usize], may_have_more_axes| Expected {
            name: format!("{}.{name}", node.name),
            shape: shape.to_vec(),
            may_have_more_axes,
        };
        let (weight, has_bias) = match &node.op {
            Op::Conv(Conv { kernel: [t, h, w], groups, bias, is_2d, .. }) => {
                let inputs = in_channels / groups;
                let (of_2d, of_3d) = ([channels, inputs, *h, *w], [channels, inputs, *t, *h, *w]);
                (tensor("weight", if *is_2d { &of_2d } else { &of_3d }, false), *bias)
            }
            Op::Linear(linear) => (tensor("weight", &[channels, in_channels], true), linear.bias),
            Op::RmsNorm { scale, .. } => (tensor(scale.unwrap_or("weight"), &[channels], true), false),
            _ => (tensor("weight", &[channels], false), true),
        };
        let bias = has_bias.then(|| tensor("bias", &[channels], false));
        [weight].into_iter().chain(bias).collect()
    }
}
