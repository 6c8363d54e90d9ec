//! Attention blocks.

use super::{Attention, Fusion, Kind, Projections, conv_of, kernel_norm};
use crate::graph::{self, Axis, NodeId, Op};

impl Fusion<'_> {
    pub(super) fn attention(&self, output: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        let (Op::Add, &[a, b]) = (&self.node(output).op, self.node(output).inputs.as_slice()) else {
            return None;
        };
        self.block(output, a, b).or_else(|| self.block(output, b, a))
    }

    /// `to_out + x`, where `to_out` is of an attention over `x`.
    fn block(&self, output: NodeId, to_out: NodeId, x: NodeId) -> Option<(Kind, Vec<NodeId>)> {
        let channels = self.node(x).channels;
        let attention = self.layer(to_out, 1, channels)?;
        let Op::Attention(graph::Attention { heads, extent }) = self.node(attention).op else { return None };
        let &[q, k, v] = self.node(attention).inputs.as_slice() else { return None };
        if !self.is_inner(attention, 1) {
            return None;
        }
        let mut nodes = vec![output, to_out, attention, q, k, v];
        let (projections, normed) = match self.node(q).op {
            Op::Slice { .. } => {
                let all = self.node(q).inputs[0];
                for (index, slice) in [q, k, v].into_iter().enumerate() {
                    let Op::Slice { axis: Axis::Channels, start, end } = self.node(slice).op else {
                        return None;
                    };
                    let range = start..end.unwrap_or(3 * channels);
                    let is_part = range == (index * channels..(index + 1) * channels);
                    if !is_part || self.node(slice).inputs[0] != all || !self.is_inner(slice, 1) {
                        return None;
                    }
                }
                nodes.push(all);
                (Projections::Joint(all), self.layer(all, 3, 3 * channels)?)
            }
            _ => {
                let normed = self.layer(q, 1, channels)?;
                for layer in [k, v] {
                    if self.layer(layer, 1, channels)? != normed {
                        return None;
                    }
                }
                (Projections::Separate([q, k, v]), normed)
            }
        };
        let uses = if matches!(projections, Projections::Joint(_)) { 1 } else { 3 };
        let norm = (normed != x).then_some(normed);
        if let Some(norm) = norm {
            let of_x = self.node(norm).inputs.first() == Some(&x);
            if !of_x || !self.is_inner(norm, uses) || kernel_norm(self.graph, norm).is_none() {
                return None;
            }
            nodes.push(norm);
        }
        Some((Kind::Attention(Attention { x, norm, projections, to_out, heads, extent }), nodes))
    }

    /// The input of a layer without neighbours that makes so many channels and whose value `uses` nodes take.
    fn layer(&self, id: NodeId, uses: usize, channels: usize) -> Option<NodeId> {
        let conv = conv_of(self.graph, id)?;
        let fits = conv.is_pointwise() && conv.groups == 1 && conv.out_channels == channels;
        (fits && self.is_inner(id, uses)).then(|| self.node(id).inputs[0])
    }
}
