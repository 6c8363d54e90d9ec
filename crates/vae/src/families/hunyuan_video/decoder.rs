//! diffusers' `HunyuanVideoDecoder3D` and its up blocks, of `autoencoder_kl_hunyuan_video.py`.

use super::Costs;
use super::blocks::{HunyuanVideoMidBlock3D, HunyuanVideoResnetBlockCausal3D};
use super::config::HunyuanVideoConfig;
use super::pass::{CausalConv3d, Pass};
use crate::engine::{Upsampling, VideoEngine};
use crate::layers::VarBuilder;
use crate::{LoadError, VaeError};

/// A row of resnets, then an upsampler in most blocks.
struct HunyuanVideoUpBlock3D<E: VideoEngine> {
    name: String,
    resnets: Vec<HunyuanVideoResnetBlockCausal3D<E>>,
    upsampler: Option<(Upsampling, CausalConv3d<E>)>,
}

impl<E: VideoEngine> HunyuanVideoUpBlock3D<E> {
    fn load(
        vb: &VarBuilder<'_, E>,
        config: &HunyuanVideoConfig,
        index: usize,
        [in_channels, out_channels]: [usize; 2],
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let (stage, upsampling) = (config.stage(index), config.upsampling(index));
        let resnet = |index: usize| {
            let channels = if index == 0 { in_channels } else { out_channels };
            let vb = vb.pp("resnets").pp(index);
            let groups = config.norm_num_groups;
            HunyuanVideoResnetBlockCausal3D::load(&vb, [channels, out_channels], groups, stage, costs)
        };
        let upsampler = || {
            let vb = vb.pp("upsamplers.0.conv.conv");
            let conv =
                CausalConv3d::load(&vb, [out_channels; 2], 3, stage.after_upsampling(upsampling), costs)?;
            Ok::<_, LoadError>((upsampling, conv))
        };
        Ok(Self {
            name: vb.prefix().to_owned(),
            // One more than the encoder's blocks have.
            resnets: (0..=config.layers_per_block).map(resnet).collect::<Result<_, _>>()?,
            upsampler: (upsampling.time || upsampling.space).then(upsampler).transpose()?,
        })
    }

    fn forward(&self, mut x: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
        for resnet in &self.resnets {
            x = resnet.forward(x, pass)?;
        }
        if let Some((upsampling, conv)) = &self.upsampler {
            x = pass.upsample_conv(x, *upsampling, conv)?;
        }
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}

/// From latents to pictures.
pub(super) struct HunyuanVideoDecoder3D<E: VideoEngine> {
    name: String,
    conv_in: CausalConv3d<E>,
    mid_block: HunyuanVideoMidBlock3D<E>,
    up_blocks: Vec<HunyuanVideoUpBlock3D<E>>,
    conv_norm_out: E::GroupNorm,
    conv_out: CausalConv3d<E>,
}

impl<E: VideoEngine> HunyuanVideoDecoder3D<E> {
    /// Loads the decoder at `vb`.
    pub(super) fn load(
        vb: &VarBuilder<'_, E>,
        config: &HunyuanVideoConfig,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let blocks = &config.block_out_channels;
        let mut channels = blocks[blocks.len() - 1];
        let ends = [config.latent_channels, channels];
        let conv_in = CausalConv3d::load(&vb.pp("conv_in.conv"), ends, 3, config.stage(0), costs)?;
        let mid_block =
            HunyuanVideoMidBlock3D::load(&vb.pp("mid_block"), config, channels, config.stage(0), costs)?;
        let mut up_blocks = Vec::new();
        for (index, &block_channels) in blocks.iter().rev().enumerate() {
            let vb = vb.pp("up_blocks").pp(index);
            let channels_of_block = [channels, block_channels];
            up_blocks.push(HunyuanVideoUpBlock3D::load(&vb, config, index, channels_of_block, costs)?);
            channels = block_channels;
        }
        let end = config.stage(blocks.len());
        let ends = [channels, config.out_channels];
        Ok(Self {
            name: vb.prefix().to_owned(),
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out: vb.pp("conv_norm_out").group_norm(channels, config.norm_num_groups)?,
            conv_out: CausalConv3d::load(&vb.pp("conv_out.conv"), ends, 3, end, costs)?,
        })
    }

    /// `[1, latent_channels, f, h, w]` to `[1, out_channels, F, H, W]`.
    pub(super) fn forward(&self, latents: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
        let x = pass.conv(latents, &self.conv_in)?;
        pass.observe(&format!("{}.conv_in", self.name), &x)?;
        let mut x = self.mid_block.forward(x, pass)?;
        for block in &self.up_blocks {
            x = block.forward(x, pass)?;
        }
        let x = pass.norm_silu_conv(&x, &self.conv_norm_out, &self.conv_out, None)?;
        pass.observe(&format!("{}.conv_out", self.name), &x)?;
        Ok(x)
    }
}
