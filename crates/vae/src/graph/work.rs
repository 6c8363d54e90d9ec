//! How much a node has to do, known from shapes alone.

use super::{Attention, Extent, Graph, NodeId, Op, Shape};

impl Graph {
    /// The multiply-adds of a node's definition, however many an algorithm makes: of convolutions, linear layers and
    /// attention; what is done to each value by itself does not count. It is the unit of progress, as equal numbers take
    /// roughly equal times. `shapes` are those of [`Graph::shapes`].
    pub fn multiply_adds(&self, id: NodeId, shapes: &[Shape]) -> usize {
        let node = &self.nodes[id];
        let positions = |shape: Shape| shape.with_channels(1).0.into_iter().fold(1, usize::saturating_mul);
        let per_position = match &node.op {
            Op::Conv(conv) => {
                let in_channels = self.nodes[node.inputs[0]].channels / conv.groups;
                let taps = conv.kernel.into_iter().fold(1, usize::saturating_mul);
                in_channels.saturating_mul(conv.out_channels).saturating_mul(taps)
            }
            Op::Linear(linear) => self.nodes[node.inputs[0]].channels.saturating_mul(linear.out_channels),
            // The logits and the weighted sum.
            Op::Attention(attention) => (2 * node.channels).saturating_mul(seen(attention, shapes[id])),
            _ => return 0,
        };
        per_position.saturating_mul(positions(shapes[id]))
    }

    /// The multiply-adds of all nodes for an input of this shape; 0 for one that it cannot take.
    pub fn work(&self, input: Shape) -> usize {
        self.shapes(input).map_or(0, |shapes| self.work_of(&shapes))
    }

    /// The multiply-adds of all nodes for values of these shapes, which are those of [`Graph::shapes`].
    pub fn work_of(&self, shapes: &[Shape]) -> usize {
        (0..self.nodes.len()).map(|id| self.multiply_adds(id, shapes)).fold(0, usize::saturating_add)
    }
}

/// How many positions a position sees, in the mean.
fn seen(attention: &Attention, shape: Shape) -> usize {
    let [frames, height, width] = shape.space();
    let area = height.saturating_mul(width);
    match attention.extent {
        Extent::All => area.saturating_mul(frames),
        Extent::Frame => area,
        // Half of all pairs of frames, and each frame with itself.
        Extent::Causal => area.saturating_mul(frames.saturating_add(1)) / 2,
    }
}
