//! diffusers' `models/upsampling.py`.

use super::{Conv2d, Pass, VarBuilder};
use crate::engine::{Conv2dSpec, Engine};
use crate::{LoadError, VaeError};

/// Doubles height and width by repeating each value, then convolves.
pub(crate) struct Upsample2D<E: Engine> {
    name: String,
    conv: Conv2d<E>,
}

impl<E: Engine> Upsample2D<E> {
    /// Loads the layer at `vb`, whose area is that of the layer's input.
    pub(crate) fn load(vb: &VarBuilder<'_, E>, channels: usize) -> Result<Self, LoadError> {
        let conv = vb.at_area(4 * vb.area()).pp("conv").conv2d(Conv2dSpec::same(channels, channels, 3))?;
        Ok(Self { name: vb.prefix().to_owned(), conv })
    }

    /// Runs the layer.
    pub(crate) fn forward(&self, x: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        let x = pass.upsample2x_conv2d(x, &self.conv)?;
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}
