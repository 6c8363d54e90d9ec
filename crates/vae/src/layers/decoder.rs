//! diffusers' `Decoder` of `models/autoencoders/vae.py`.

use super::{Conv2d, Pass, UNetMidBlock2D, UpDecoderBlock2D, VarBuilder};
use crate::engine::{Conv2dSpec, Engine};
use crate::{LoadError, VaeError};

/// From latents to pictures.
pub(crate) struct Decoder<E: Engine> {
    conv_in: Conv2d<E>,
    mid_block: UNetMidBlock2D<E>,
    up_blocks: Vec<UpDecoderBlock2D<E>>,
    conv_norm_out: E::GroupNorm,
    conv_out: Conv2d<E>,
    conv_in_name: String,
    conv_out_name: String,
}

impl<E: Engine> Decoder<E> {
    /// Loads the decoder at `vb`. `block_out_channels`, not empty, goes from the picture's end to the latents' end.
    pub(crate) fn load(
        vb: &VarBuilder<'_, E>,
        in_channels: usize,
        out_channels: usize,
        block_out_channels: &[usize],
        layers_per_block: usize,
        groups: usize,
        mid_block_add_attention: bool,
    ) -> Result<Self, LoadError> {
        let last = block_out_channels.len() - 1;
        let mut channels = block_out_channels[last];
        let conv_in = vb.pp("conv_in").conv2d(Conv2dSpec::same(in_channels, channels, 3))?;
        let mid_block = UNetMidBlock2D::load(&vb.pp("mid_block"), channels, groups, mid_block_add_attention)?;
        let mut up_blocks = Vec::new();
        for (index, &block_channels) in block_out_channels.iter().rev().enumerate() {
            // Each block before this one has doubled height and width.
            let vb = vb.pp("up_blocks").pp(index).at_area(1 << (2 * index));
            let num_layers = layers_per_block + 1;
            let add_upsample = index != last;
            up_blocks.push(UpDecoderBlock2D::load(
                &vb,
                channels,
                block_channels,
                num_layers,
                groups,
                add_upsample,
            )?);
            channels = block_channels;
        }
        let out = vb.at_area(1 << (2 * last));
        Ok(Self {
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out: out.pp("conv_norm_out").group_norm(channels, groups)?,
            conv_out: out.pp("conv_out").conv2d(Conv2dSpec::same(channels, out_channels, 3))?,
            conv_in_name: vb.pp("conv_in").prefix().to_owned(),
            conv_out_name: vb.pp("conv_out").prefix().to_owned(),
        })
    }

    /// `[B, in_channels, h, w]` to `[B, out_channels, H, W]`, where `H` and `W` are doubled by every block but the
    /// last.
    pub(crate) fn forward(&self, latents: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        let x = pass.conv2d(latents, &self.conv_in)?;
        pass.observe(&self.conv_in_name, &x)?;
        let mut x = self.mid_block.forward(x, pass)?;
        for block in &self.up_blocks {
            x = block.forward(x, pass)?;
        }
        let x = pass.norm_silu_conv2d(&x, &self.conv_norm_out, &self.conv_out, None)?;
        pass.observe(&self.conv_out_name, &x)?;
        Ok(x)
    }
}
