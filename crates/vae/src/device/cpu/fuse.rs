//! Which nodes of a graph one kernel does together.

use kernels::{Stride, Upsampling};

use crate::graph::{
    self, Activation, Conv, ConvWeight, Extent, Graph, Node, NodeId, Op, Pad, PadMode, Upsample,
};

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
    /// `conv(silu(norm(upsample(x)))) + residual`, each part but the convolution if it is there.
    Conv {
        x: NodeId,
        norm: Option<NodeId>,
        silu: bool,
        upsampling: Upsampling,
        conv: NodeId,
        residual: Option<NodeId>,
    },
    /// A convolution without neighbours that uses up its input.
    Pointwise { x: NodeId, conv: NodeId },
    /// `x + to_out(attention(to_q(n), to_k(n), to_v(n)))` with `n = norm(x)`, in the memory of `x`.
    Attention { x: NodeId, norm: NodeId, layers: [NodeId; 4] },
    /// A node that no kernel does.
    Alone,
}

impl Fused {
    /// The nodes whose values are taken.
    pub(super) fn inputs<'a>(&'a self, graph: &'a Graph) -> Vec<NodeId> {
        match &self.kind {
            Kind::Conv { x, residual, .. } => [*x].into_iter().chain(*residual).collect(),
            Kind::Pointwise { x, .. } | Kind::Attention { x, .. } => vec![*x],
            Kind::Alone => graph.nodes()[self.output].inputs.clone(),
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
        let (kind, mut nodes) =
            fusion.attention(output).or_else(|| fusion.conv(output)).unwrap_or((Kind::Alone, vec![output]));
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

    fn conv(&self, output: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        let mut nodes = vec![output];
        let (conv_id, residual) = match (&self.node(output).op, self.node(output).inputs.as_slice()) {
            (Op::Conv(_), _) => (output, None),
            (Op::Add, &[a, b]) if a != b => {
                let sum = |conv: NodeId, residual: NodeId| {
                    let spec = self.conv_of(conv)?;
                    // The kernel writes into the residual's memory. One of its own is made before the residual is.
                    (!spec.is_pointwise() && self.is_inner(conv, 1) && self.is_last(residual, output))
                        .then_some((conv, Some(residual)))
                };
                sum(a, b).or_else(|| sum(b, a))?
            }
            _ => return None,
        };
        let conv = self.conv_of(conv_id)?;
        if conv_id != output {
            nodes.push(conv_id);
        }
        let mut x = self.node(conv_id).inputs[0];
        if conv.is_pointwise() {
            let is_last = self.is_last(x, output);
            // By value, or as any other convolution, which there is none of over clips.
            return match (is_last, self.graph.is_video()) {
                (true, _) => Some((Kind::Pointwise { x, conv: conv_id }, nodes)),
                (false, true) => None,
                (false, false) => Some((
                    Kind::Conv {
                        x,
                        norm: None,
                        silu: false,
                        upsampling: Upsampling::default(),
                        conv: conv_id,
                        residual,
                    },
                    nodes,
                )),
            };
        }
        let mut upsampling = Upsampling::default();
        let (mut norm, mut silu) = (None, false);
        match &self.node(x).op {
            Op::Upsample(Upsample { frames, sides })
                if self.is_inner(x, 1) && self.has_upsampled(conv, *frames, residual) =>
            {
                upsampling = Upsampling { time: *frames, space: *sides };
                nodes.push(x);
                x = self.node(x).inputs[0];
            }
            _ => {
                if self.is_inner(x, 1) && self.node(x).op == Op::Activation(Activation::Silu) {
                    silu = true;
                    nodes.push(x);
                    x = self.node(x).inputs[0];
                }
                if self.is_inner(x, 1) && matches!(self.node(x).op, Op::GroupNorm { .. }) {
                    norm = Some(x);
                    nodes.push(x);
                    x = self.node(x).inputs[0];
                }
            }
        }
        // Its memory is written while the input is read.
        if residual == Some(x) {
            return None;
        }
        Some((Kind::Conv { x, norm, silu, upsampling, conv: conv_id, residual }, nodes))
    }

    /// The convolution that a node is, if there is a kernel for it.
    fn conv_of(&self, id: NodeId) -> Option<&'a Conv> {
        match &self.node(id).op {
            Op::Conv(conv) if has_kernel(conv, self.graph.is_video()) => Some(conv),
            _ => None,
        }
    }

    /// Whether there is a kernel for a convolution behind an upsampling.
    fn has_upsampled(&self, conv: &Conv, frames: bool, residual: Option<NodeId>) -> bool {
        if self.graph.is_video() {
            return conv.stride == [1; 3];
        }
        *conv == Conv { bias: conv.bias, weight: conv.weight, ..Conv::same_2d(conv.out_channels, 3) }
            && !frames
            && residual.is_none()
    }

    fn attention(&self, output: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        let (Op::Add, &[to_out, x]) = (&self.node(output).op, self.node(output).inputs.as_slice()) else {
            return None;
        };
        let layer = |id: NodeId| matches!(&self.node(id).op, Op::Linear(_)) && self.is_inner(id, 1);
        let attention = *self.node(to_out).inputs.first().filter(|_| layer(to_out))?;
        let Op::Attention(graph::Attention { heads: 1, extent }) = self.node(attention).op else {
            return None;
        };
        let expected = if self.graph.is_video() { Extent::Causal } else { Extent::All };
        let &[q, k, v] = self.node(attention).inputs.as_slice() else { return None };
        if extent != expected || !self.is_inner(attention, 1) || ![q, k, v].into_iter().all(layer) {
            return None;
        }
        let norm = self.node(q).inputs[0];
        let one_norm = [k, v].iter().all(|&id| self.node(id).inputs[0] == norm);
        let is_norm = matches!(self.node(norm).op, Op::GroupNorm { .. }) && self.is_inner(norm, 3);
        let channels = [q, k, v, to_out].iter().all(|&id| self.node(id).channels == self.node(x).channels);
        if !one_norm || !is_norm || self.node(norm).inputs[0] != x || !channels || !self.is_last(x, output) {
            return None;
        }
        let nodes = vec![output, to_out, attention, q, k, v, norm];
        Some((Kind::Attention { x, norm, layers: [q, k, v, to_out] }, nodes))
    }
}

/// Whether there is a kernel for a convolution.
fn has_kernel(conv: &Conv, is_video: bool) -> bool {
    if conv.groups != 1 {
        return false;
    }
    let [_, height, width] = conv.stride;
    if is_video {
        let same = Conv { bias: conv.bias, ..Conv::causal_3d(conv.out_channels, 3) };
        let strided = Conv { stride: conv.stride, ..same };
        return conv.weight == ConvWeight::Conv3d
            && (conv.is_pointwise()
                || *conv == strided
                    && height == width
                    && conv.stride.iter().all(|step| matches!(step, 1 | 2)));
    }
    let [_, rows, columns] = conv.pad;
    let zeros = |pad: Pad| pad.mode == PadMode::Zeros || pad.before + pad.after == 0;
    conv.weight != ConvWeight::Conv3d
        && matches!(conv.kernel, [1, 1, 1] | [1, 3, 3])
        && height == width
        && zeros(rows)
        && zeros(columns)
}

/// The stride of a convolution over a clip.
pub(super) fn stride(conv: &Conv) -> Stride {
    Stride { time: conv.stride[0], space: conv.stride[1] }
}
