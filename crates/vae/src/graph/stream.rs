//! A graph in chunks along an axis, one after the other, with exactly the result of the whole.
//!
//! A chunk makes some rows, or some frames, of the output. From the output backwards it is known which positions of each
//! value that takes. A *kept* value is made once: what of it later chunks look back at goes on to them as a state. All other
//! values are made anew where chunks overlap. A node that looks everywhere, such as a group norm, makes all of its value in
//! the first chunk. So nothing is blended, and a graph whose last node looks everywhere does all of its work in one chunk.

mod chunk;

use std::ops::Range;
use std::sync::Arc;

use super::{Axis, Conv, Everywhere, Graph, NodeId, Op, PadMode, Shape};

/// The chunks of a graph.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Along which axis: rows or frames.
    pub axis: Axis,
    /// In their order; each takes the states that the one before has left.
    pub chunks: Vec<Chunk>,
}

/// A part of the work.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// What is computed. Chunks that compute the same share one graph.
    pub graph: Arc<Graph>,
    /// The positions of the input that go in; none where states are enough.
    pub input: Range<usize>,
    /// The positions of the output that come out.
    pub output: Range<usize>,
}

impl Stream {
    /// Cuts a graph so that each chunk makes the output up to the next of `ends`, which rise to the output's length. `shapes`
    /// are those of [`Graph::shapes`] for the whole; other lengths of the other axes do as well. `keeps` says whose values are
    /// kept, besides those of nodes that look everywhere.
    ///
    /// # Errors
    /// A node whose value is needed in another order than it is made.
    pub fn new(
        graph: &Graph,
        axis: Axis,
        ends: &[usize],
        shapes: &[Shape],
        keeps: &dyn Fn(NodeId) -> bool,
    ) -> Result<Self, Everywhere> {
        let mut whole = vec![false; graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            // What is little work behind such a value is done at once too, so that only the last of them is kept.
            let follows = match &node.op {
                Op::Linear(_) | Op::Add | Op::Mul => true,
                Op::Conv(conv) => conv.is_pointwise(),
                _ => false,
            };
            whole[id] = graph.sees_all(id, axis) || follows && node.inputs.iter().any(|&input| whole[input]);
        }
        let kept = (0..graph.nodes.len()).map(|id| match &graph.nodes[id].op {
            // The input comes from outside, parts and rows of values are the values themselves.
            Op::Input { .. } => false,
            Op::Slice { axis: along, .. } | Op::Concat(along) if *along == axis => false,
            Op::Conv(conv) if mirrors(conv, axis) => false,
            _ => whole[id] || keeps(id),
        });
        let kept = kept.collect();
        let cut = Cut { graph, axis, shapes, kept, whole };
        let starts = [0].into_iter().chain(ends.iter().copied());
        let parts: Vec<Range<usize>> = starts.zip(ends).map(|(start, &end)| start..end).collect();
        let mut demands = Vec::with_capacity(parts.len());
        let mut made = vec![0; graph.nodes.len()];
        for part in &parts {
            demands.push(cut.demand(part.clone(), &mut made)?);
        }
        let held = cut.held(&demands)?;
        let mut chunks: Vec<Chunk> = Vec::with_capacity(parts.len());
        for (index, output) in parts.into_iter().enumerate() {
            let (graph, input) = cut.chunk(&demands[index], [&held[index], &held[index + 1]], output.clone());
            let same = chunks.iter().map(|chunk| &chunk.graph).find(|other| ***other == graph);
            let graph = same.map_or_else(|| Arc::new(graph), Arc::clone);
            chunks.push(Chunk { graph, input, output });
        }
        Ok(Self { axis, chunks })
    }

    /// The graphs of its chunks, each once.
    pub fn graphs(&self) -> impl Iterator<Item = &Arc<Graph>> {
        let graph = |index: usize| &self.chunks[index].graph;
        let first = move |index: usize| (0..index).all(|before| !Arc::ptr_eq(graph(before), graph(index)));
        (0..self.chunks.len()).filter(move |&index| first(index)).map(graph)
    }
}

/// What is cut, and how.
pub(super) struct Cut<'a> {
    pub(super) graph: &'a Graph,
    pub(super) axis: Axis,
    pub(super) shapes: &'a [Shape],
    /// The nodes whose values are made once.
    pub(super) kept: Vec<bool>,
    /// The nodes of whose values all is made at once.
    pub(super) whole: Vec<bool>,
}

/// What a chunk takes, for each node.
pub(super) struct Demand {
    /// The positions that others take; empty for none.
    needed: Vec<Range<usize>>,
    /// Those of them that the chunk makes.
    made: Vec<Range<usize>>,
}

fn hull(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

impl Cut<'_> {
    fn length(&self, id: NodeId) -> usize {
        self.shapes[id].axis(self.axis)
    }

    /// What of a node's input of this index it takes to make `part` of its value.
    fn needed_of(&self, id: NodeId, index: usize, part: &Range<usize>) -> Range<usize> {
        let all = 0..self.length(self.graph.nodes[id].inputs[index]);
        if self.graph.sees_all(id, self.axis) {
            return all;
        }
        self.graph.needed_of(id, index, self.axis, part.clone(), self.shapes).unwrap_or(all)
    }

    /// What it takes to make `part` of the output. `made` is how far each kept value has been made, before and afterwards.
    pub(super) fn demand(&self, part: Range<usize>, made: &mut [usize]) -> Result<Demand, Everywhere> {
        let count = self.graph.nodes.len();
        let mut demand = Demand { needed: vec![0..0; count], made: vec![0..0; count] };
        demand.needed[self.graph.output] = part;
        for id in (0..count).rev() {
            let needed = demand.needed[id].clone();
            if needed.is_empty() {
                continue;
            }
            demand.made[id] = match (self.whole[id], self.kept[id]) {
                (true, _) => made[id]..self.length(id),
                (_, true) => needed.start.max(made[id])..needed.end.max(made[id]),
                _ => self.with_mirrors(id, needed),
            };
            let part = demand.made[id].clone();
            if part.is_empty() {
                continue;
            }
            if self.kept[id] {
                made[id] = part.end;
            }
            for (index, &input) in self.graph.nodes[id].inputs.iter().enumerate() {
                let wanted = self.needed_of(id, index, &part);
                demand.needed[input] = hull(&demand.needed[input], &wanted);
            }
        }
        Ok(demand)
    }

    /// For a convolution whose input is reflected at its ends, as many positions more that what they look at is a range that
    /// the convolution makes nothing else of.
    fn with_mirrors(&self, id: NodeId, mut part: Range<usize>) -> Range<usize> {
        let Op::Conv(conv) = &self.graph.nodes[id].op else { return part };
        if !mirrors(conv, self.axis) {
            return part;
        }
        let index = self.axis as usize - Axis::Frames as usize;
        let (stride, pad) = (conv.stride[index], conv.pad[index]);
        loop {
            let wanted = self.needed_of(id, 0, &part);
            let last = ((part.end - 1) * stride + conv.kernel[index]).saturating_sub(pad.before);
            if wanted.start < (part.start * stride).saturating_sub(pad.before) {
                part.start -= 1;
            } else if wanted.end > last {
                part.end += 1;
            } else {
                return part;
            }
        }
    }

    /// For each chunk the states that come in, as positions of each node's value, and at the end none.
    fn held(&self, demands: &[Demand]) -> Result<Vec<Vec<Range<usize>>>, Everywhere> {
        let count = self.graph.nodes.len();
        let mut held = vec![vec![0..0; count]; demands.len() + 1];
        for id in (0..count).filter(|&id| self.kept[id]) {
            // What has been made before each chunk, and from where on without a gap.
            let mut made = 0..0;
            for (index, demand) in demands.iter().enumerate() {
                let later = demands[index..].iter().map(|demand| &demand.needed[id]);
                if let Some(first) =
                    later.filter(|needed| !needed.is_empty()).map(|needed| needed.start).min()
                    && first < made.end
                {
                    if first < made.start {
                        return Err(Everywhere { node: id });
                    }
                    held[index][id] = first..made.end;
                    made.start = first;
                } else {
                    made.start = made.end;
                }
                let new = &demand.made[id];
                if !new.is_empty() {
                    made = if made.is_empty() || made.end != new.start {
                        new.clone()
                    } else {
                        made.start..new.end
                    };
                }
            }
        }
        Ok(held)
    }
}

/// Whether a convolution sees its input reflected at the ends of an axis: what is reflected has to be there.
fn mirrors(conv: &Conv, axis: Axis) -> bool {
    let pad = conv.pad[axis as usize - Axis::Frames as usize];
    pad.mode == PadMode::Reflect && pad.before + pad.after > 0
}
