//! One run through the decoder or the encoder: the engine's steps, with progress and activations reported within and between them.

use super::Costs;
use super::workload::{Cost, Size, Stage};
use crate::engine::{Activation, CausalConv3dSpec, Stride, Upsampling, VideoEngine, Watch};
use crate::layers::{Attention, VarBuilder};
use crate::{Cancelled, EngineError, LoadError, Observer, VaeError};

/// A convolution, ready to run.
pub(super) struct CausalConv3d<E: VideoEngine> {
    weights: E::CausalConv3d,
    cost: Cost,
}

impl<E: VideoEngine> CausalConv3d<E> {
    /// Loads the layer at `vb`, with a cubic kernel of this side, whose output is at `stage`. `costs` learns of it.
    pub(super) fn load(
        vb: &VarBuilder<'_, E>,
        [in_channels, out_channels]: [usize; 2],
        kernel: usize,
        stage: Stage,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let spec = CausalConv3dSpec { in_channels, out_channels, kernel, stride: Stride::default() };
        Self::load_spec(vb, spec, stage, costs)
    }

    /// Loads the layer at `vb` with a kernel of 3, which keeps the channels and makes a clip smaller.
    pub(super) fn load_strided(
        vb: &VarBuilder<'_, E>,
        channels: usize,
        stride: Stride,
        stage: Stage,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let spec = CausalConv3dSpec { in_channels: channels, out_channels: channels, kernel: 3, stride };
        Self::load_spec(vb, spec, stage, costs)
    }

    fn load_spec(
        vb: &VarBuilder<'_, E>,
        spec: CausalConv3dSpec,
        stage: Stage,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let cost = Cost::of_convolution(stage, spec.in_channels, spec.out_channels, spec.kernel.pow(3));
        costs.borrow_mut().push(cost);
        Ok(Self { weights: vb.causal_conv3d(spec)?, cost })
    }
}

/// One run through the decoder or the encoder.
pub(super) struct Pass<'a, E> {
    engine: &'a E,
    observer: &'a mut dyn Observer,
    size: Size,
    done: usize,
    total: usize,
    /// What the observer was told last.
    told: usize,
}

impl<'a, E: VideoEngine> Pass<'a, E> {
    /// A run that costs `total` in all. The observer may cancel it before it starts.
    pub(super) fn new(engine: &'a E, observer: &'a mut dyn Observer, total: usize) -> Result<Self, VaeError> {
        observer.progress(0, total)?;
        let size = Size { frames: 1, height: 1, width: 1 };
        Ok(Self { engine, observer, size, done: 0, total, told: 0 })
    }

    /// What runs it.
    pub(super) fn engine(&self) -> &'a E {
        self.engine
    }

    /// From here on, clips are those that went in with this size.
    pub(super) fn set_input(&mut self, size: Size) {
        self.size = size;
    }

    /// `conv(x)`.
    pub(super) fn conv(&mut self, x: E::Clip, conv: &CausalConv3d<E>) -> Result<E::Clip, VaeError> {
        self.step(conv.cost, |engine, watch| engine.run_causal_conv3d(x, &conv.weights, watch))
    }

    /// `conv(silu(norm(x)))`, plus `residual` when there is one.
    pub(super) fn norm_silu_conv(
        &mut self,
        x: &E::Clip,
        norm: &E::GroupNorm,
        conv: &CausalConv3d<E>,
        residual: Option<E::Clip>,
    ) -> Result<E::Clip, VaeError> {
        self.step(conv.cost, |engine, watch| {
            engine.run_norm_act_causal_conv3d(x, norm, Activation::Silu, &conv.weights, residual, watch)
        })
    }

    /// `conv(upsample(x))`.
    pub(super) fn upsample_conv(
        &mut self,
        x: E::Clip,
        upsampling: Upsampling,
        conv: &CausalConv3d<E>,
    ) -> Result<E::Clip, VaeError> {
        self.step(conv.cost, |engine, watch| {
            engine.run_upsample_causal_conv3d(x, upsampling, &conv.weights, watch)
        })
    }

    /// Attention of every position over all positions of its frame and of those before it, added to `x`.
    pub(super) fn attention(
        &mut self,
        x: E::Clip,
        attention: &Attention<E>,
        cost: Cost,
    ) -> Result<E::Clip, VaeError> {
        self.step(cost, |engine, watch| engine.run_causal_attention(x, &attention.weights, watch))
    }

    /// Shows `x` to the observer as the output of `stage`, if it wants to see it.
    pub(super) fn observe(&mut self, stage: &str, x: &E::Clip) -> Result<(), VaeError> {
        if self.observer.wants(stage) {
            self.observer.activation(stage, self.engine.download_clip(x)?);
        }
        Ok(())
    }

    /// Runs one step of the engine and reports how far it is.
    fn step(
        &mut self,
        cost: Cost,
        run: impl FnOnce(&E, &mut Watch<'_>) -> Result<E::Clip, EngineError>,
    ) -> Result<E::Clip, VaeError> {
        let (before, cost) = (self.done, cost.of(self.size));
        let y = run(self.engine, &mut |share: f64| {
            self.report(
                before
                    .saturating_add((cost as f64 * share.clamp(0.0, 1.0)) as usize)
                    .min(before.saturating_add(cost)),
            )
        })?;
        self.done = before.saturating_add(cost);
        self.report(self.done)?;
        Ok(y)
    }

    /// Tells the observer of new progress, and learns whether to go on.
    fn report(&mut self, done: usize) -> Result<(), Cancelled> {
        if done <= self.told {
            return Ok(());
        }
        self.told = done;
        self.observer.progress(done, self.total)
    }
}
