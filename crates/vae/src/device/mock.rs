//! A device for tests that is all that a processor is not: it works on a thread of its own, reports what is done and not
//! what was enqueued, has a pool of memory of its own, is slow to hand out results, tells of errors late, and gets lost.
//!
//! What it computes is what [`Reference`](super::reference::Reference) computes, so that tests can compare.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::reference::{self, Value};
use super::{Device, Limits, Memory, Mode, Plan, States, Weights, shape_of};
use crate::graph::{Graph, Op, Shape};
use crate::{DeviceError, HostTensor, Observer};

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub struct MockOptions {
    /// Bytes of its pool of memory.
    pub memory: usize,
    /// Bytes that one tensor may have, if the pool has so many.
    pub largest: usize,
    /// How long each node takes besides.
    pub node: Duration,
    /// How long a result takes to come out.
    pub download: Duration,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

/// What goes wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device is lost behind this node, and stays lost until [`Mock::revive`].
    LostBehind(usize),
    /// All nodes are done, and then there is no memory for the result.
    LateOutOfMemory,
    /// All nodes are done, and then it shows that they were computed wrongly.
    LateNumerics,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            largest: usize::MAX,
            node: Duration::ZERO,
            download: Duration::ZERO,
            fault: None,
        }
    }
}

/// The device. Cloning shares it.
#[derive(Clone)]
pub struct Mock {
    options: MockOptions,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_lost: AtomicBool,
    /// Bytes of its pool that are in use, and the most that were.
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl Mock {
    /// A device that behaves so.
    pub fn new(options: MockOptions) -> Self {
        Self { options, state: Arc::default() }
    }

    /// Brings a device back that was lost.
    pub fn revive(&self) {
        self.state.is_lost.store(false, Ordering::SeqCst);
    }

    /// Bytes of its pool that are in use.
    pub fn used(&self) -> usize {
        self.state.used.load(Ordering::SeqCst)
    }
}

impl Device for Mock {
    fn describe(&self) -> String {
        format!("mock, {} bytes", self.options.memory)
    }

    fn limits(&self) -> Limits {
        let MockOptions { memory, largest, .. } = self.options;
        Limits { max_tensor_bytes: memory.min(largest), batch_positions: 16 * 16 }
    }

    fn prepare(&self, graph: &Arc<Graph>, weights: &Weights) -> Result<Box<dyn Plan>, DeviceError> {
        let weights = (0..graph.nodes().len()).map(|id| reference::node_weights(graph, id, weights));
        let weights = Arc::new(weights.collect::<Result<_, _>>()?);
        Ok(Box::new(MockPlan { device: self.clone(), graph: Arc::clone(graph), weights }))
    }

    fn peak_memory(&self) -> Option<usize> {
        Some(self.state.peak.load(Ordering::SeqCst))
    }

    fn begin_peak(&self) {
        self.state.peak.store(self.used(), Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct MockPlan {
    device: Mock,
    graph: Arc<Graph>,
    /// The tensors of each node.
    weights: Arc<Vec<Vec<Vec<f64>>>>,
}

/// A value in the device's memory.
struct Held {
    value: Value,
    bytes: usize,
    state: Arc<State>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state.used.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// What the device's thread tells.
enum Event {
    /// So many multiply-adds are done.
    Done(usize),
    /// This stage of the model put this out.
    Stage(usize, HostTensor),
    /// The end: what came out, and what is left for the next chunk.
    End(Result<(HostTensor, Vec<Held>), DeviceError>),
}

impl MockPlan {
    /// Puts a value into the device's memory.
    fn hold(&self, value: Value) -> Result<Held, DeviceError> {
        let state = Arc::clone(&self.device.state);
        let bytes = value.shape.bytes();
        let used = state.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let held = Held { value, bytes, state };
        if used > self.device.options.memory {
            return Err(DeviceError::OutOfMemory(bytes));
        }
        held.state.peak.fetch_max(used, Ordering::SeqCst);
        Ok(held)
    }

    /// The shapes of all values.
    fn shapes(&self, input: Option<&HostTensor>, states: &[Held]) -> Result<Vec<Shape>, DeviceError> {
        let states: Vec<Shape> = states.iter().map(|held| held.value.shape).collect();
        Ok(self.graph.shapes_with(input.map(shape_of).transpose()?, &states)?)
    }

    /// Runs all nodes on the device's thread.
    fn work(
        &self,
        input: Option<&HostTensor>,
        states: Vec<Held>,
        stages: &[bool],
        is_cancelled: &AtomicBool,
        events: &mpsc::Sender<Event>,
    ) -> Result<(HostTensor, Vec<Held>), DeviceError> {
        let MockOptions { node: delay, download, fault, .. } = self.device.options;
        let shapes = self.shapes(input, &states)?;
        let mut states = states.into_iter();
        let mut uses = self.graph.uses();
        let mut values: Vec<Option<Held>> = Vec::new();
        let mut done = 0usize;
        let lost = || DeviceError::Lost("a value is not there".to_owned());
        for (id, node) in self.graph.nodes().iter().enumerate() {
            if is_cancelled.load(Ordering::SeqCst) {
                return Err(DeviceError::Cancelled);
            }
            let held = match (&node.op, input) {
                (Op::Input { .. }, Some(input)) if id == 0 => self.hold(Value::of_host(input)?)?,
                (Op::Input { .. }, _) => states.next().ok_or_else(lost)?,
                _ => {
                    let inputs = node.inputs.iter().filter_map(|&id| values[id].as_ref());
                    let inputs: Vec<_> = inputs.map(|held| &held.value).collect();
                    let mut value = reference::eval(&node.op, &inputs, &self.weights[id], shapes[id]);
                    value.round();
                    self.hold(value)?
                }
            };
            std::thread::sleep(delay);
            if fault == Some(Fault::LostBehind(id)) {
                self.device.state.is_lost.store(true, Ordering::SeqCst);
                return Err(DeviceError::Lost(format!("the device was lost behind node {id}")));
            }
            for &input in &node.inputs {
                uses[input] -= 1;
                if uses[input] == 0 {
                    values[input] = None;
                }
            }
            done = done.saturating_add(self.graph.multiply_adds(id, &shapes));
            // Nobody listens any more where the run was cancelled.
            let _ = events.send(Event::Done(done));
            if stages[id] {
                let _ = events.send(Event::Stage(id, held.value.to_host()));
            }
            values.push(Some(held));
        }
        std::thread::sleep(download);
        match (fault, &values[self.graph.output()]) {
            (Some(Fault::LateOutOfMemory), _) => Err(DeviceError::OutOfMemory(shapes[0].bytes())),
            (Some(Fault::LateNumerics), _) => Err(DeviceError::Numerics("a checksum differs".to_owned())),
            (_, Some(held)) => {
                let output = held.value.to_host();
                let left = self.graph.states_out().iter().map(|&id| values[id].take().ok_or_else(lost));
                Ok((output, left.collect::<Result<_, _>>()?))
            }
            (_, None) => Err(lost()),
        }
    }
}

impl Plan for MockPlan {
    fn run_chunk(
        &self,
        input: Option<&HostTensor>,
        states: &mut States,
        _: Mode,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, DeviceError> {
        let before: Vec<Held> = states.take()?.unwrap_or_default();
        if self.device.state.is_lost.load(Ordering::SeqCst) {
            return Err(DeviceError::Lost("the device was lost before".to_owned()));
        }
        let total = self.graph.work_of(&self.shapes(input, &before)?);
        let stages: Vec<bool> = self
            .graph
            .nodes()
            .iter()
            .map(|node| node.stages.iter().any(|stage| observer.wants(stage)))
            .collect();
        let is_cancelled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (sender, events) = mpsc::channel();
            let (stages, is_cancelled) = (&stages, &is_cancelled);
            scope.spawn(move || {
                let result = self.work(input, before, stages, is_cancelled, &sender);
                let _ = sender.send(Event::End(result));
            });
            let mut cancelled = false;
            for event in events {
                match event {
                    Event::Done(done) if !cancelled => {
                        cancelled = observer.progress(done, total).is_err();
                        is_cancelled.store(cancelled, Ordering::SeqCst);
                    }
                    Event::Done(_) => {}
                    Event::Stage(id, value) => {
                        for stage in &self.graph.nodes()[id].stages {
                            if observer.wants(stage) {
                                observer.activation(stage, value.clone());
                            }
                        }
                    }
                    Event::End(_) if cancelled => return Err(DeviceError::Cancelled),
                    Event::End(result) => {
                        return result.map(|(output, left)| {
                            states.put(left);
                            output
                        });
                    }
                }
            }
            Err(DeviceError::Lost("the device's thread ended".to_owned()))
        })
    }

    fn forecast_chunk(
        &self,
        input: Option<Shape>,
        states: &mut States,
        mode: Mode,
    ) -> Result<Option<Memory>, DeviceError> {
        let (before, most): (Vec<Shape>, usize) = states.take()?.unwrap_or_default();
        let shapes = self.graph.shapes_with(input, &before)?;
        let device = most.max(self.graph.peak_bytes(&shapes));
        let left: Vec<Shape> = self.graph.states_out().iter().map(|&id| shapes[id]).collect();
        states.put((left, device));
        Ok(Some(Memory { device, host: 0, lean: mode.lean }))
    }
}
