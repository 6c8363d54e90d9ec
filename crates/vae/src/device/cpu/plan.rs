//! A graph as a row of steps.

use std::sync::Arc;
use std::time::Instant;

use kernels::{Context, Storage};

use super::fuse::fuse;
use super::step::{Step, Taken};
use super::value::Value;
use crate::device::{Memory, Mode, Plan, Weights, shape_of};
use crate::graph::{Graph, Shape};
use crate::observe::{LayerRun, Silent};
use crate::{DeviceError, HostTensor, Observer};

/// The steps of a graph, in order.
pub(super) struct CpuPlan {
    context: Context,
    graph: Arc<Graph>,
    steps: Vec<Step>,
    /// The last step that takes each node's value; none for the value that comes out.
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
        last_use[graph.output()] = None;
        Ok(Self { context: context.clone(), graph: Arc::clone(graph), steps, last_use })
    }

    fn context(&self, mode: Mode) -> Context {
        let storage = if mode.lean { Storage::F16 } else { self.context.storage };
        Context { storage, ..self.context.clone() }
    }

    /// Runs all steps on `input`.
    fn run_on(
        &self,
        context: &Context,
        input: &HostTensor,
        observer: &mut dyn Observer,
    ) -> Result<Value, DeviceError> {
        let shapes = self.graph.shapes(shape_of(input)?)?;
        let total = self.graph.work(shapes[0]);
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize_with(shapes.len(), || None);
        values[0] = Some(Value::upload(context, self.graph.is_video(), input)?);
        let mut done = 0usize;
        for (index, step) in self.steps.iter().enumerate() {
            let work = step.fused.nodes.iter().map(|&id| self.graph.multiply_adds(id, &shapes));
            let work = work.fold(0, usize::saturating_add);
            let mut taken: Vec<Option<Value>> = step
                .inputs
                .iter()
                .map(|&id| if self.last_use[id] == Some(index) { values[id].take() } else { None })
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
            values[output] = Some(y);
        }
        let output = values.swap_remove(self.graph.output());
        output.ok_or_else(|| DeviceError::Lost("no value came out".to_owned()))
    }
}

impl Plan for CpuPlan {
    fn run(
        &self,
        input: &HostTensor,
        mode: Mode,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, DeviceError> {
        Ok(self.run_on(&self.context(mode), input, observer)?.download())
    }

    fn forecast(&self, input: Shape, mode: Mode) -> Result<Option<Memory>, DeviceError> {
        let shapes = self.graph.shapes(input)?;
        let context = self.context(mode).rehearsal();
        // Zeros that nobody looks at take no memory.
        let values = HostTensor::new(input.0.to_vec(), vec![0.0; input.0.iter().product()]);
        let output = self.run_on(&context, &values, &mut Silent)?;
        drop(output);
        // The frames of a clip are copied once more on their way out.
        let copied = if self.graph.is_video() { shapes[self.graph.output()].bytes() } else { 0 };
        let alone = self.steps.iter().map(|step| step.host_memory(&shapes)).max().unwrap_or(0);
        Ok(Some(Memory {
            device: context.arena.peak(),
            host: copied.max(alone),
            lean: context.storage == Storage::F16,
        }))
    }
}
