//! diffusers' `HunyuanVideoDecoder3D` and its blocks, of `autoencoder_kl_hunyuan_video.py`.

use super::Costs;
use super::config::HunyuanVideoConfig;
use super::pass::{CausalConv3d, Pass};
use super::workload::{Cost, Stage};
use crate::engine::{Upsampling, VideoEngine};
use crate::layers::{Attention, VarBuilder};
use crate::{LoadError, VaeError};

/// `conv2(silu(norm2(conv1(silu(norm1(x)))))) + shortcut(x)`, where the shortcut is a convolution without neighbours if
/// the number of channels changes.
struct HunyuanVideoResnetBlockCausal3D<E: VideoEngine> {
    name: String,
    norm1: E::GroupNorm,
    conv1: CausalConv3d<E>,
    norm2: E::GroupNorm,
    conv2: CausalConv3d<E>,
    conv_shortcut: Option<CausalConv3d<E>>,
}

impl<E: VideoEngine> HunyuanVideoResnetBlockCausal3D<E> {
    fn load(
        vb: &VarBuilder<'_, E>,
        [in_channels, out_channels]: [usize; 2],
        groups: usize,
        stage: Stage,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let conv = |name: &str, channels, kernel| {
            CausalConv3d::load(&vb.pp(name).pp("conv"), channels, kernel, stage, costs)
        };
        Ok(Self {
            name: vb.prefix().to_owned(),
            norm1: vb.pp("norm1").group_norm(in_channels, groups)?,
            conv1: conv("conv1", [in_channels, out_channels], 3)?,
            norm2: vb.pp("norm2").group_norm(out_channels, groups)?,
            conv2: conv("conv2", [out_channels, out_channels], 3)?,
            conv_shortcut: (in_channels != out_channels)
                .then(|| conv("conv_shortcut", [in_channels, out_channels], 1))
                .transpose()?,
        })
    }

    /// No more than two clips live between its steps: `x`, later the shortcut made from it, and the hidden state.
    fn forward(&self, x: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
        let hidden = pass.norm_silu_conv(&x, &self.norm1, &self.conv1, None)?;
        let residual = match &self.conv_shortcut {
            Some(conv) => pass.conv(x, conv)?,
            None => x,
        };
        let x = pass.norm_silu_conv(&hidden, &self.norm2, &self.conv2, Some(residual))?;
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}

/// A resnet, attention unless the model has none, and a second resnet.
struct HunyuanVideoMidBlock3D<E: VideoEngine> {
    name: String,
    resnets: [HunyuanVideoResnetBlockCausal3D<E>; 2],
    /// With the name of its place and its cost.
    attention: Option<(String, Attention<E>, Cost)>,
}

impl<E: VideoEngine> HunyuanVideoMidBlock3D<E> {
    fn load(
        vb: &VarBuilder<'_, E>,
        config: &HunyuanVideoConfig,
        channels: usize,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let (stage, groups) = (config.stage(0), config.norm_num_groups);
        let resnet = |index: usize| {
            let vb = vb.pp("resnets").pp(index);
            HunyuanVideoResnetBlockCausal3D::load(&vb, [channels; 2], groups, stage, costs)
        };
        let attention = || {
            let vb = vb.pp("attentions").pp(0);
            let cost = Cost::of_attention(stage, channels);
            costs.borrow_mut().push(cost);
            Ok::<_, LoadError>((vb.prefix().to_owned(), Attention::load(&vb, channels, groups)?, cost))
        };
        Ok(Self {
            name: vb.prefix().to_owned(),
            resnets: [resnet(0)?, resnet(1)?],
            attention: config.mid_block_add_attention.then(attention).transpose()?,
        })
    }

    fn forward(&self, x: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
        let mut x = self.resnets[0].forward(x, pass)?;
        if let Some((name, attention, cost)) = &self.attention {
            x = pass.attention(x, attention, *cost)?;
            pass.observe(name, &x)?;
        }
        let x = self.resnets[1].forward(x, pass)?;
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}

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
            let conv = CausalConv3d::load(&vb, [out_channels; 2], 3, stage.after(upsampling), costs)?;
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
        let mid_block = HunyuanVideoMidBlock3D::load(&vb.pp("mid_block"), config, channels, costs)?;
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
