//! Builds graphs, in scopes that mirror the names in a checkpoint.

use std::cell::RefCell;
use std::fmt::Display;

use super::{
    Activation, Attention, Axis, Conv, Graph, GraphError, Linear, Node, NodeId, Op, Shape, Upsample, shape,
};

/// A place in a graph that is being built, and in the checkpoint: `scope.pp("decoder").pp("conv_in")`, as candle's
/// `VarBuilder`.
pub struct Scope<'a> {
    state: &'a RefCell<State>,
    prefix: String,
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    /// The first thing that could not be.
    error: Option<GraphError>,
}

impl Graph {
    /// Builds a graph of pictures, or of clips. `make` is given the root of the checkpoint's names and the input, and returns
    /// the output.
    ///
    /// # Errors
    /// Operations whose channels do not fit together.
    pub fn build(
        is_video: bool,
        channels: usize,
        make: impl FnOnce(&Scope<'_>, NodeId) -> NodeId,
    ) -> Result<Self, GraphError> {
        let state = RefCell::default();
        let root = Scope { state: &state, prefix: String::new() };
        let input = root.op(Op::Input { channels }, &[]);
        let output = make(&root, input);
        let State { nodes, error } = state.into_inner();
        match error {
            Some(error) => Err(error),
            None => Ok(Self { nodes, output, is_video, states_in: Vec::new(), states_out: Vec::new() }),
        }
    }
}

impl Scope<'_> {
    /// The place `name` below this one ("push prefix").
    pub fn pp(&self, name: impl Display) -> Self {
        let prefix =
            if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { state: self.state, prefix }
    }

    /// Channels of a value.
    pub fn channels(&self, x: NodeId) -> usize {
        self.state.borrow().nodes[x].channels
    }

    /// Adds an operation whose weights, if it has any, are here.
    pub fn op(&self, op: Op, inputs: &[NodeId]) -> NodeId {
        let mut state = self.state.borrow_mut();
        // Any size does to learn of the channels.
        let any = |&id: &NodeId| Shape([1, state.nodes[id].channels, 1, 1, 1]);
        let shapes: Vec<_> = inputs.iter().map(any).collect();
        let channels = match &op {
            Op::Input { channels } => Ok(*channels),
            Op::Conv(conv) if shapes[0].channels().is_multiple_of(conv.groups.max(1)) => {
                Ok(conv.out_channels)
            }
            Op::Slice { axis, .. } if *axis != Axis::Channels => Ok(shapes[0].channels()),
            Op::SpaceToDepth(blocks) => Ok(shapes[0].channels().saturating_mul(blocks.size())),
            op => shape::output(op, &shapes).map(Shape::channels),
        };
        let name = if op.has_weights() { self.prefix.clone() } else { String::new() };
        let mut node = Node { op, inputs: inputs.to_vec(), name, stages: Vec::new(), channels: 1 };
        match channels {
            Ok(channels) => node.channels = channels,
            Err(message) => {
                state.error.get_or_insert_with(|| GraphError(format!("{}: {message}", node.title())));
            }
        }
        state.nodes.push(node);
        state.nodes.len() - 1
    }

    /// Calls the value the output of the part of the model that is here.
    pub fn stage(&self, x: NodeId) -> NodeId {
        self.state.borrow_mut().nodes[x].stages.push(self.prefix.clone());
        x
    }

    /// A convolution.
    pub fn conv(&self, x: NodeId, conv: Conv) -> NodeId {
        self.op(Op::Conv(conv), &[x])
    }

    /// A linear layer with a bias.
    pub fn linear(&self, x: NodeId, out_channels: usize) -> NodeId {
        self.op(Op::Linear(Linear { out_channels, bias: true }), &[x])
    }

    /// A group norm.
    pub fn group_norm(&self, x: NodeId, groups: usize, eps: f64) -> NodeId {
        self.op(Op::GroupNorm { groups, eps }, &[x])
    }

    /// An activation.
    pub fn activation(&self, x: NodeId, activation: Activation) -> NodeId {
        self.op(Op::Activation(activation), &[x])
    }

    /// A sum.
    pub fn add(&self, a: NodeId, b: NodeId) -> NodeId {
        self.op(Op::Add, &[a, b])
    }

    /// Nearest upsampling.
    pub fn upsample(&self, x: NodeId, upsample: Upsample) -> NodeId {
        self.op(Op::Upsample(upsample), &[x])
    }

    /// Attention.
    pub fn attention(&self, [q, k, v]: [NodeId; 3], attention: Attention) -> NodeId {
        self.op(Op::Attention(attention), &[q, k, v])
    }
}
