//! Which nodes of a graph one kernel does together.

mod attention;
mod kernel;

use kernels::Upsampling;

use crate::graph::{Activation, Extent, Graph, Node, NodeId, Op, Upsample};

pub(super) use kernel::{KernelNorm, axis, conv_of, kernel_activation, kernel_norm, pad_mode, shuffle};

/// Nodes that are done together; the value of the last one is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fused {
    /// Whose value is made.
    pub(super) output: NodeId,
    /// All nodes that are done, in rising order.
    pub(super) nodes: Vec<NodeId>,
    pub(super) kind: Kind,
}

/// What is done, with the nodes whose weights are needed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// `conv(upsample(activation(norm(x)))) + residual`, each part but the convolution if it is there. Linear layers are
    /// convolutions.
    Conv {
        x: NodeId,
        norm: Option<NodeId>,
        activation: Option<Activation>,
        upsampling: Upsampling,
        conv: NodeId,
        residual: Option<NodeId>,
    },
    /// A convolution without neighbours that uses up its input.
    Pointwise { x: NodeId, conv: NodeId },
    /// `x + to_out(attention(to_q(n), to_k(n), to_v(n)))` with `n = norm(x)`, in the memory of `x`.
    Attention(Attention),
    /// `activation(norm(x))`, in the memory of `x`.
    Apply { x: NodeId, norm: Option<NodeId>, activation: Option<Activation> },
    /// A node that works on each value by itself, in the memory of `x`.
    InPlace { x: NodeId, other: Option<NodeId> },
    /// A node that copies values to other positions.
    Copy,
    /// A node that no kernel does.
    Alone,
}

/// An attention block.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attention {
    pub(super) x: NodeId,
    pub(super) norm: Option<NodeId>,
    pub(super) projections: Projections,
    pub(super) to_out: NodeId,
    pub(super) heads: usize,
    pub(super) extent: Extent,
}

/// The layers before an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Projections {
    /// Of queries, keys and values.
    Separate([NodeId; 3]),
    /// One, whose output is queries, keys and values.
    Joint(NodeId),
}

impl Fused {
    /// The nodes whose values are taken.
    pub(super) fn inputs<'a>(&'a self, graph: &'a Graph) -> Vec<NodeId> {
        match &self.kind {
            Kind::Conv { x, residual: other, .. } | Kind::InPlace { x, other } => {
                [*x].into_iter().chain(*other).collect()
            }
            Kind::Pointwise { x, .. } | Kind::Attention(Attention { x, .. }) | Kind::Apply { x, .. } => {
                vec![*x]
            }
            Kind::Copy | Kind::Alone => graph.nodes()[self.output].inputs.clone(),
        }
    }
}

/// Cuts a graph into steps, in an order in which they can be done. Inputs are none of them.
pub(super) fn fuse(graph: &Graph) -> Vec<Fused> {
    let mut fusion = Fusion::new(graph);
    let mut steps = Vec::new();
    // From the end on, so that the last node of several is seen first.
    for output in (1..graph.nodes().len()).rev() {
        if fusion.is_taken[output] || matches!(graph.nodes()[output].op, Op::Input { .. }) {
            continue;
        }
        let (kind, mut nodes) = fusion
            .attention(output)
            .or_else(|| fusion.conv(output))
            .or_else(|| fusion.apply(output))
            .or_else(|| fusion.in_place(output))
            .or_else(|| fusion.copy(output))
            .unwrap_or((Kind::Alone, vec![output]));
        nodes.sort_unstable();
        for &node in &nodes {
            fusion.is_taken[node] = true;
        }
        steps.push(Fused { output, nodes, kind });
    }
    steps.reverse();
    steps
}

struct Fusion<'a> {
    graph: &'a Graph,
    uses: Vec<usize>,
    /// The nodes that take each value.
    users: Vec<Vec<NodeId>>,
    /// Whether each node is part of a step already.
    is_taken: Vec<bool>,
}

/// What is done to a value before it is read.
struct Before {
    x: NodeId,
    norm: Option<NodeId>,
    activation: Option<Activation>,
    nodes: Vec<NodeId>,
}

impl<'a> Fusion<'a> {
    fn new(graph: &'a Graph) -> Self {
        let count = graph.nodes().len();
        let mut users = vec![Vec::new(); count];
        for (id, node) in graph.nodes().iter().enumerate() {
            for &input in &node.inputs {
                users[input].push(id);
            }
        }
        Self { graph, uses: graph.uses(), users, is_taken: vec![false; count] }
    }

    /// Whether a step that makes the value of `output` may use up that of `id`: no later step takes it.
    fn is_last(&self, id: NodeId, output: NodeId) -> bool {
        !self.graph.is_output(id)
            && self.users[id].iter().all(|&user| user == output || user < output && !self.is_taken[user])
    }

    fn node(&self, id: NodeId) -> &'a Node {
        &self.graph.nodes()[id]
    }

    /// Whether the value of a node need not be there by itself: `uses` other nodes take it and nobody wants to see it.
    fn is_inner(&self, id: NodeId, uses: usize) -> bool {
        self.uses[id] == uses && self.node(id).stages.is_empty()
    }

    /// The activation and the norm of which `x` is the value, if only one node takes it.
    fn before(&self, mut x: NodeId) -> Before {
        let (mut norm, mut activation, mut nodes) = (None, None, Vec::new());
        if let Op::Activation(of_x) = self.node(x).op
            && self.is_inner(x, 1)
            && kernel_activation(of_x).is_some()
        {
            activation = Some(of_x);
            nodes.push(x);
            x = self.node(x).inputs[0];
        }
        if self.is_inner(x, 1) && kernel_norm(self.graph, x).is_some() {
            norm = Some(x);
            nodes.push(x);
            x = self.node(x).inputs[0];
        }
        Before { x, norm, activation, nodes }
    }

    fn conv(&self, output: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        let mut nodes = vec![output];
        let (conv_id, residual) = match (&self.node(output).op, self.node(output).inputs.as_slice()) {
            (Op::Conv(_) | Op::Linear(_), _) => (output, None),
            (Op::Add, &[a, b]) if a != b => {
                let sum = |conv: NodeId, residual: NodeId| {
                    let spec = conv_of(self.graph, conv)?;
                    // The kernel writes into the residual's memory. One of its own is made before the residual is.
                    (!spec.is_pointwise() && self.is_inner(conv, 1) && self.is_last(residual, output))
                        .then_some((conv, Some(residual)))
                };
                sum(a, b).or_else(|| sum(b, a))?
            }
            _ => return None,
        };
        let conv = conv_of(self.graph, conv_id)?;
        if conv_id != output {
            nodes.push(conv_id);
        }
        let mut x = self.node(conv_id).inputs[0];
        let mut upsampling = Upsampling::default();
        if let Op::Upsample(Upsample { frames, sides }) = self.node(x).op
            && self.is_inner(x, 1)
            && kernel::has_upsampled(&conv, frames, sides)
        {
            upsampling = Upsampling { time: frames, space: sides };
            nodes.push(x);
            x = self.node(x).inputs[0];
        }
        let Before { x, norm, activation, nodes: before } = self.before(x);
        nodes.extend(before);
        let still = upsampling == Upsampling::default();
        if conv.is_pointwise() && conv.groups == 1 && norm.is_none() && activation.is_none() && still {
            // By value, where nobody else needs it.
            if self.is_last(x, output) {
                return Some((Kind::Pointwise { x, conv: conv_id }, nodes));
            }
        }
        // Its memory is written while the input is read.
        if residual == Some(x) {
            return None;
        }
        Some((Kind::Conv { x, norm, activation, upsampling, conv: conv_id, residual }, nodes))
    }

    /// Norms and activations that no convolution takes over.
    fn apply(&self, output: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        if kernel_norm(self.graph, output).is_some() {
            let x = self.node(output).inputs[0];
            return Some((Kind::Apply { x, norm: Some(output), activation: None }, vec![output]));
        }
        let Op::Activation(activation) = self.node(output).op else { return None };
        kernel_activation(activation)?;
        let mut x = self.node(output).inputs[0];
        let (mut norm, mut nodes) = (None, vec![output]);
        if self.is_inner(x, 1) && kernel_norm(self.graph, x).is_some() {
            norm = Some(x);
            nodes.push(x);
            x = self.node(x).inputs[0];
        }
        Some((Kind::Apply { x, norm, activation: Some(activation) }, nodes))
    }

    fn in_place(&self, output: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        let kind = match (&self.node(output).op, self.node(output).inputs.as_slice()) {
            (
                Op::Affine { .. }
                | Op::Clamp { .. }
                | Op::ScaleShift
                | Op::Activation(Activation::Tanh { .. } | Activation::SwiGlu),
                &[x],
            ) => Kind::InPlace { x, other: None },
            // In the memory of the one that nobody needs afterwards, if there is one.
            (Op::Add | Op::Mul, &[a, b]) => match (self.is_last(a, output), self.is_last(b, output)) {
                (false, true) => Kind::InPlace { x: b, other: Some(a) },
                _ => Kind::InPlace { x: a, other: Some(b) },
            },
            _ => return None,
        };
        Some((kind, vec![output]))
    }

    fn copy(&self, output: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        let has_kernel = match &self.node(output).op {
            Op::Concat(_) | Op::Slice { .. } | Op::Repeat { .. } | Op::Upsample(_) => true,
            Op::DepthToSpace(blocks) | Op::SpaceToDepth(blocks) => {
                shuffle(*blocks).is_some() && (self.graph.is_video() || blocks.factors[0] == 1)
            }
            _ => false,
        };
        has_kernel.then(|| (Kind::Copy, vec![output]))
    }
}
