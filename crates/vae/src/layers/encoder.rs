//! diffusers' `Encoder` of `models/autoencoders/vae.py`.

use super::{Conv2d, DownEncoderBlock2D, Pass, UNetMidBlock2D, VarBuilder};
use crate::engine::{Conv2dSpec, Engine};
use crate::{LoadError, VaeError};

/// From pictures to the moments of latents.
pub(crate) struct Encoder<E: Engine> {
    conv_in: Conv2d<E>,
    down_blocks: Vec<DownEncoderBlock2D<E>>,
    mid_block: UNetMidBlock2D<E>,
    conv_norm_out: E::GroupNorm,
    conv_out: Conv2d<E>,
    conv_in_name: String,
    conv_out_name: String,
}

impl<E: Engine> Encoder<E> {
    /// Loads the encoder at `vb`. `block_out_channels`, not empty, goes from the picture's end to the latents' end;
    /// `out_channels` counts means and variances (`double_z`).
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
        let mut channels = block_out_channels[0];
        let first = vb.at_area(1 << (2 * last));
        let conv_in = first.pp("conv_in").conv2d(Conv2dSpec::same(in_channels, channels, 3))?;
        let mut down_blocks = Vec::new();
        for (index, &block_channels) in block_out_channels.iter().enumerate() {
            // Each block before this one has halved height and width.
            let vb = vb.pp("down_blocks").pp(index).at_area(1 << (2 * (last - index)));
            let add_downsample = index != last;
            down_blocks.push(DownEncoderBlock2D::load(
                &vb,
                channels,
                block_channels,
                layers_per_block,
                groups,
                add_downsample,
            )?);
            channels = block_channels;
        }
        Ok(Self {
            conv_in,
            down_blocks,
            mid_block: UNetMidBlock2D::load(&vb.pp("mid_block"), channels, groups, mid_block_add_attention)?,
            conv_norm_out: vb.pp("conv_norm_out").group_norm(channels, groups)?,
            conv_out: vb.pp("conv_out").conv2d(Conv2dSpec::same(channels, out_channels, 3))?,
            conv_in_name: vb.pp("conv_in").prefix().to_owned(),
            conv_out_name: vb.pp("conv_out").prefix().to_owned(),
        })
    }

    /// `[B, in_channels, H, W]` to `[B, out_channels, h, w]`, where every block but the last halves `H` and `W`,
    /// rounded down.
    pub(crate) fn forward(&self, pixels: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        let mut x = pass.conv2d(pixels, &self.conv_in)?;
        pass.observe(&self.conv_in_name, &x)?;
        for block in &self.down_blocks {
            x = block.forward(x, pass)?;
        }
        let x = self.mid_block.forward(x, pass)?;
        let x = pass.norm_silu_conv2d(&x, &self.conv_norm_out, &self.conv_out, None)?;
        pass.observe(&self.conv_out_name, &x)?;
        Ok(x)
    }
}
