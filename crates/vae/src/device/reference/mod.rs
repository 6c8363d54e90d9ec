//! The device to compare others with: each node by itself, spelled out in plain loops, with sums in f64.
//!
//! It takes no short cut and shares no code with the fast devices, so that agreement means something. It is meant for
//! small models; a 512×512 picture of a real one takes it many minutes.

mod conv;
mod ops;

use std::sync::Arc;

pub(crate) use self::ops::eval;

use super::{Device, Limits, Memory, Mode, Plan, States, Weights, shape_of};
use crate::graph::{Graph, NodeId, Op, Shape};
use crate::observe::{Choice, LayerRun};
use crate::{DeviceError, HostTensor, Observer};

/// A device of plain loops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference {
    /// Whether values between nodes are f64; otherwise they are rounded to f32.
    pub exact: bool,
}

/// A value between nodes, in C order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub(crate) shape: Shape,
    pub(crate) data: Vec<f64>,
}

pub(crate) struct Interpreter {
    graph: Arc<Graph>,
    /// The tensors of each node, in the order of [`Graph::tensors`].
    weights: Vec<Vec<Vec<f64>>>,
    exact: bool,
}

impl Device for Reference {
    fn describe(&self) -> String {
        let values = if self.exact { ", f64" } else { "" };
        format!("reference, 1 thread{values}")
    }

    fn limits(&self) -> Limits {
        Limits { max_tensor_bytes: isize::MAX as usize, batch_positions: 64 * 64 }
    }

    fn prepare(&self, graph: &Arc<Graph>, weights: &Weights) -> Result<Box<dyn Plan>, DeviceError> {
        Ok(Box::new(Interpreter::new(graph, weights, self.exact)?))
    }
}

/// The tensors of a node, in the order of [`Graph::tensors`].
pub(crate) fn node_weights(
    graph: &Graph,
    id: NodeId,
    weights: &Weights,
) -> Result<Vec<Vec<f64>>, DeviceError> {
    let values = |weight: crate::Weight| weight.to_f32().into_iter().map(f64::from).collect();
    graph.tensors(id).iter().map(|tensor| weights.get(&tensor.name).map(values)).collect()
}

impl Interpreter {
    /// With values in f64 between nodes if `exact`.
    pub(crate) fn new(graph: &Arc<Graph>, weights: &Weights, exact: bool) -> Result<Self, DeviceError> {
        let of_node = |id: NodeId| node_weights(graph, id, weights);
        let weights = (0..graph.nodes().len()).map(of_node).collect::<Result<_, _>>()?;
        Ok(Self { graph: Arc::clone(graph), weights, exact })
    }

    /// The value that comes out, and those that the next chunk takes.
    pub(crate) fn evaluate(
        &self,
        input: Option<Value>,
        states: Vec<Value>,
        observer: &mut dyn Observer,
    ) -> Result<(Value, Vec<Value>), DeviceError> {
        let of_states: Vec<Shape> = states.iter().map(|value| value.shape).collect();
        let shapes = self.graph.shapes_with(input.as_ref().map(|value| value.shape), &of_states)?;
        let total = self.graph.work_of(&shapes);
        let mut uses = self.graph.uses();
        let mut given = input.into_iter().chain(states);
        let mut values: Vec<Option<Value>> = vec![None; shapes.len()];
        let mut done = 0usize;
        let lost = || DeviceError::Lost("a value is not there".to_owned());
        for (id, node) in self.graph.nodes().iter().enumerate() {
            let start = std::time::Instant::now();
            let mut value = if let Op::Input { .. } = node.op {
                given.next().ok_or_else(lost)?
            } else {
                let inputs: Vec<&Value> =
                    node.inputs.iter().filter_map(|&input| values[input].as_ref()).collect();
                eval(&node.op, &inputs, &self.weights[id], shapes[id])
            };
            if !self.exact {
                value.round();
            }
            let work = self.graph.multiply_adds(id, &shapes);
            if work > 0 && observer.wants_layers() {
                observer.layer(LayerRun {
                    name: node.name.clone(),
                    input: shapes[node.inputs[0]].0.to_vec(),
                    output: shapes[id].0.to_vec(),
                    multiply_adds: work,
                    choice: Choice { algorithm: "as defined", reason: "this device takes no short cut" },
                    time: start.elapsed(),
                });
            }
            done = done.saturating_add(work);
            observer.progress(done, total)?;
            for stage in &node.stages {
                if observer.wants(stage) {
                    observer.activation(stage, value.to_host());
                }
            }
            for &input in &node.inputs {
                uses[input] -= 1;
                if uses[input] == 0 {
                    values[input] = None;
                }
            }
            values[id] = Some(value);
        }
        let states = self.graph.states_out().iter().map(|&id| values[id].clone().ok_or_else(lost));
        let states = states.collect::<Result<_, _>>()?;
        Ok((values.swap_remove(self.graph.output()).ok_or_else(lost)?, states))
    }
}

impl Plan for Interpreter {
    fn run_chunk(
        &self,
        input: Option<&HostTensor>,
        states: &mut States,
        _: Mode,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, DeviceError> {
        let input = input.map(Value::of_host).transpose()?;
        let (output, left) = self.evaluate(input, states.take()?.unwrap_or_default(), observer)?;
        states.put(left);
        Ok(output.to_host())
    }

    fn forecast_chunk(
        &self,
        _: Option<Shape>,
        _: &mut States,
        _: Mode,
    ) -> Result<Option<Memory>, DeviceError> {
        Ok(None)
    }
}

impl Value {
    pub(crate) fn of_host(tensor: &HostTensor) -> Result<Self, DeviceError> {
        let data = tensor.data.iter().map(|&x| f64::from(x)).collect();
        Ok(Self { shape: shape_of(tensor)?, data })
    }

    pub(crate) fn to_host(&self) -> HostTensor {
        HostTensor::new(self.shape.0.to_vec(), self.data.iter().map(|&x| x as f32).collect())
    }

    /// Brings every value to the nearest f32.
    pub(crate) fn round(&mut self) {
        for x in &mut self.data {
            *x = f64::from(*x as f32);
        }
    }

    /// Positions of each channel.
    fn positions(&self) -> usize {
        self.shape.space().into_iter().product()
    }

    /// The values of one channel of one item, over all its positions.
    fn plane(&self, item: usize, channel: usize) -> &[f64] {
        let size = self.positions();
        &self.data[(item * self.shape.channels() + channel) * size..][..size]
    }

    /// A value of this shape, with `plane(item, channel)` for each of its planes.
    fn of_planes(shape: Shape, mut plane: impl FnMut(usize, usize) -> Vec<f64>) -> Self {
        let mut data = Vec::new();
        for item in 0..shape.batch() {
            for channel in 0..shape.channels() {
                data.extend(plane(item, channel));
            }
        }
        Self { shape, data }
    }

    /// A value of this shape, with `at([n, c, f, h, w])` at each position.
    fn of_positions(shape: Shape, at: impl Fn([usize; 5]) -> f64) -> Self {
        let [batch, channels, frames, height, width] = shape.0;
        let mut data = Vec::with_capacity(batch * channels * frames * height * width);
        for n in 0..batch {
            for c in 0..channels {
                for f in 0..frames {
                    for h in 0..height {
                        data.extend((0..width).map(|w| at([n, c, f, h, w])));
                    }
                }
            }
        }
        Self { shape, data }
    }

    fn at(&self, [n, c, f, h, w]: [usize; 5]) -> f64 {
        let [_, channels, frames, height, width] = self.shape.0;
        self.data[(((n * channels + c) * frames + f) * height + h) * width + w]
    }
}
