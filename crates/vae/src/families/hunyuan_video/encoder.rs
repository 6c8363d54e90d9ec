//! diffusers' `HunyuanVideoEncoder3D` and its down blocks, of `autoencoder_kl_hunyuan_video.py`.

use super::Costs;
use super::blocks::{HunyuanVideoMidBlock3D, HunyuanVideoResnetBlockCausal3D};
use super::config::HunyuanVideoConfig;
use super::pass::{CausalConv3d, Pass};
use crate::engine::{Stride, VideoEngine};
use crate::layers::VarBuilder;
use crate::{LoadError, VaeError};

/// A row of resnets, then a convolution with a stride in most blocks.
struct HunyuanVideoDownBlock3D<E: VideoEngine> {
    name: String,
    resnets: Vec<HunyuanVideoResnetBlockCausal3D<E>>,
    downsampler: Option<CausalConv3d<E>>,
}

impl<E: VideoEngine> HunyuanVideoDownBlock3D<E> {
    fn load(
        vb: &VarBuilder<'_, E>,
        config: &HunyuanVideoConfig,
        index: usize,
        [in_channels, out_channels]: [usize; 2],
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let (stage, stride) = (config.encoder_stage(index), config.stride(index));
        let resnet = |index: usize| {
            let channels = if index == 0 { in_channels } else { out_channels };
            let vb = vb.pp("resnets").pp(index);
            let groups = config.norm_num_groups;
            HunyuanVideoResnetBlockCausal3D::load(&vb, [channels, out_channels], groups, stage, costs)
        };
        let resnets = (0..config.layers_per_block).map(resnet).collect::<Result<_, _>>()?;
        let downsampler = || {
            let vb = vb.pp("downsamplers.0.conv.conv");
            CausalConv3d::load_strided(&vb, out_channels, stride, stage.after_stride(stride), costs)
        };
        Ok(Self {
            name: vb.prefix().to_owned(),
            resnets,
            downsampler: (stride != Stride::default()).then(downsampler).transpose()?,
        })
    }

    fn forward(&self, mut x: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
        for resnet in &self.resnets {
            x = resnet.forward(x, pass)?;
        }
        if let Some(conv) = &self.downsampler {
            x = pass.conv(x, conv)?;
        }
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}

/// From pictures to the moments of latents.
pub(super) struct HunyuanVideoEncoder3D<E: VideoEngine> {
    name: String,
    conv_in: CausalConv3d<E>,
    down_blocks: Vec<HunyuanVideoDownBlock3D<E>>,
    mid_block: HunyuanVideoMidBlock3D<E>,
    conv_norm_out: E::GroupNorm,
    conv_out: CausalConv3d<E>,
}

impl<E: VideoEngine> HunyuanVideoEncoder3D<E> {
    /// Loads the encoder at `vb`.
    pub(super) fn load(
        vb: &VarBuilder<'_, E>,
        config: &HunyuanVideoConfig,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let mut channels = config.block_out_channels[0];
        let begin = config.encoder_stage(0);
        let ends = [config.in_channels, channels];
        let conv_in = CausalConv3d::load(&vb.pp("conv_in.conv"), ends, 3, begin, costs)?;
        let mut down_blocks = Vec::new();
        for (index, &block_channels) in config.block_out_channels.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(index);
            down_blocks.push(HunyuanVideoDownBlock3D::load(
                &vb,
                config,
                index,
                [channels, block_channels],
                costs,
            )?);
            channels = block_channels;
        }
        let end = config.encoder_stage(config.block_out_channels.len());
        let mid_block = HunyuanVideoMidBlock3D::load(&vb.pp("mid_block"), config, channels, end, costs)?;
        // Means and variances.
        let ends = [channels, 2 * config.latent_channels];
        Ok(Self {
            name: vb.prefix().to_owned(),
            conv_in,
            down_blocks,
            mid_block,
            conv_norm_out: vb.pp("conv_norm_out").group_norm(channels, config.norm_num_groups)?,
            conv_out: CausalConv3d::load(&vb.pp("conv_out.conv"), ends, 3, end, costs)?,
        })
    }

    /// `[1, in_channels, F, H, W]` to `[1, 2 * latent_channels, f, h, w]`, where every stride halves an axis, rounded up.
    pub(super) fn forward(&self, pixels: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
        let mut x = pass.conv(pixels, &self.conv_in)?;
        pass.observe(&format!("{}.conv_in", self.name), &x)?;
        for block in &self.down_blocks {
            x = block.forward(x, pass)?;
        }
        let x = self.mid_block.forward(x, pass)?;
        let x = pass.norm_silu_conv(&x, &self.conv_norm_out, &self.conv_out, None)?;
        pass.observe(&format!("{}.conv_out", self.name), &x)?;
        Ok(x)
    }
}
