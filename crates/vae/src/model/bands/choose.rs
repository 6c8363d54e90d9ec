//! Whether work is cut in bands, and in which.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::batch;
use super::{Bands, axis};
use crate::Cut;
use crate::device::{Device, Mode, Weights};
use crate::graph::{Axis, Graph, Shape};

/// Without a limit, work is done in one piece where it takes no more than so many bytes, and in bands that are hardly more work
/// otherwise.
pub(in super::super) const WHOLE: usize = 1 << 30;

/// How much more work bands may be then.
const MORE_WORK: f64 = 1.05;

/// How many choices are remembered, with their plans.
const CHOICES: usize = 8;

/// Less of the work than this behind all that looks everywhere is not worth it.
const LEAST_SHARE: f64 = 0.3;

/// Whether cutting an input of this shape saves anything worth it: not where a node that looks everywhere comes late.
pub(in super::super) fn help(graph: &Graph, shapes: &[Shape]) -> bool {
    let axis = axis(shapes[graph.output()]);
    let last = graph.last_that_sees_all(axis).unwrap_or(0);
    let behind =
        (last..shapes.len()).map(|id| graph.multiply_adds(id, shapes)).fold(0, usize::saturating_add);
    behind as f64 >= LEAST_SHARE * graph.work_of(shapes) as f64
}

/// How an input with this output may be cut, what is least work first. `input` is that of one item.
fn cuts(input: Shape, output: Shape) -> Vec<Cut> {
    const BANDS: [usize; 12] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96];
    let height = output.axis(Axis::Height);
    // Rows of the output for each of the input, and the least that a band should have.
    let unit = (height / input.axis(Axis::Height).max(1)).max(1);
    let in_bands = |bands: usize| {
        let rows = height.div_ceil(bands).next_multiple_of(unit);
        (rows >= 2 * unit && rows < height).then(|| (height.div_ceil(rows), rows))
    };
    let bands = BANDS.into_iter().filter_map(in_bands);
    let mut cuts = Vec::new();
    if axis(output) == Axis::Height {
        cuts.extend(bands.map(|(bands, rows)| Cut { bands, rows, frames: None }));
    } else {
        let whole = (1, height);
        for (bands, rows) in [whole].into_iter().chain(bands.take(6)) {
            let frames = [16, 8, 4, 2, 1].into_iter().filter(|&frames| frames < output.axis(Axis::Frames));
            cuts.extend(frames.map(|frames| Cut { bands, rows, frames: Some(frames) }));
        }
    }
    cuts.dedup();
    cuts
}

/// Chooses the bands of a model's work.
pub(in super::super) struct Chooser {
    weights: Weights,
    /// The last choices.
    chosen: Mutex<Vec<(Case, Option<Arc<Bands>>)>>,
}

/// What a choice depends on: which graph by its address, the shape of what goes in, and how it is done.
type Case = (usize, Shape, Mode, Option<usize>);

/// What is to be chosen.
pub(in super::super) struct Choice<'a> {
    /// Of the graph's values, for one item.
    pub(in super::super) shapes: &'a [Shape],
    pub(in super::super) batch: usize,
    pub(in super::super) mode: Mode,
    /// Bytes that the work may take.
    pub(in super::super) memory: Option<usize>,
    /// Bytes that it takes in one piece, as many as can be counted where that cannot be.
    pub(in super::super) whole: usize,
}

impl Chooser {
    /// For the graphs of these weights.
    pub(in super::super) fn new(weights: Weights) -> Self {
        Self { weights, chosen: Mutex::default() }
    }

    /// The first bands that fit into the memory, or else those that need least; without a limit, of those that are hardly more
    /// work. `None` where the whole needs no more.
    pub(in super::super) fn choose(
        &self,
        device: &dyn Device,
        graph: &Arc<Graph>,
        choice: &Choice<'_>,
    ) -> Option<Arc<Bands>> {
        let &Choice { shapes, batch, mode, memory, whole } = choice;
        let (input, output) = (shapes[0], shapes[graph.output()]);
        let case = (Arc::as_ptr(graph).addr(), input.with_batch(batch), mode, memory);
        let chosen = || self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bands)) = chosen().iter().find(|(known, _)| *known == case) {
            return bands.clone();
        }
        let refused = device.limits().max_tensor_bytes;
        // With a limit, or where the whole cannot be, there is no choice.
        let most_work = match memory.is_none() && whole < usize::MAX {
            true => MORE_WORK * graph.work_of(shapes) as f64,
            false => f64::INFINITY,
        };
        let (mut least, mut best) = (whole, None);
        for cut in cuts(input, output) {
            // A cut that cannot be is none.
            let Ok(bands) = Bands::new(&self.weights, device, graph, input, mode, cut) else { continue };
            if bands.largest > refused || bands.work as f64 > most_work {
                continue;
            }
            let host = batch::memory(batch, 1, input.bytes(), output.bytes()).saturating_add(bands.host);
            let takes =
                bands.memory.map_or(bands.largest, |memory| memory.device.saturating_add(memory.host));
            let takes = takes.saturating_add(host);
            if takes < least {
                (least, best) = (takes, Some(Arc::new(bands)));
            }
            if takes <= memory.unwrap_or(WHOLE) {
                break;
            }
        }
        let mut chosen = chosen();
        chosen.truncate(CHOICES - 1);
        chosen.insert(0, (case, best.clone()));
        best
    }
}
