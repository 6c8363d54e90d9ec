//! The steps over clips.

use kernels::{Clip, Pre};

use super::{Attention, CpuEngine, pre, watched};
use crate::engine::{Activation, CausalConv3dSpec, Upsampling, VideoEngine, Watch};
use crate::{EngineError, HostTensor, Weight};

/// A convolution's weights, as they lie in the checkpoint.
pub struct CausalConv3d {
    spec: CausalConv3dSpec,
    weight: Weight,
    bias: Vec<f32>,
}

impl CausalConv3d {
    fn run(
        &self,
        engine: &CpuEngine,
        x: &Clip,
        pre: Pre<'_>,
        upsampling: kernels::Upsampling,
        residual: Option<Clip>,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        let kernel = kernels::CausalConv3d {
            weight: self.weight.view(),
            bias: &self.bias,
            in_channels: self.spec.in_channels,
            out_channels: self.spec.out_channels,
            stride: self.spec.stride,
        };
        let result = watched(watch, |watched| kernel.run(&engine.0, x, pre, upsampling, residual, watched));
        engine.done_with(&self.weight);
        result
    }
}

impl VideoEngine for CpuEngine {
    type Clip = Clip;
    type CausalConv3d = CausalConv3d;

    fn causal_conv3d(
        &self,
        spec: CausalConv3dSpec,
        weight: Weight,
        bias: Weight,
    ) -> Result<CausalConv3d, EngineError> {
        if !matches!(spec.kernel, 1 | 3) {
            return Err(EngineError::Unsupported(format!(
                "a causal convolution with a cubic kernel of {} ({}); this engine has 1 and 3",
                spec.kernel, weight.name
            )));
        }
        Ok(CausalConv3d { spec, weight, bias: bias.to_f32() })
    }

    fn upload_clip(&self, host: &HostTensor) -> Result<Clip, EngineError> {
        let &[1, channels, frames, height, width] = host.shape.as_slice() else {
            return Err(EngineError::Unsupported(format!(
                "a tensor of shape {:?}, expected [1, C, F, H, W]",
                host.shape
            )));
        };
        Ok(Clip::from_cfhw(&self.0, [channels, frames, height, width], &host.data)?)
    }

    fn download_clip(&self, clip: &Clip) -> Result<HostTensor, EngineError> {
        let mut shape = vec![1];
        shape.extend(clip.shape());
        Ok(HostTensor::new(shape, clip.to_cfhw()))
    }

    fn run_causal_conv3d(
        &self,
        x: Clip,
        conv: &CausalConv3d,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        if conv.spec.kernel != 1 {
            return conv.run(self, &x, Pre::default(), kernels::Upsampling::default(), None, watch);
        }
        let kernel = kernels::Conv2d {
            weight: conv.weight.view(),
            bias: &conv.bias,
            in_channels: conv.spec.in_channels,
            out_channels: conv.spec.out_channels,
            ..kernels::Conv2d::default()
        };
        let y = watched(watch, |watched| kernel.run_pointwise_on_clip(&self.0, x, watched));
        self.done_with(&conv.weight);
        y
    }

    fn run_norm_act_causal_conv3d(
        &self,
        x: &Clip,
        norm: &kernels::GroupNorm,
        activation: Activation,
        conv: &CausalConv3d,
        residual: Option<Clip>,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        conv.run(self, x, pre(norm, activation), kernels::Upsampling::default(), residual, watch)
    }

    fn run_upsample_causal_conv3d(
        &self,
        x: Clip,
        Upsampling { time, space }: Upsampling,
        conv: &CausalConv3d,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        conv.run(self, &x, Pre::default(), kernels::Upsampling { time, space }, None, watch)
    }

    fn run_causal_attention(
        &self,
        x: Clip,
        attention: &Attention,
        watch: &mut Watch<'_>,
    ) -> Result<Clip, EngineError> {
        let result = watched(watch, |watched| attention.kernel().run_causal(&self.0, x, watched));
        attention.release_pages(self);
        result
    }
}
