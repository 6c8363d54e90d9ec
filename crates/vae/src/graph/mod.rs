//! What a model computes, as data: a graph of operations with static attributes and named weights.
//!
//! A family builds graphs with [`Graph::build`]; devices prepare and run them. What else is to be known of a model is a
//! function of its graph: the shapes of all values, the tensors that a checkpoint must have, the work of each node, when a
//! value is needed last, how far a node looks, and what people read of it.

mod build;
mod op;
mod print;
mod reach;
mod shape;
mod tensors;
mod work;

#[cfg(test)]
mod tests;

pub use build::Scope;
pub use op::{
    Activation, Attention, Axis, BlockOrder, Blocks, Conv, ConvWeight, Extent, Linear, Op, Pad, PadMode,
    Upsample,
};
pub use reach::Everywhere;
pub use shape::Shape;
pub use tensors::Expected;

/// A node, by its index: inputs come before the nodes that use them.
pub type NodeId = usize;

/// What a model computes from one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    output: NodeId,
    is_video: bool,
}

/// An operation at its place in a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Whose values it takes.
    pub inputs: Vec<NodeId>,
    /// Where its weights are in a checkpoint: `decoder.mid_block.resnets.0.conv1`. Empty for a node without weights.
    pub name: String,
    /// Names of parts of the model, as in the checkpoint, whose output its value is
    /// ([`Observer::activation`](crate::Observer::activation)).
    pub stages: Vec<String>,
    /// Channels of its value.
    pub channels: usize,
}

/// A graph that cannot be, or an input that it cannot take; in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GraphError(pub String);

impl Graph {
    /// Its nodes, each after those whose values it takes. The first is the input.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whose value comes out.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Whether it is of clips, which may have more than one frame.
    pub fn is_video(&self) -> bool {
        self.is_video
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> usize {
        self.nodes[0].channels
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.nodes[self.output].channels
    }

    /// The graph without its last `count` nodes, and these as a graph of their own; `None` where they take other values than
    /// the one that the first graph gives.
    pub(crate) fn split(&self, count: usize) -> Option<(Self, Self)> {
        let last = self.nodes.len().checked_sub(count + 1)?;
        let head = Self { nodes: self.nodes[..=last].to_vec(), output: last, is_video: self.is_video };
        let mut tail = vec![Node {
            op: Op::Input { channels: head.out_channels() },
            inputs: Vec::new(),
            name: String::new(),
            stages: Vec::new(),
            channels: head.out_channels(),
        }];
        for node in &self.nodes[last + 1..] {
            let inputs = node.inputs.iter().map(|input| input.checked_sub(last)).collect::<Option<_>>()?;
            tail.push(Node { inputs, ..node.clone() });
        }
        let output = self.output.checked_sub(last)?;
        Some((head, Self { nodes: tail, output, is_video: self.is_video }))
    }

    /// How often each node's value is taken; what comes out of the graph is taken once more.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        for &input in self.nodes.iter().flat_map(|node| &node.inputs) {
            uses[input] += 1;
        }
        uses[self.output] += 1;
        uses
    }

    /// Bytes of the values, in f32, that are there at once when node after node is run and each value is let go of after its
    /// last use. `shapes` are those of [`Graph::shapes`].
    pub fn peak_bytes(&self, shapes: &[Shape]) -> usize {
        let mut uses = self.uses();
        let (mut live, mut peak) = (0usize, 0usize);
        for (id, node) in self.nodes.iter().enumerate() {
            live = live.saturating_add(shapes[id].bytes());
            peak = peak.max(live);
            for &input in &node.inputs {
                uses[input] -= 1;
                if uses[input] == 0 {
                    live = live.saturating_sub(shapes[input].bytes());
                }
            }
        }
        peak
    }
}

impl Node {
    /// What it is called in messages.
    pub fn title(&self) -> String {
        if self.name.is_empty() { self.op.to_string() } else { format!("{} ({})", self.name, self.op) }
    }
}
