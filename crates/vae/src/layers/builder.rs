//! From names in a checkpoint to layers that an engine has prepared.

use std::cell::Cell;
use std::fmt::Display;

use super::{Cost, Workload};
use crate::checkpoint::Checkpoint;
use crate::engine::{CausalConv3dSpec, Conv2dSpec, Engine, GroupNormSpec, VideoEngine};
use crate::{LoadError, Weight};

/// A place in a checkpoint, from which the layers there are loaded.
///
/// As with candle's type of this name, `vb.pp("decoder").pp("conv_in")` makes code mirror the checkpoint's names.
pub(crate) struct VarBuilder<'a, E> {
    engine: &'a E,
    checkpoint: &'a Checkpoint,
    /// Gathers what the loaded layers will have to do.
    workload: &'a Cell<Workload>,
    prefix: String,
    /// Output positions for each position of the latents.
    area: usize,
}

impl<'a, E: Engine> VarBuilder<'a, E> {
    /// The root of `checkpoint`.
    pub(crate) fn new(engine: &'a E, checkpoint: &'a Checkpoint, workload: &'a Cell<Workload>) -> Self {
        Self { engine, checkpoint, workload, prefix: String::new(), area: 1 }
    }

    /// The place `name` below this one ("push prefix").
    pub(crate) fn pp(&self, name: impl Display) -> Self {
        Self { prefix: self.name(name), ..*self }
    }

    /// The same place, for layers whose output has `area` positions for each position of the latents.
    pub(crate) fn at_area(&self, area: usize) -> Self {
        Self { prefix: self.prefix.clone(), area, ..*self }
    }

    /// Output positions for each position of the latents.
    pub(crate) fn area(&self) -> usize {
        self.area
    }

    /// The name of this place: that of the layer here.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The engine that prepares the layers.
    pub(crate) fn engine(&self) -> &'a E {
        self.engine
    }

    /// Loads the convolution here.
    pub(crate) fn conv2d(&self, spec: Conv2dSpec) -> Result<Conv2d<E>, LoadError> {
        let Conv2dSpec { in_channels, out_channels, kernel, .. } = spec;
        let weight =
            self.checkpoint.tensor(&self.name("weight"), &[out_channels, in_channels, kernel, kernel])?;
        let bias = self.checkpoint.tensor(&self.name("bias"), &[out_channels])?;
        let weights = self.engine.conv2d(spec, weight, Some(bias))?;
        let fixed = kernel * kernel * in_channels * out_channels * self.area;
        let cost = self.add(Cost { fixed, per_position: 0 }, out_channels);
        Ok(Conv2d { name: self.prefix.clone(), weights, cost })
    }

    /// Loads the causal 3-D convolution here.
    pub(crate) fn causal_conv3d(&self, spec: CausalConv3dSpec) -> Result<E::CausalConv3d, LoadError>
    where
        E: VideoEngine,
    {
        let CausalConv3dSpec { in_channels, out_channels, kernel, .. } = spec;
        let shape = [out_channels, in_channels, kernel, kernel, kernel];
        let weight = self.checkpoint.tensor(&self.name("weight"), &shape)?;
        let bias = self.checkpoint.tensor(&self.name("bias"), &[out_channels])?;
        Ok(self.engine.causal_conv3d(spec, weight, bias)?)
    }

    /// Loads the group normalisation here. Every norm of these models has this `eps`.
    pub(crate) fn group_norm(&self, channels: usize, groups: usize) -> Result<E::GroupNorm, LoadError> {
        let spec = GroupNormSpec { channels, groups, eps: 1e-6 };
        let weight = self.checkpoint.tensor(&self.name("weight"), &[channels])?;
        let bias = self.checkpoint.tensor(&self.name("bias"), &[channels])?;
        Ok(self.engine.group_norm(spec, weight, bias)?)
    }

    /// Loads weight and bias of the linear layer here.
    pub(crate) fn linear(
        &self,
        in_channels: usize,
        out_channels: usize,
    ) -> Result<(Weight, Weight), LoadError> {
        let weight = self.checkpoint.linear(&self.name("weight"), [out_channels, in_channels])?;
        let bias = self.checkpoint.tensor(&self.name("bias"), &[out_channels])?;
        Ok((weight, bias))
    }

    /// Whether the checkpoint has the tensor `name` here.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(&self.name(name))
    }

    /// Counts a layer with this cost and this many output channels; returns the cost.
    pub(crate) fn add(&self, cost: Cost, channels: usize) -> Cost {
        self.workload.set(self.workload.get().with_layer(cost, channels * self.area));
        cost
    }

    fn name(&self, name: impl Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

/// A convolution, ready to run.
pub(crate) struct Conv2d<E: Engine> {
    pub(super) name: String,
    pub(super) weights: E::Conv2d,
    pub(super) cost: Cost,
}
