//! One run through a model: the engine's steps, with progress and activations reported in between.

use std::time::Instant;

use super::{Attention, Conv2d, Cost};
use crate::engine::{Activation, Choice, Engine, Step, Watch};
use crate::{Cancelled, EngineError, LayerRun, Observer, VaeError};

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
    /// What the observer was told last.
    told: usize,
}

impl<'a, E: Engine> Pass<'a, E> {
    /// A run that costs `total` in all. The observer may cancel it before it starts.
    pub(crate) fn new(engine: &'a E, observer: &'a mut dyn Observer, total: usize) -> Result<Self, VaeError> {
        observer.progress(0, total)?;
        Ok(Self { engine, observer, positions: 0, images: 0, done: 0, total, told: 0 })
    }

    /// What runs it.
    pub(crate) fn engine(&self) -> &'a E {
        self.engine
    }

    /// From here on, tensors hold this many images, whose latents have `positions` each.
    pub(crate) fn set_input(&mut self, images: usize, positions: usize) {
        (self.images, self.positions) = (images, positions);
    }

    /// `conv(x)`.
    pub(crate) fn conv2d(&mut self, x: E::Tensor, conv: &Conv2d<E>) -> Result<E::Tensor, VaeError> {
        let before = self.before(&x, Step::Conv2d(&conv.weights));
        let y = self.step(conv.cost, |engine, watch| engine.run_conv2d(x, &conv.weights, watch))?;
        self.report(before, &conv.name, conv.cost, &y);
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
        let before = self.before(x, Step::NormActConv2d(norm, Activation::Silu, &conv.weights));
        let y = self.step(conv.cost, |engine, watch| {
            engine.run_norm_act_conv2d(x, norm, Activation::Silu, &conv.weights, residual, watch)
        })?;
        self.report(before, &conv.name, conv.cost, &y);
        self.advance(conv.cost)?;
        Ok(y)
    }

    /// `conv(nearest_upsample_2x(x))`.
    pub(crate) fn upsample2x_conv2d(
        &mut self,
        x: E::Tensor,
        conv: &Conv2d<E>,
    ) -> Result<E::Tensor, VaeError> {
        let before = self.before(&x, Step::Upsample2xConv2d(&conv.weights));
        let y =
            self.step(conv.cost, |engine, watch| engine.run_upsample2x_conv2d(x, &conv.weights, watch))?;
        self.report(before, &conv.name, conv.cost, &y);
        self.advance(conv.cost)?;
        Ok(y)
    }

    /// Attention of every position over all positions of its image, added to `x`.
    pub(crate) fn attention(
        &mut self,
        x: E::Tensor,
        attention: &Attention<E>,
    ) -> Result<E::Tensor, VaeError> {
        let before = self.before(&x, Step::Attention(&attention.weights));
        let y =
            self.step(attention.cost, |engine, watch| engine.run_attention(x, &attention.weights, watch))?;
        self.report(before, &attention.name, attention.cost, &y);
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

    /// What is to be told of a layer and has to be known before it runs; `None` if nobody wants to hear it.
    fn before(&self, x: &E::Tensor, step: Step<'_, E>) -> Option<Before> {
        self.observer.wants_layers().then(|| Before {
            input: self.engine.shape(x),
            choice: self.engine.explain(x, step),
            start: Instant::now(),
        })
    }

    fn report(&mut self, before: Option<Before>, name: &str, cost: Cost, y: &E::Tensor) {
        let Some(Before { input, choice, start }) = before else { return };
        let time = start.elapsed();
        let (name, output) = (name.to_owned(), self.engine.shape(y));
        self.observer.layer(LayerRun { name, input, output, multiply_adds: self.work(cost), choice, time });
    }

    /// What a layer costs for the images that go through now.
    fn work(&self, cost: Cost) -> usize {
        cost.of_image(self.positions).saturating_mul(self.images)
    }

    /// Runs one step of the engine, and reports how far it is while it runs.
    fn step(
        &mut self,
        cost: Cost,
        run: impl FnOnce(&E, &mut Watch<'_>) -> Result<E::Tensor, EngineError>,
    ) -> Result<E::Tensor, VaeError> {
        let (before, cost) = (self.done, self.work(cost));
        let y = run(self.engine, &mut |share: f64| {
            let done = (cost as f64 * share.clamp(0.0, 1.0)) as usize;
            // The end is told when the layer has been reported.
            if done >= cost { Ok(()) } else { self.tell(before.saturating_add(done)) }
        })?;
        Ok(y)
    }

    fn advance(&mut self, cost: Cost) -> Result<(), VaeError> {
        self.done = self.done.saturating_add(self.work(cost));
        Ok(self.tell(self.done)?)
    }

    /// Tells the observer of new progress, and learns whether to go on.
    fn tell(&mut self, done: usize) -> Result<(), Cancelled> {
        if done <= self.told {
            return Ok(());
        }
        self.told = done;
        self.observer.progress(done, self.total)
    }
}

/// Of a layer that is about to run.
struct Before {
    input: Vec<usize>,
    choice: Choice,
    start: Instant,
}
