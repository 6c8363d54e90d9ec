//! The seam between graphs and the hardware that runs them.
//!
//! An [`Engine`] offers about a dozen whole, fused steps. Tensors and prepared weights are opaque: an engine keeps
//! them in whatever layout, precision and memory it likes. What a step uses up it takes by value, so that one
//! engine can work in place where another simply drops it. One thread drives one engine.

pub mod cpu;
mod explain;
pub mod reference;
mod spec;
mod video;

pub use explain::{Choice, Step};
pub use spec::{Activation, Conv2dSpec, GroupNormSpec, Limits};
pub use video::{CausalConv3dSpec, Stride, Upsampling, VideoEngine, Watch};

use crate::{EngineError, HostTensor, Weight};

/// Runs the layers of a model.
pub trait Engine: Send + 'static {
    /// A batch of feature maps, `[B, C, H, W]` to whoever asks, stored as the engine likes.
    type Tensor: Send;
    /// Convolution weights, prepared once.
    type Conv2d: Send;
    /// Group normalisation weights, prepared once.
    type GroupNorm: Send;
    /// The weights of one attention block, prepared once.
    type Attention: Send;

    /// For people: the device, its instruction set, its threads.
    fn describe(&self) -> String;
    /// What fits, for admission and tiling.
    fn limits(&self) -> Limits;
    /// Gives back cached memory.
    fn release(&self);
    /// Has memory for work of so many bytes at hand, if there is so much, so that the work need not wait for it.
    fn reserve(&self, _bytes: usize) {}
    /// The same device with values that take half the memory between layers and are rounded for it; `None` where they
    /// do so already, or cannot.
    fn lean(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
    /// An engine that takes every step as this one would, but only keeps the books: [`Engine::peak_memory`] then tells
    /// what the work would take. Its tensors hold no values. `None` where that cannot be known.
    fn rehearsal(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
    /// The most bytes of memory that steps had in use at once since [`Engine::begin_peak`], for tensors and scratch.
    fn peak_memory(&self) -> usize {
        0
    }
    /// Lets [`Engine::peak_memory`] begin anew.
    fn begin_peak(&self) {}
    /// `[B, C, H, W]`.
    fn shape(&self, tensor: &Self::Tensor) -> Vec<usize>;
    /// How this engine would do a step on `x`, and why. It may look at the values, but changes nothing.
    fn explain(&self, x: &Self::Tensor, step: Step<'_, Self>) -> Choice
    where
        Self: Sized;

    /// Prepares a convolution. `weight` is `[out, in, k, k]`, `bias` `[out]`, both already checked against `spec`.
    fn conv2d(
        &self,
        spec: Conv2dSpec,
        weight: Weight,
        bias: Option<Weight>,
    ) -> Result<Self::Conv2d, EngineError>;
    /// Prepares a group normalisation; `weight` and `bias` are `[channels]`.
    fn group_norm(
        &self,
        spec: GroupNormSpec,
        weight: Weight,
        bias: Weight,
    ) -> Result<Self::GroupNorm, EngineError>;
    /// Prepares a single-head attention block: group norm, then linear layers of `[C, C]` with biases `[C]`.
    fn attention(
        &self,
        norm: Self::GroupNorm,
        to_q: (Weight, Weight),
        to_k: (Weight, Weight),
        to_v: (Weight, Weight),
        to_out: (Weight, Weight),
    ) -> Result<Self::Attention, EngineError>;

    /// Takes a `[B, C, H, W]` tensor from the host.
    fn upload(&self, host: &HostTensor) -> Result<Self::Tensor, EngineError>;
    /// Copies a tensor to the host as `[B, C, H, W]`.
    fn download(&self, tensor: &Self::Tensor) -> Result<HostTensor, EngineError>;

    /// `conv(x)`.
    fn run_conv2d(
        &self,
        x: Self::Tensor,
        conv: &Self::Conv2d,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Tensor, EngineError>;
    /// `conv(activation(norm(x)))`, plus `residual` when there is one. The half of a `ResnetBlock2D`.
    fn run_norm_act_conv2d(
        &self,
        x: &Self::Tensor,
        norm: &Self::GroupNorm,
        activation: Activation,
        conv: &Self::Conv2d,
        residual: Option<Self::Tensor>,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Tensor, EngineError>;
    /// `conv(nearest_upsample_2x(x))`: diffusers' `Upsample2D`.
    fn run_upsample2x_conv2d(
        &self,
        x: Self::Tensor,
        conv: &Self::Conv2d,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Tensor, EngineError>;
    /// `x + to_out(softmax(q kᵀ / sqrt(C)) v)` with `q`, `k`, `v` from `norm(x)`, over all `H * W` positions of
    /// each image: diffusers' `Attention` with one head and a residual connection.
    fn run_attention(
        &self,
        x: Self::Tensor,
        attention: &Self::Attention,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Tensor, EngineError>;
}
