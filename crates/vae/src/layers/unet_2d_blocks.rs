//! diffusers' `models/unets/unet_2d_blocks.py`, as far as autoencoders use it.

use super::{Attention, Downsample2D, Pass, ResnetBlock2D, Upsample2D, VarBuilder};
use crate::engine::Engine;
use crate::{LoadError, VaeError};

/// A resnet, attention unless the model has none, and a second resnet.
pub(crate) struct UNetMidBlock2D<E: Engine> {
    name: String,
    resnets: [ResnetBlock2D<E>; 2],
    attention: Option<Attention<E>>,
}

impl<E: Engine> UNetMidBlock2D<E> {
    /// Loads the block at `vb`.
    pub(crate) fn load(
        vb: &VarBuilder<'_, E>,
        channels: usize,
        groups: usize,
        add_attention: bool,
    ) -> Result<Self, LoadError> {
        let resnet =
            |index: usize| ResnetBlock2D::load(&vb.pp("resnets").pp(index), channels, channels, groups);
        Ok(Self {
            name: vb.prefix().to_owned(),
            resnets: [resnet(0)?, resnet(1)?],
            attention: add_attention
                .then(|| Attention::load(&vb.pp("attentions").pp(0), channels, groups))
                .transpose()?,
        })
    }

    /// Runs the block.
    pub(crate) fn forward(&self, x: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        let mut x = self.resnets[0].forward(x, pass)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(x, pass)?;
        }
        let x = self.resnets[1].forward(x, pass)?;
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}

/// A row of resnets, then an upsampler in all blocks but the last.
pub(crate) struct UpDecoderBlock2D<E: Engine> {
    name: String,
    resnets: Vec<ResnetBlock2D<E>>,
    upsampler: Option<Upsample2D<E>>,
}

impl<E: Engine> UpDecoderBlock2D<E> {
    /// Loads the block at `vb`, whose area is that of the block's input.
    pub(crate) fn load(
        vb: &VarBuilder<'_, E>,
        in_channels: usize,
        out_channels: usize,
        num_layers: usize,
        groups: usize,
        add_upsample: bool,
    ) -> Result<Self, LoadError> {
        let resnet = |index: usize| {
            let channels = if index == 0 { in_channels } else { out_channels };
            ResnetBlock2D::load(&vb.pp("resnets").pp(index), channels, out_channels, groups)
        };
        Ok(Self {
            name: vb.prefix().to_owned(),
            resnets: (0..num_layers).map(resnet).collect::<Result<_, _>>()?,
            upsampler: add_upsample
                .then(|| Upsample2D::load(&vb.pp("upsamplers").pp(0), out_channels))
                .transpose()?,
        })
    }

    /// Runs the block.
    pub(crate) fn forward(&self, mut x: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        for resnet in &self.resnets {
            x = resnet.forward(x, pass)?;
        }
        if let Some(upsampler) = &self.upsampler {
            x = upsampler.forward(x, pass)?;
        }
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}

/// A row of resnets, then a downsampler in all blocks but the last.
pub(crate) struct DownEncoderBlock2D<E: Engine> {
    name: String,
    resnets: Vec<ResnetBlock2D<E>>,
    downsampler: Option<Downsample2D<E>>,
}

impl<E: Engine> DownEncoderBlock2D<E> {
    /// Loads the block at `vb`, whose area is that of the block's input.
    pub(crate) fn load(
        vb: &VarBuilder<'_, E>,
        in_channels: usize,
        out_channels: usize,
        num_layers: usize,
        groups: usize,
        add_downsample: bool,
    ) -> Result<Self, LoadError> {
        let resnet = |index: usize| {
            let channels = if index == 0 { in_channels } else { out_channels };
            ResnetBlock2D::load(&vb.pp("resnets").pp(index), channels, out_channels, groups)
        };
        Ok(Self {
            name: vb.prefix().to_owned(),
            resnets: (0..num_layers).map(resnet).collect::<Result<_, _>>()?,
            downsampler: add_downsample
                .then(|| Downsample2D::load(&vb.pp("downsamplers").pp(0), out_channels))
                .transpose()?,
        })
    }

    /// Runs the block.
    pub(crate) fn forward(&self, mut x: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        for resnet in &self.resnets {
            x = resnet.forward(x, pass)?;
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(x, pass)?;
        }
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}
