//! What a model computes, as data: a graph of operations with static attributes and named weights.
//!
//! A family builds graphs with [`Graph::build`]; devices prepare and run them. What else is to be known of a model is a
//! function of its graph: the shapes of all values, the tensors that a checkpoint must have, the work of each node, when a
//! value is needed last, how far a node looks, and what people read of it.

mod build;
mod op;
mod part;
mod print;
mod reach;
mod shape;
mod stream;
mod tensors;
mod work;

#[cfg(test)]
mod tests;

pub use build::Scope;
pub use op::{
    Activation, Attention, Axis, BlockOrder, Blocks, Conv, ConvWeight, Extent, Linear, Op, Pad, PadMode,
    Upsample,
};
pub use part::Part;
pub use reach::Everywhere;
pub use shape::Shape;
pub use stream::{Chunk, Stream};
pub use tensors::Expected;

/// A node, by its index: inputs come before the nodes that use them.
pub type NodeId = usize;

/// What a model computes from one input.
///
/// A chunk of a [`Stream`] has more: states, which are values that the chunk before has left, and values that it leaves itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    output: NodeId,
    is_video: bool,
    /// The inputs that are states; empty for a graph that is no chunk.
    states_in: Vec<NodeId>,
    /// Whose values are the states of the next chunk.
    states_out: Vec<NodeId>,
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
    /// Its nodes, each after those whose values it takes. The first is the input; in a chunk the states come behind it, or
    /// stand alone where nothing new goes in.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whose value comes out.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// The inputs that are states: what the chunk before has left, in the order of its [`Graph::states_out`].
    pub fn states_in(&self) -> &[NodeId] {
        &self.states_in
    }

    /// The nodes whose values the next chunk needs.
    pub fn states_out(&self) -> &[NodeId] {
        &self.states_out
    }

    /// Whether anything goes in besides states.
    pub fn takes_input(&self) -> bool {
        self.states_in.first() != Some(&0)
    }

    /// Whether a node's value comes out or is left for the next chunk.
    pub fn is_output(&self, id: NodeId) -> bool {
        id == self.output || self.states_out.contains(&id)
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
    /// the one that the first graph gives. Neither has states.
    pub(crate) fn split(&self, count: usize) -> Option<(Self, Self)> {
        let last = self.nodes.len().checked_sub(count + 1)?;
        let of = |nodes, output| Self {
            nodes,
            output,
            is_video: self.is_video,
            states_in: Vec::new(),
            states_out: Vec::new(),
        };
        let head = of(self.nodes[..=last].to_vec(), last);
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
        Some((head, of(tail, output)))
    }

    /// How often each node's value is taken; what comes out of the graph is taken once more, and so is a state.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        for &input in self.nodes.iter().flat_map(|node| &node.inputs) {
            uses[input] += 1;
        }
        for &output in self.states_out.iter().chain([&self.output]) {
            uses[output] += 1;
        }
        uses
    }

    /// Bytes of the values, in f32, that are there at once when node after node is run and each value is let go of after its
    /// last use. States are there from the beginning. `shapes` are those of [`Graph::shapes`].
    pub fn peak_bytes(&self, shapes: &[Shape]) -> usize {
        let mut uses = self.uses();
        let states = self.states_in.iter().map(|&id| shapes[id].bytes());
        let (mut live, mut peak) = (states.fold(0, usize::saturating_add), 0usize);
        for (id, node) in self.nodes.iter().enumerate() {
            if !self.states_in.contains(&id) {
                live = live.saturating_add(shapes[id].bytes());
            }
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
