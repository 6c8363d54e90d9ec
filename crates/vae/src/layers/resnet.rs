//! diffusers' `models/resnet.py`, without time embeddings: autoencoders have none.

use super::{Conv2d, Pass, VarBuilder};
use crate::engine::{Conv2dSpec, Engine};
use crate::{LoadError, VaeError};

/// `conv2(silu(norm2(conv1(silu(norm1(x)))))) + shortcut(x)`, where the shortcut is a 1×1 convolution if the number of
/// channels changes.
pub(crate) struct ResnetBlock2D<E: Engine> {
    name: String,
    norm1: E::GroupNorm,
    conv1: Conv2d<E>,
    norm2: E::GroupNorm,
    conv2: Conv2d<E>,
    conv_shortcut: Option<Conv2d<E>>,
}

impl<E: Engine> ResnetBlock2D<E> {
    /// Loads the block at `vb`.
    pub(crate) fn load(
        vb: &VarBuilder<'_, E>,
        in_channels: usize,
        out_channels: usize,
        groups: usize,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            name: vb.prefix().to_owned(),
            norm1: vb.pp("norm1").group_norm(in_channels, groups)?,
            conv1: vb.pp("conv1").conv2d(Conv2dSpec::same(in_channels, out_channels, 3))?,
            norm2: vb.pp("norm2").group_norm(out_channels, groups)?,
            conv2: vb.pp("conv2").conv2d(Conv2dSpec::same(out_channels, out_channels, 3))?,
            conv_shortcut: (in_channels != out_channels)
                .then(|| vb.pp("conv_shortcut").conv2d(Conv2dSpec::same(in_channels, out_channels, 1)))
                .transpose()?,
        })
    }

    /// Runs the block. No more than two tensors live between its steps: `x`, later the shortcut made from it, and the
    /// hidden state.
    pub(crate) fn forward(&self, x: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        let hidden = pass.norm_silu_conv2d(&x, &self.norm1, &self.conv1, None)?;
        let residual = match &self.conv_shortcut {
            Some(conv) => pass.conv2d(x, conv)?,
            None => x,
        };
        let x = pass.norm_silu_conv2d(&hidden, &self.norm2, &self.conv2, Some(residual))?;
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}
