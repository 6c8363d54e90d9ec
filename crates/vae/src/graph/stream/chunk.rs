//! The graph of one chunk, from what it takes of each value.

use std::ops::Range;

use super::super::{Axis, Conv, Graph, Node, NodeId, Op, Upsample};
use super::{Cut, Demand, mirrors};

/// A value in the graph of a chunk: some positions of a value of the whole, of which those at inner ends may be wrong where
/// nobody takes them.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    id: NodeId,
    at: Range<usize>,
}

impl Cut<'_> {
    /// The graph of a chunk with the states that come in and go out, and which positions of the input it takes.
    pub(in crate::graph) fn chunk(
        &self,
        demand: &Demand,
        [before, after]: [&[Range<usize>]; 2],
        output: Range<usize>,
    ) -> (Graph, Range<usize>) {
        let count = self.graph.nodes.len();
        let mut building =
            Building { cut: self, nodes: Vec::new(), full: vec![None; count], new: vec![None; count] };
        let input = demand.needed[0].clone();
        if !input.is_empty() {
            let id = building.add(&self.graph.nodes[0], self.graph.nodes[0].op.clone(), vec![]);
            building.full[0] = Some(Piece { id, at: input.clone() });
        }
        let mut states: Vec<Option<Piece>> = vec![None; count];
        let (mut states_in, mut states_out) = (Vec::new(), Vec::new());
        for (id, held) in before.iter().enumerate().filter(|(_, held)| !held.is_empty()) {
            let channels = self.graph.nodes[id].channels;
            let state = building.plain(Op::Input { channels }, vec![], channels);
            states_in.push(state);
            states[id] = Some(Piece { id: state, at: held.clone() });
        }
        for id in 1..count {
            let made = &demand.made[id];
            let new = (!made.is_empty()).then(|| building.compute(id, made));
            if !self.kept[id] {
                // Of what had to be made whole, the rest is not carried on.
                let needed = &demand.needed[id];
                building.full[id] =
                    new.map(|new| if self.whole[id] { building.cropped(new, needed) } else { new });
                continue;
            }
            let new = new.map(|new| building.cropped(new, made));
            let parts = [states[id].take(), new.clone()];
            // First what is left for later, so that the rest can be let go of.
            if !after[id].is_empty() {
                states_out.push(building.joined(&parts, &after[id]).id);
            }
            let needed = &demand.needed[id];
            if !needed.is_empty() {
                building.full[id] = Some(building.joined(&parts, needed));
            }
            building.new[id] = new;
        }
        let last = building.taken(self.graph.output, &output);
        let output = building.cropped(last, &output).id;
        let is_video = self.graph.is_video;
        (Graph { nodes: building.nodes, output, is_video, states_in, states_out }, input)
    }
}

/// The graph of a chunk on its way.
struct Building<'a> {
    cut: &'a Cut<'a>,
    nodes: Vec<Node>,
    /// What others take of each node's value.
    full: Vec<Option<Piece>>,
    /// What of each kept value this chunk has made.
    new: Vec<Option<Piece>>,
}

impl Building<'_> {
    /// Adds a node as it is in the whole, with another operation and other inputs.
    fn add(&mut self, node: &Node, op: Op, inputs: Vec<NodeId>) -> NodeId {
        self.nodes.push(Node { op, inputs, ..node.clone() });
        self.nodes.len() - 1
    }

    /// Adds a node that is not in the whole.
    fn plain(&mut self, op: Op, inputs: Vec<NodeId>, channels: usize) -> NodeId {
        self.nodes.push(Node { op, inputs, name: String::new(), stages: Vec::new(), channels });
        self.nodes.len() - 1
    }

    /// Some positions of a piece.
    fn cropped(&mut self, piece: Piece, at: &Range<usize>) -> Piece {
        if piece.at == *at {
            return piece;
        }
        let start = at.start - piece.at.start;
        // Without an end where there is none, so that pieces of other lengths have the same graph.
        let end = (at.end != piece.at.end).then_some(at.end - piece.at.start);
        let op = Op::Slice { axis: self.cut.axis, start, end };
        let channels = self.nodes[piece.id].channels;
        let same = self.nodes.iter().position(|node| node.op == op && node.inputs == [piece.id]);
        let id = same.unwrap_or_else(|| self.plain(op, vec![piece.id], channels));
        Piece { id, at: at.clone() }
    }

    /// Some positions of what pieces have one behind the other.
    fn joined(&mut self, parts: &[Option<Piece>], at: &Range<usize>) -> Piece {
        let mut found = Vec::new();
        for part in parts.iter().flatten() {
            let inside = at.start.max(part.at.start)..at.end.min(part.at.end);
            if !inside.is_empty() {
                found.push(self.cropped(part.clone(), &inside));
            }
        }
        self.concatenated(found)
    }

    fn concatenated(&mut self, mut pieces: Vec<Piece>) -> Piece {
        if pieces.len() == 1 {
            return pieces.remove(0);
        }
        let op = Op::Concat(self.cut.axis);
        let inputs: Vec<NodeId> = pieces.iter().map(|piece| piece.id).collect();
        let channels = self.nodes[inputs[0]].channels;
        let at = pieces[0].at.start..pieces[pieces.len() - 1].at.end;
        let same = self.nodes.iter().position(|node| node.op == op && node.inputs == inputs);
        Piece { id: same.unwrap_or_else(|| self.plain(op, inputs, channels)), at }
    }

    /// A piece that has these positions of a node's value, and perhaps more.
    fn taken(&self, id: NodeId, at: &Range<usize>) -> Piece {
        let has = |piece: &&Piece| piece.at.start <= at.start && at.end <= piece.at.end;
        let both = [&self.new[id], &self.full[id]].into_iter().flatten().filter(has);
        both.min_by_key(|piece| piece.at.len()).expect("what is needed was demanded").clone()
    }

    /// Makes a node's value at the positions `made`, and perhaps at more.
    fn compute(&mut self, id: NodeId, made: &Range<usize>) -> Piece {
        let (cut, axis) = (self.cut, self.cut.axis);
        let node = &cut.graph.nodes[id];
        let wanted: Vec<Range<usize>> =
            (0..node.inputs.len()).map(|index| cut.needed_of(id, index, made)).collect();
        let index = axis as usize - Axis::Frames as usize;
        if matches!(node.op, Op::Concat(along) if along == axis) {
            let mut pieces = Vec::new();
            for (&input, wanted) in node.inputs.iter().zip(&wanted) {
                if !wanted.is_empty() {
                    let piece = self.taken(input, wanted);
                    pieces.push(self.cropped(piece, wanted));
                }
            }
            return Piece { id: self.concatenated(pieces).id, at: made.clone() };
        }
        // All inputs have the same positions.
        let mut pieces: Vec<Piece> =
            node.inputs.iter().zip(&wanted).map(|(&input, wanted)| self.taken(input, wanted)).collect();
        let start = pieces.iter().map(|piece| piece.at.start).max().unwrap_or(0);
        let end = pieces.iter().map(|piece| piece.at.end).min().unwrap_or(0);
        let exact = match &node.op {
            Op::Conv(conv) => !keeps_its_size(conv, axis, index),
            Op::SpaceToDepth(blocks) => blocks.factors[index] > 1,
            Op::Upsample(upsample) => upsample.frames && axis == Axis::Frames,
            Op::Slice { axis: along, .. } => *along == axis,
            _ => false,
        };
        let at = if exact { wanted[0].clone() } else { start..end };
        for piece in &mut pieces {
            *piece = self.cropped(piece.clone(), &at);
        }
        let inputs: Vec<NodeId> = pieces.iter().map(|piece| piece.id).collect();
        let times = |factor: usize| at.start * factor..at.end * factor;
        let (op, out) = match &node.op {
            // The value itself.
            Op::Slice { axis: along, .. } if *along == axis => {
                return Piece { id: inputs[0], at: made.clone() };
            }
            Op::Conv(conv) if exact => {
                let mut conv = *conv;
                let (stride, pad) = (conv.stride[index], &mut conv.pad[index]);
                let end = ((made.end - 1) * stride + conv.kernel[index]).saturating_sub(pad.before);
                pad.before = pad.before.saturating_sub(made.start * stride);
                pad.after = end.saturating_sub(cut.length(node.inputs[0]));
                (Op::Conv(conv), made.clone())
            }
            Op::SpaceToDepth(_) if exact => (node.op.clone(), made.clone()),
            // Only the first frame of all is there once.
            Op::Upsample(upsample) if exact && at.start > 0 => {
                let twice = Op::Repeat { axis, times: 2, interleaved: true };
                let out = 2 * at.start - 1..2 * at.end - 1;
                if !upsample.sides {
                    (twice, out)
                } else {
                    let sides = Upsample { frames: false, sides: true };
                    let wide = self.plain(Op::Upsample(sides), inputs, node.channels);
                    return Piece { id: self.add(node, twice, vec![wide]), at: out };
                }
            }
            Op::Upsample(_) if exact => (node.op.clone(), 0..2 * at.end - 1),
            Op::Upsample(upsample) if upsample.sides && axis != Axis::Frames => (node.op.clone(), times(2)),
            Op::DepthToSpace(blocks) => (node.op.clone(), times(blocks.factors[index])),
            Op::Repeat { axis: along, times: factor, interleaved: true } if *along == axis => {
                (node.op.clone(), times(*factor))
            }
            op => (op.clone(), if cut.graph.sees_all(id, axis) { 0..cut.length(id) } else { at.clone() }),
        };
        Piece { id: self.add(node, op, inputs), at: out }
    }
}

/// Whether a convolution is left as it is where its input ends inside of the whole: the few positions at such an end, which
/// come out wrong, are not taken. Kernels for convolutions that keep the size are the fastest. In time nothing is made
/// in vain.
fn keeps_its_size(conv: &Conv, axis: Axis, index: usize) -> bool {
    let pad = conv.pad[index];
    let same = conv.stride[index] == 1 && pad.before + pad.after + 1 == conv.kernel[index];
    same && !mirrors(conv, axis) && (axis != Axis::Frames || conv.kernel[index] == 1)
}
