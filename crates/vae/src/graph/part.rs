//! Rows of the output by themselves.

use std::ops::Range;

use super::stream::Cut;
use super::{Axis, Everywhere, Graph, Shape};

/// A graph that makes some rows of another's output, and nothing else.
#[derive(Clone, Debug)]
pub struct Part {
    /// From rows of the input to rows of the output.
    pub graph: Graph,
    /// Which rows of the input go in.
    pub input: Range<usize>,
}

impl Graph {
    /// The graph that makes the positions `output` along an axis, exactly as the whole has them. What it needs beyond its border
    /// it makes itself, so that parts do not depend on each other but have some work in common. `shapes` are those of
    /// [`Graph::shapes`] for the whole.
    ///
    /// # Errors
    /// None but those of [`Stream::new`](super::Stream::new).
    pub fn part(&self, axis: Axis, output: Range<usize>, shapes: &[Shape]) -> Result<Part, Everywhere> {
        let count = self.nodes.len();
        let whole = (0..count).map(|id| self.sees_all(id, axis)).collect();
        let cut = Cut { graph: self, axis, shapes, kept: vec![false; count], whole };
        let demand = cut.demand(output.clone(), &mut vec![0; count])?;
        let none = vec![0..0; count];
        let (graph, input) = cut.chunk(&demand, [&none, &none], output);
        Ok(Part { graph, input })
    }
}
