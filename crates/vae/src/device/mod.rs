//! The seam between graphs and the hardware that runs them.
//!
//! A [`Device`] prepares a graph with its weights and gives a [`Plan`], which runs it. Tensors on the way are the device's
//! own: it keeps them in whatever layout, precision and memory it likes, and takes several nodes in one step where it can.

pub mod cpu;
pub mod mock;
pub mod reference;

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use crate::graph::{Graph, GraphError, Shape};
use crate::{DeviceError, HostTensor, Observer, Weight};

/// Hardware that runs graphs.
pub trait Device: Send + Sync {
    /// For people: the device, its instruction set, its threads.
    fn describe(&self) -> String;
    /// What fits.
    fn limits(&self) -> Limits;
    /// Prepares a graph. Of `weights` it takes those that [`Graph::tensors`] names; their shapes have been checked.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] for a node that it cannot run, or what else fails.
    fn prepare(&self, graph: &Arc<Graph>, weights: &Weights) -> Result<Box<dyn Plan>, DeviceError>;
    /// Gives back memory kept from earlier work.
    fn release(&self) {}
    /// Has memory for work of so many bytes at hand, if there is so much, so that the work need not wait for it.
    fn reserve(&self, _bytes: usize) {}
    /// The most bytes of memory that were in use at once since [`Device::begin_peak`]; `None` where that is not known.
    fn peak_memory(&self) -> Option<usize> {
        None
    }
    /// Lets [`Device::peak_memory`] begin anew.
    fn begin_peak(&self) {}
}

/// A graph that a device is ready to run.
pub trait Plan: Send + Sync {
    /// Runs it on `input`, `[N, C, F, H, W]`, and gives what comes out. `observer` is told of progress while work is done, not
    /// when it is enqueued: multiply-adds ([`Graph::multiply_adds`]) that are done, of all that there are for this input.
    ///
    /// # Errors
    /// An input that it cannot take, [`DeviceError::Cancelled`] when the observer cancels, or what the device fails with.
    fn run(
        &self,
        input: &HostTensor,
        mode: Mode,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, DeviceError> {
        self.run_chunk(Some(input), &mut States::default(), mode, observer)
    }

    /// The same for a chunk of a [`Stream`](crate::graph::Stream): it takes the states that the chunk before has left, and leaves
    /// those of the next one in their place. There is no input where nothing goes in besides them.
    ///
    /// # Errors
    /// As for [`Plan::run`]; the states are gone then.
    fn run_chunk(
        &self,
        input: Option<&HostTensor>,
        states: &mut States,
        mode: Mode,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, DeviceError>;

    /// What [`Plan::run`] would take; `None` where that cannot be known. Takes milliseconds and hardly any memory.
    ///
    /// # Errors
    /// As for [`Plan::run`].
    fn forecast(&self, input: Shape, mode: Mode) -> Result<Option<Memory>, DeviceError> {
        self.forecast_chunk(Some(input), &mut States::default(), mode)
    }

    /// What [`Plan::run_chunk`] would take, of this chunk and of those before it. The states are those of their forecasts.
    ///
    /// # Errors
    /// As for [`Plan::run_chunk`].
    fn forecast_chunk(
        &self,
        input: Option<Shape>,
        states: &mut States,
        mode: Mode,
    ) -> Result<Option<Memory>, DeviceError>;
}

/// What a chunk of a stream leaves on its device for the next one. Before the first there is nothing.
#[derive(Default)]
pub struct States(Option<Box<dyn Any + Send>>);

impl States {
    /// Takes out what a device has put in; `None` before the first chunk.
    ///
    /// # Errors
    /// What is in here is another device's.
    pub(crate) fn take<T: Any>(&mut self) -> Result<Option<T>, DeviceError> {
        let Some(states) = self.0.take() else { return Ok(None) };
        let states = states.downcast::<T>().map(|states| Some(*states));
        states.map_err(|_| DeviceError::Lost("the states of a chunk are another device's".to_owned()))
    }

    /// Puts in what the next chunk takes.
    pub(crate) fn put<T: Any + Send>(&mut self, states: T) {
        self.0 = Some(Box::new(states));
    }
}

/// How a plan is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Values take half of the memory between layers and are rounded for it, if the device can do that.
    pub lean: bool,
}

/// Memory that a run takes at its peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the device, for values and scratch.
    pub device: usize,
    /// Bytes of the host, beside the input and the output.
    pub host: usize,
    /// Whether values take 16 bits between layers.
    pub lean: bool,
}

/// What a device can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest single tensor, in bytes of f32.
    pub max_tensor_bytes: usize,
    /// Pictures are worked on together while their latents have no more positions than this; a larger one keeps the device
    /// busy by itself, so that more at once would cost memory and save no time.
    pub batch_positions: usize,
}

/// The weights of a model by their names, checked against its graphs.
#[derive(Clone, Debug, Default)]
pub struct Weights(HashMap<String, Weight>);

impl Weights {
    /// Adds a tensor.
    pub fn insert(&mut self, weight: Weight) {
        self.0.insert(weight.name.clone(), weight);
    }

    /// Bytes of all of them, and of those that have memory of their own and are no part of a mapped file.
    pub(crate) fn bytes(&self) -> [usize; 2] {
        let distinct: HashMap<_, _> =
            self.0.values().map(Weight::memory).map(|(at, size, own)| (at, (size, own))).collect();
        distinct.values().fold([0, 0], |[all, owned], &(size, own)| {
            [all.saturating_add(size), owned.saturating_add(if own { size } else { 0 })]
        })
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// There is none, which is a bug of whoever put them together.
    pub fn get(&self, name: &str) -> Result<Weight, DeviceError> {
        let missing = || DeviceError::Unsupported(format!("a graph without its tensor `{name}`"));
        self.0.get(name).cloned().ok_or_else(missing)
    }
}

impl<D: Device + ?Sized> Device for Arc<D> {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn prepare(&self, graph: &Arc<Graph>, weights: &Weights) -> Result<Box<dyn Plan>, DeviceError> {
        (**self).prepare(graph, weights)
    }

    fn release(&self) {
        (**self).release();
    }

    fn reserve(&self, bytes: usize) {
        (**self).reserve(bytes);
    }

    fn peak_memory(&self) -> Option<usize> {
        (**self).peak_memory()
    }

    fn begin_peak(&self) {
        (**self).begin_peak();
    }
}

impl From<GraphError> for DeviceError {
    fn from(error: GraphError) -> Self {
        Self::Unsupported(error.0)
    }
}

/// The shape of a tensor `[N, C, F, H, W]`.
pub(crate) fn shape_of(tensor: &HostTensor) -> Result<Shape, DeviceError> {
    let shape = tensor.shape.as_slice().try_into().map(Shape);
    shape.map_err(|_| {
        DeviceError::Unsupported(format!("a tensor of shape {:?}; expected [N, C, F, H, W]", tensor.shape))
    })
}
