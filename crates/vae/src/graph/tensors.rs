//! The tensors that a checkpoint must have for a graph.

use super::{Conv, ConvWeight, Graph, NodeId, Op};

/// A tensor that a node needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What devices find it by: its name in the checkpoint, with `[:, :, -1]` behind it for the last tap of a weight.
    pub name: String,
    /// The shape that devices are given, in PyTorch's order.
    pub shape: Vec<usize>,
    /// Whether it may have further axes of length one: old checkpoints have linear layers as 1×1 convolutions.
    pub may_have_more_axes: bool,
    /// For the last tap of a weight ([`ConvWeight::LastTap`]): how many taps in time it has in the checkpoint, as its third
    /// axis.
    pub taps: Option<usize>,
}

/// What the name of a weight's last tap ends with, as Python has it.
const LAST_TAP: &str = "[:, :, -1]";

impl Expected {
    /// Its name in the checkpoint.
    pub fn tensor(&self) -> &str {
        self.name.strip_suffix(LAST_TAP).unwrap_or(&self.name)
    }
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
            taps: None,
        };
        let (weight, has_bias) = match &node.op {
            Op::Conv(Conv { kernel: [t, h, w], groups, bias, weight, .. }) => {
                let inputs = in_channels / groups;
                let of_2d = tensor("weight", &[channels, inputs, *h, *w], false);
                let weight = match weight {
                    ConvWeight::Conv2d => of_2d,
                    ConvWeight::Conv3d => tensor("weight", &[channels, inputs, *t, *h, *w], false),
                    ConvWeight::LastTap(taps) => {
                        Expected { name: format!("{}{LAST_TAP}", of_2d.name), taps: Some(*taps), ..of_2d }
                    }
                };
                (weight, *bias)
            }
            Op::Linear(linear) => (tensor("weight", &[channels, in_channels], true), linear.bias),
            Op::RmsNorm { scale, .. } => (tensor(scale.unwrap_or("weight"), &[channels], true), false),
            _ => (tensor("weight", &[channels], false), true),
        };
        let bias = has_bias.then(|| tensor("bias", &[channels], false));
        [weight].into_iter().chain(bias).collect()
    }
}
