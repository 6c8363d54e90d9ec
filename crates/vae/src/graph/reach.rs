//! How far nodes look: which part of the input some part of the output needs.

use std::ops::Range;

use super::{Attention, Axis, Extent, Graph, NodeId, Op, PadMode, Shape, Upsample};

/// Why a part of the output needs all of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Everywhere {
    /// The first node, from the output on, that looks everywhere along the axis.
    pub node: NodeId,
}

impl Graph {
    /// The positions of the input along an axis (frames, rows or columns) on which the positions `part` of the output depend.
    /// `shapes` are those of [`Graph::shapes`].
    ///
    /// # Errors
    /// A node that needs all of its input along this axis for any part of its output.
    pub fn needed(
        &self,
        axis: Axis,
        part: Range<usize>,
        shapes: &[Shape],
    ) -> Result<Range<usize>, Everywhere> {
        let mut needed: Vec<Option<Range<usize>>> = vec![None; self.nodes.len()];
        needed[self.output] = Some(part);
        for (id, node) in self.nodes.iter().enumerate().rev() {
            let Some(part) = needed[id].clone() else { continue };
            for (index, &input) in node.inputs.iter().enumerate() {
                let part = self.needed_of(id, index, axis, part.clone(), shapes);
                let part = part.ok_or(Everywhere { node: id })?;
                if part.is_empty() {
                    continue;
                }
                let all = needed[input].take();
                needed[input] = Some(match all {
                    Some(all) => all.start.min(part.start)..all.end.max(part.end),
                    None => part,
                });
            }
        }
        Ok(needed[0].clone().unwrap_or(0..0))
    }

    /// The positions of a node's input of this index on which the positions `part` of its output depend; they may be none.
    /// `None` for all of them whatever the part.
    pub(super) fn needed_of(
        &self,
        id: NodeId,
        index: usize,
        axis: Axis,
        part: Range<usize>,
        shapes: &[Shape],
    ) -> Option<Range<usize>> {
        let node = &self.nodes[id];
        let length = shapes[node.inputs[index]].axis(axis);
        match &node.op {
            // Concatenated along this axis: only the inputs in which the part lies.
            Op::Concat(along) if *along == axis => {
                let before: usize = node.inputs[..index].iter().map(|&other| shapes[other].axis(axis)).sum();
                let inside = part.start.saturating_sub(before)..part.end.saturating_sub(before);
                Some(inside.start.min(length)..inside.end.min(length))
            }
            op => reach(op, axis, part, length),
        }
    }

    /// The last node that has to see all of its input along an axis: up to it, nothing can be done in chunks.
    pub fn last_that_sees_all(&self, axis: Axis) -> Option<NodeId> {
        (0..self.nodes.len()).rev().find(|&id| self.sees_all(id, axis))
    }

    /// Whether a node has to see all of its input along an axis before it can tell any of its output: it is told by the
    /// operation alone.
    pub(super) fn sees_all(&self, id: NodeId, axis: Axis) -> bool {
        match &self.nodes[id].op {
            Op::Attention(Attention { extent: Extent::Causal, .. }) => true,
            op => reach(op, axis, 0..1, 1).is_none(),
        }
    }
}

/// The positions of an input of this length on which the positions `part` of a node's output depend; `None` for all of them
/// whatever the part.
fn reach(op: &Op, axis: Axis, part: Range<usize>, length: usize) -> Option<Range<usize>> {
    let index = axis as usize - Axis::Frames as usize;
    let last = part.end - 1;
    let blocks = |factor: usize| Some(part.start / factor..last / factor + 1);
    match op {
        Op::GroupNorm { .. } => None,
        Op::Attention(Attention { extent, .. }) => match (extent, axis) {
            (Extent::Frame, Axis::Frames) => Some(part),
            (Extent::Causal, Axis::Frames) => Some(0..part.end),
            _ => None,
        },
        Op::Conv(conv) => {
            let (stride, pad) = (conv.stride[index], conv.pad[index]);
            let first = part.start * stride;
            let end = (last * stride + conv.kernel[index]).saturating_sub(pad.before);
            let (mut start, mut end) = (first.saturating_sub(pad.before), end.clamp(1, length));
            if pad.mode == PadMode::Reflect {
                // A position beyond a border stands for one as far inside of it.
                if first < pad.before {
                    end = end.max((pad.before - first + 1).min(length));
                }
                let beyond = (last * stride + conv.kernel[index]).saturating_sub(pad.before + length);
                if beyond > 0 {
                    start = start.min(length.saturating_sub(beyond + 1));
                }
            }
            Some(start.min(length - 1)..end)
        }
        Op::Upsample(Upsample { frames: true, .. }) if axis == Axis::Frames => {
            Some(part.start.div_ceil(2)..last.div_ceil(2) + 1)
        }
        Op::Upsample(Upsample { sides: true, .. }) if axis != Axis::Frames => blocks(2),
        Op::DepthToSpace(depth) => blocks(depth.factors[index]),
        Op::SpaceToDepth(depth) => {
            let factor = depth.factors[index];
            Some(part.start * factor..part.end * factor)
        }
        Op::Slice { axis: along, start, .. } if *along == axis => Some(part.start + start..part.end + start),
        Op::Repeat { axis: along, times, interleaved } if *along == axis => {
            if *interleaved {
                blocks(*times)
            } else {
                None
            }
        }
        _ => Some(part),
    }
}
