//! One run through a model: the engine's steps, with progress and activations reported in between.

use super::{Attention, Conv2d, Cost};
use crate::engine::{Activation, Engine};
use crate::{Observer, VaeError};

/// One run through a model.
pub(crate) struct Pass<'a, E> {
    engine: &'a E,
    observer: &'a mut dyn Observer,
    /// Positions of the latents of each image.
    positions: usize,
    /// Images in the tensors that go through now.
    images: usize,
    done: usize,
    total: usize,
}

impl<'a, E: Engine> Pass<'a, E> {
    /// A run that costs `total` in all. The observer may cancel it before it starts.
    pub(crate) fn new(engine: &'a E, observer: &'a mut dyn Observer, total: usize) -> Result<Self, VaeError> {
        observer.progress(0, total)?;
        Ok(Self { engine, observer, positions: 0, images: 0, done: 0, total })
    }

    /// From here on, tensors hold this many images, whose latents have `positions` each.
    pub(crate) fn set_input(&mut self, images: usize, positions: usize) {
        (self.images, self.positions) = (images, positions);
    }

    /// `conv(x)`.
    pub(crate) fn conv2d(&mut self, x: E::Tensor, conv: &Conv2d<E>) -> Result<E::Tensor, VaeError> {
        let y = self.engine.run_conv2d(x, &conv.weights)?;
        self.advance(conv.cost)?;
        Ok(y)
    }

    /// `conv(silu(norm(x)))`, plus `residual` when there is one.
    pub(crate) fn norm_silu_conv2d(
        &mut self,
        x: &E::Tensor,
        norm: &E::GroupNorm,
        conv: &Conv2d<E>,
        residual: Option<E::Tensor>,
    ) -> Result<E::Tensor, VaeError> {
        let y = self.engine.run_norm_act_conv2d(x, norm, Activation::Silu, &conv.weights, residual)?;
        self.advance(conv.cost)?;
        Ok(y)
    }

    /// `conv(nearest_upsample_2x(x))`.
    pub(crate) fn upsample2x_conv2d(
        &mut self,
        x: E::Tensor,
        conv: &Conv2d<E>,
    ) -> Result<E::Tensor, VaeError> {
        let y = self.engine.run_upsample2x_conv2d(x, &conv.weights)?;
        self.advance(conv.cost)?;
        Ok(y)
    }

    /// Attention of every position over all positions of its image, added to `x`.
    pub(crate) fn attention(
        &mut self,
        x: E::Tensor,
        attention: &Attention<E>,
    ) -> Result<E::Tensor, VaeError> {
        let y = self.engine.run_attention(x, &attention.weights)?;
        self.advance(attention.cost)?;
        Ok(y)
    }

    /// Shows `x` to the observer as the output of `stage`, if it wants to see it.
    pub(crate) fn observe(&mut self, stage: &str, x: &E::Tensor) -> Result<(), VaeError> {
        if self.observer.wants(stage) {
            self.observer.activation(stage, self.engine.download(x)?);
        }
        Ok(())
    }

    fn advance(&mut self, cost: Cost) -> Result<(), VaeError> {
        self.done = self.done.saturating_add(cost.of_image(self.positions).saturating_mul(self.images));
        Ok(self.observer.progress(self.done, self.total)?)
    }
}
