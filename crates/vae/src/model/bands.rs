//! An input that goes through a graph in bands of rows or a few frames at a time, with the same result as in one piece: what is
//! computed follows from the graph, and nothing is blended.
//!
//! A picture is made in bands from top to bottom. Between bands stay the rows at which the next one looks back, where the
//! picture changes its size; between those places the few rows that bands have in common are made twice. A clip is made frame
//! after frame, with the past that each convolution in time looks back at. Where the past of whole frames would be too much, it is
//! cut in bands first, which make what they need beyond their borders themselves.

mod choose;

use std::ops::Range;
use std::sync::Arc;

pub(super) use self::choose::{Choice, Chooser, WHOLE, help};
use super::progress::Progress;
use crate::device::{Device, Memory, Mode, Plan, States, Weights};
use crate::graph::{Activation, Axis, Graph, GraphError, NodeId, Op, Shape, Stream};
use crate::{Cut, DeviceError, HostTensor};

/// The plans for an input of one shape.
pub(super) struct Bands {
    parts: Vec<Part>,
    /// Along which chunks are.
    axis: Axis,
    output: Shape,
    /// What a run takes; `None` where the device cannot tell.
    pub(super) memory: Option<Memory>,
    /// Bytes of the host for what goes in and comes out of one chunk.
    pub(super) host: usize,
    /// Bytes of the largest value in f32.
    pub(super) largest: usize,
    /// Multiply-adds.
    pub(super) work: usize,
    pub(super) cut: Cut,
}

/// Rows of the output that are made by themselves.
struct Part {
    input: Range<usize>,
    output: Range<usize>,
    chunks: Arc<[Chunk]>,
}

struct Chunk {
    plan: Arc<dyn Plan>,
    input: Range<usize>,
    output: Range<usize>,
}

/// Fewer rows of a value than this in each band are made once and kept: with more it is cheaper to make those twice that
/// the bands have in common than to copy.
const FEW_ROWS: usize = 64;

/// What chunks are along: pictures are cut in rows, clips in time.
fn axis(output: Shape) -> Axis {
    if output.axis(Axis::Frames) > 1 { Axis::Frames } else { Axis::Height }
}

impl Bands {
    /// Plans for an item of this shape.
    pub(super) fn new(
        weights: &Weights,
        device: &dyn Device,
        graph: &Graph,
        input: Shape,
        mode: Mode,
        cut: Cut,
    ) -> Result<Self, DeviceError> {
        let shapes = graph.shapes(input)?;
        let output = shapes[graph.output()];
        let height = output.axis(Axis::Height);
        let mut this = Self {
            parts: Vec::new(),
            axis: axis(output),
            output,
            memory: None,
            host: 0,
            largest: 0,
            work: 0,
            cut,
        };
        if cut.frames.is_none() {
            let rows = 0..input.axis(Axis::Height);
            let chunks = this.chunks(weights, device, graph, input, mode)?;
            this.parts.push(Part { input: rows, output: 0..height, chunks });
            return Ok(this);
        }
        let mut known: Vec<(Graph, Arc<[Chunk]>, usize)> = Vec::new();
        for top in (0..height).step_by(cut.rows) {
            let rows = top..height.min(top + cut.rows);
            let part = graph.part(Axis::Height, rows.clone(), &shapes).map_err(|_| unordered())?;
            let of_part = input.with_axis(Axis::Height, part.input.len());
            let same = known.iter().find(|(graph, ..)| *graph == part.graph);
            let chunks = match same {
                Some((_, chunks, work)) => {
                    this.work = this.work.saturating_add(*work);
                    Arc::clone(chunks)
                }
                None => {
                    let before = this.work;
                    let chunks = this.chunks(weights, device, &part.graph, of_part, mode)?;
                    known.push((part.graph, Arc::clone(&chunks), this.work - before));
                    chunks
                }
            };
            this.host = this.host.max(of_part.bytes());
            this.parts.push(Part { input: part.input, output: rows, chunks });
        }
        Ok(this)
    }

    /// The chunks of a graph whose output has the whole's other axes; what they take is added up.
    fn chunks(
        &mut self,
        weights: &Weights,
        device: &dyn Device,
        graph: &Graph,
        input: Shape,
        mode: Mode,
    ) -> Result<Arc<[Chunk]>, DeviceError> {
        let shapes = graph.shapes(input)?;
        let length = shapes[graph.output()].axis(self.axis);
        let ends: Vec<usize> = match self.cut.frames {
            // The first frame of a clip stands for itself, as what is doubled in time has it.
            Some(frames) => (1..length).step_by(frames).chain([length]).collect(),
            None => (self.cut.rows..length).step_by(self.cut.rows).chain([length]).collect(),
        };
        let keeps = |id: NodeId| match self.axis {
            Axis::Frames => !is_cheap(&graph.nodes()[id].op),
            _ => keeps_rows(graph, id, &shapes, self.cut.rows),
        };
        let stream = Stream::new(graph, self.axis, &ends, &shapes, &keeps).map_err(|_| unordered())?;
        let mut plans: Vec<(Arc<Graph>, Arc<dyn Plan>)> = Vec::new();
        for graph in stream.graphs() {
            plans.push((Arc::clone(graph), Arc::from(device.prepare(graph, weights)?)));
        }
        let (mut chunks, mut states, mut held) = (Vec::new(), States::default(), Vec::new());
        let mut before = None;
        for chunk in stream.chunks {
            let found = plans.iter().find(|(graph, _)| Arc::ptr_eq(graph, &chunk.graph));
            let (graph, plan) = found.ok_or_else(|| DeviceError::Lost("a chunk has no plan".to_owned()))?;
            let part = (!chunk.input.is_empty()).then(|| input.with_axis(self.axis, chunk.input.len()));
            let shapes = graph.shapes_with(part, &held)?;
            let out = shapes[graph.output()];
            // The same again takes the same.
            let key = (Arc::as_ptr(graph), part, held.clone());
            if before.as_ref() != Some(&key) {
                let memory = plan.forecast_chunk(part, &mut states, mode)?;
                self.memory = match (self.memory, memory) {
                    (Some(a), Some(b)) => Some(Memory {
                        device: a.device.max(b.device),
                        host: a.host.max(b.host),
                        lean: b.lean,
                    }),
                    (a, b) => a.or(b),
                };
                let largest = shapes.iter().map(|shape| shape.bytes()).max();
                self.largest = self.largest.max(largest.unwrap_or(0));
            }
            before = Some(key);
            self.work = self.work.saturating_add(graph.work_of(&shapes));
            self.host = self.host.max(part.map_or(0, Shape::bytes).saturating_add(out.bytes()));
            held = graph.states_out().iter().map(|&id| shapes[id]).collect();
            chunks.push(Chunk { plan: Arc::clone(plan), input: chunk.input, output: chunk.output });
        }
        Ok(chunks.into())
    }

    /// Runs all of them on one item and puts what comes out together.
    pub(super) fn run(
        &self,
        input: &HostTensor,
        mode: Mode,
        progress: &mut Progress<'_>,
    ) -> Result<HostTensor, DeviceError> {
        let count: usize = self.output.0.iter().product();
        let mut data = Vec::new();
        let too_many = |_| DeviceError::OutOfMemory(self.output.bytes());
        data.try_reserve_exact(count).map_err(too_many)?;
        data.resize(count, 0.0);
        let mut output = HostTensor::new(self.output.0.to_vec(), data);
        for part in &self.parts {
            let rows = positions(input, Axis::Height, &part.input);
            let mut states = States::default();
            for Chunk { plan, input, output: at } in part.chunks.iter() {
                let x = (!input.is_empty()).then(|| positions(&rows, self.axis, input));
                let y = plan.run_chunk(x.as_ref(), &mut states, mode, progress)?;
                progress.end_piece();
                match self.axis {
                    Axis::Frames => write(&y, &mut output, at.start, part.output.start),
                    _ => write(&y, &mut output, 0, at.start),
                }
            }
        }
        Ok(output)
    }
}

/// No graph of a family is such, and a chunk of none needs what comes later.
fn unordered() -> GraphError {
    GraphError("a value is needed in another order than it can be made".to_owned())
}

/// Whether a node is done while others read its input, so that its value is not kept but made anew.
fn is_cheap(op: &Op) -> bool {
    match op {
        Op::Activation(activation) => !matches!(activation, Activation::SwiGlu),
        Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::ScaleShift | Op::Affine { .. } | Op::Clamp { .. } => {
            true
        }
        Op::Upsample(upsample) => !upsample.frames,
        _ => false,
    }
}

/// Whether the rows of a value that bands have in common are kept.
fn keeps_rows(graph: &Graph, id: NodeId, shapes: &[Shape], rows: usize) -> bool {
    let node = &graph.nodes()[id];
    let height = |id: NodeId| shapes[id].axis(Axis::Height);
    let grows = || {
        let mut users = graph.nodes().iter().enumerate().filter(|(_, user)| user.inputs.contains(&id));
        users.any(|(user, _)| height(user) > height(id))
    };
    let shrinks = || node.inputs.iter().any(|&input| height(input) > height(id));
    // Rows of this value in a band.
    let few = rows * height(id) / height(graph.output()).max(1) < FEW_ROWS;
    let is_sum = matches!(node.op, Op::Add);
    !is_cheap(&node.op) && (grows() || shrinks() || is_sum && few)
}

/// Some positions of a tensor `[N, C, F, H, W]` along an axis.
fn positions(x: &HostTensor, axis: Axis, at: &Range<usize>) -> HostTensor {
    let length = x.shape[axis as usize];
    if *at == (0..length) {
        return x.clone();
    }
    let inner: usize = x.shape[axis as usize + 1..].iter().product();
    let mut shape = x.shape.clone();
    shape[axis as usize] = at.len();
    let mut data = Vec::with_capacity(shape.iter().product());
    for line in x.data.chunks_exact(length * inner) {
        data.extend_from_slice(&line[at.start * inner..at.end * inner]);
    }
    HostTensor::new(shape, data)
}

/// Writes `x` into `y`, from this frame and row on.
fn write(x: &HostTensor, y: &mut HostTensor, frame: usize, row: usize) {
    let (&[_, _, frames, rows, width], &[_, _, all_frames, all_rows, _]) =
        (x.shape.as_slice(), y.shape.as_slice())
    else {
        return;
    };
    let size = rows * width;
    for (index, picture) in x.data.chunks_exact(size).enumerate() {
        let (plane, at) = (index / frames, index % frames);
        let start = ((plane * all_frames + frame + at) * all_rows + row) * width;
        y.data[start..][..size].copy_from_slice(picture);
    }
}
