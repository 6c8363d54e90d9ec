//! What an engine does for video: steps over clips of frames, with convolutions that are causal in time.

pub use kernels::Stride;

use super::{Activation, Engine};
use crate::{Cancelled, EngineError, HostTensor, Weight};

/// A 3-D convolution as diffusers' `HunyuanVideoCausalConv3d`: a frame sees itself and the frames before it. The first
/// frame is repeated before the beginning, and pixels at the border are repeated around each frame, so that a clip keeps
/// its size without a stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CausalConv3dSpec {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel side along time, height and width: 1 or 3.
    pub kernel: usize,
    /// Step between outputs, for a kernel of 3 only.
    pub stride: Stride,
}

/// How values are repeated before a convolution, as diffusers' `HunyuanVideoUpsampleCausal3D` does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upsampling {
    /// Each frame but the first twice: `F` frames become `2 F - 1`.
    pub time: bool,
    /// Each value twice along height and width.
    pub space: bool,
}

/// Called between the parts of a step with the share of it that is done, from 0 to 1. A step can take a minute on a long
/// clip; when the answer is `Err`, it ends soon with [`EngineError::Cancelled`].
pub type Watch<'a> = dyn FnMut(f64) -> Result<(), Cancelled> + 'a;

/// Runs the layers of a video model. One clip at a time: nothing is shared between the clips of a batch.
pub trait VideoEngine: Engine {
    /// The feature maps of one clip, `[1, C, F, H, W]` to whoever asks, stored as the engine likes.
    type Clip: Send;
    /// Causal convolution weights, prepared once.
    type CausalConv3d: Send;

    /// Prepares a convolution. `weight` is `[out, in, k, k, k]`, `bias` `[out]`, both already checked against `spec`.
    fn causal_conv3d(
        &self,
        spec: CausalConv3dSpec,
        weight: Weight,
        bias: Weight,
    ) -> Result<Self::CausalConv3d, EngineError>;

    /// Takes a `[1, C, F, H, W]` tensor from the host.
    fn upload_clip(&self, host: &HostTensor) -> Result<Self::Clip, EngineError>;
    /// Copies a clip to the host as `[1, C, F, H, W]`.
    fn download_clip(&self, clip: &Self::Clip) -> Result<HostTensor, EngineError>;

    /// `conv(x)`, with the convolution's stride. The other steps take convolutions without a stride.
    fn run_causal_conv3d(
        &self,
        x: Self::Clip,
        conv: &Self::CausalConv3d,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Clip, EngineError>;
    /// `conv(activation(norm(x)))`, plus `residual` when there is one. The norm's statistics are those of all frames
    /// together.
    fn run_norm_act_causal_conv3d(
        &self,
        x: &Self::Clip,
        norm: &Self::GroupNorm,
        activation: Activation,
        conv: &Self::CausalConv3d,
        residual: Option<Self::Clip>,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Clip, EngineError>;
    /// `conv(upsample(x))`.
    fn run_upsample_causal_conv3d(
        &self,
        x: Self::Clip,
        upsampling: Upsampling,
        conv: &Self::CausalConv3d,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Clip, EngineError>;
    /// `x + to_out(softmax(mask(q kᵀ / sqrt(C))) v)` with `q`, `k`, `v` from `norm(x)`, where each position sees all
    /// positions of its own frame and of those before it.
    fn run_causal_attention(
        &self,
        x: Self::Clip,
        attention: &Self::Attention,
        watch: &mut Watch<'_>,
    ) -> Result<Self::Clip, EngineError>;
}
