//! A graph as a row of steps.

use std::sync::Arc;
use std::time::Instant;

use kernels::{Context, Storage};

use super::fuse::fuse;
use super::step::{Step, Taken};
use super::value::Value;
use crate::device::{Memory, Mode, Plan, States, Weights, shape_of};
use crate::graph::{Graph, NodeId, Shape};
use crate::observe::{LayerRun, Silent};
use crate::{DeviceError, HostTensor, Observer};

/// The steps of a graph, in order.
pub(super) struct CpuPlan {
    context: Context,
    graph: Arc<Graph>,
    steps: Vec<Step>,
    /// The last step that takes each node's value; none for values that come out or are left for the next chunk.
    last_use: Vec<Option<usize>>,
}

impl CpuPlan {
    pub(super) fn new(context: &Context, graph: &Arc<Graph>, weights: &Weights) -> Result<Self, DeviceError> {
        let steps: Vec<Step> = fuse(graph)
            .into_iter()
            .map(|fused| Step::new(graph, fused, weights))
            .collect::<Result<_, _>>()?;
        let mut last_use = vec![None; graph.nodes().len()];
        for (index, step) in steps.iter().enumerate() {
            for &input in &step.inputs {
                last_use[input] = Some(index);
            }
        }
        for &id in graph.states_out().iter().chain([&graph.output()]) {
            last_use[id] = None;
        }
        Ok(Self { context: context.clone(), graph: Arc::clone(graph), steps, last_use })
    }

    fn context(&self, mode: Mode) -> Context {
        let storage = if mode.lean { Storage::F16 } else { self.context.storage };
        Context { storage, ..self.context.clone() }
    }

    /// Runs all steps on `input` and what the chunk before has left, and gives what comes out and what is left.
    fn run_on(
        &self,
        context: &Context,
        input: Option<&HostTensor>,
        states: Vec<Value>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, DeviceError> {
        let of_states: Vec<Shape> = states.iter().map(Value::shape).collect();
        let shapes = self.graph.shapes_with(input.map(shape_of).transpose()?, &of_states)?;
        let total = self.graph.work_of(&shapes);
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize_with(shapes.len(), || None);
        for (&id, state) in self.graph.states_in().iter().zip(states) {
            values[id] = Some(state);
        }
        if let Some(input) = input {
            values[0] = Some(Value::upload(context, self.graph.is_video(), input)?);
        }
        let mut done = 0usize;
        for (index, step) in self.steps.iter().enumerate() {
            let work = step.fused.nodes.iter().map(|&id| self.graph.multiply_adds(id, &shapes));
            let work = work.fold(0, usize::saturating_add);
            // A value that a step takes twice stays where it is meanwhile.
            let once = |id: NodeId| step.inputs.iter().filter(|&&other| other == id).count() == 1;
            let mut taken: Vec<Option<Value>> = step
                .inputs
                .iter()
                .map(
                    |&id| if self.last_use[id] == Some(index) && once(id) { values[id].take() } else { None },
                )
                .collect();
            let mut inputs = Vec::with_capacity(taken.len());
            for (&id, taken) in step.inputs.iter().zip(&mut taken) {
                inputs.push(match (taken.take(), &values[id]) {
                    (Some(value), _) => Taken::Owned(value),
                    (None, Some(value)) => Taken::Borrowed(value),
                    (None, None) => {
                        return Err(DeviceError::Lost(format!("{} without its input", step.name)));
                    }
                });
            }
            let (output, first) = (step.fused.output, step.inputs[0]);
            let layer =
                observer.wants_layers().then(|| (step.explain(context, inputs[0].value()), Instant::now()));
            let y = step.run(context, inputs, shapes[output], &mut |share: f64| {
                let part = (work as f64 * share.clamp(0.0, 1.0)) as usize;
                observer.progress(done.saturating_add(part.min(work)), total)
            })?;
            if let Some((choice, start)) = layer {
                observer.layer(LayerRun {
                    name: step.name.clone(),
                    input: shapes[first].0.to_vec(),
                    output: shapes[output].0.to_vec(),
                    multiply_adds: work,
                    choice,
                    time: start.elapsed(),
                });
            }
            done = done.saturating_add(work);
            observer.progress(done, total)?;
            for stage in &self.graph.nodes()[output].stages {
                if observer.wants(stage) {
                    observer.activation(stage, y.download());
                }
            }
            for &id in step.inputs.iter().filter(|&&id| self.last_use[id] == Some(index)) {
                values[id] = None;
            }
            values[output] = Some(y);
        }
        Ok(values)
    }

    /// The values that the next chunk takes.
    fn left(&self, mut outcome: Outcome) -> Result<Vec<Value>, DeviceError> {
        let taken = self.graph.states_out().iter().map(|&id| outcome[id].take());
        taken.map(|value| value.ok_or_else(lost)).collect()
    }
}

/// The values that are there when all steps are done: what comes out and what is left.
type Outcome = Vec<Option<Value>>;

fn lost() -> DeviceError {
    DeviceError::Lost("a value is not there".to_owned())
}

/// What a forecast of a chunk leaves for that of the next.
struct Rehearsed {
    context: Context,
    values: Vec<Value>,
    /// The most of the host's memory that a chunk took.
    host: usize,
}

impl Plan for CpuPlan {
    fn run_chunk(
        &self,
        input: Option<&HostTensor>,
        states: &mut States,
        mode: Mode,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, DeviceError> {
        let before = states.take()?.unwrap_or_default();
        let outcome = self.run_on(&self.context(mode), input, before, observer)?;
        let output = outcome[self.graph.output()].as_ref().ok_or_else(lost)?.download();
        states.put(self.left(outcome)?);
        Ok(output)
    }

    fn forecast_chunk(
        &self,
        input: Option<Shape>,
        states: &mut States,
        mode: Mode,
    ) -> Result<Option<Memory>, DeviceError> {
        let before = states.take()?.unwrap_or_else(|| Rehearsed {
            context: self.context(mode).rehearsal(),
            values: Vec::new(),
            host: 0,
        });
        let Rehearsed { context, values, host } = before;
        let of_states: Vec<Shape> = values.iter().map(Value::shape).collect();
        let shapes = self.graph.shapes_with(input, &of_states)?;
        // Zeros that nobody looks at take no memory.
        let zeros = |shape: Shape| HostTensor::new(shape.0.to_vec(), vec![0.0; shape.0.iter().product()]);
        let outcome = self.run_on(&context, input.map(zeros).as_ref(), values, &mut Silent)?;
        let left = self.left(outcome)?;
        // The frames of a clip are copied once more on their way out.
        let copied = if self.graph.is_video() { shapes[self.graph.output()].bytes() } else { 0 };
        let alone = self.steps.iter().map(|step| step.host_memory(&shapes)).max().unwrap_or(0);
        let host = host.max(copied).max(alone);
        let memory = Memory { device: context.arena.peak(), host, lean: context.storage == Storage::F16 };
        states.put(Rehearsed { context, values: left, host });
        Ok(Some(memory))
    }
}
