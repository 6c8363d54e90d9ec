//! diffusers' `models/downsampling.py`.

use super::{Conv2d, Pass, VarBuilder};
use crate::engine::{Conv2dSpec, Engine};
use crate::{LoadError, VaeError};

/// Halves height and width, rounded down, by a convolution with stride 2.
pub(crate) struct Downsample2D<E: Engine> {
    name: String,
    conv: Conv2d<E>,
}

impl<E: Engine> Downsample2D<E> {
    /// Loads the layer at `vb`, whose area is that of the layer's input.
    pub(crate) fn load(vb: &VarBuilder<'_, E>, channels: usize) -> Result<Self, LoadError> {
        let spec = Conv2dSpec {
            stride: 2,
            // Zeros below and to the right only: diffusers' `F.pad(x, (0, 1, 0, 1))` with `downsample_padding=0`.
            padding: [0, 1, 0, 1],
            ..Conv2dSpec::same(channels, channels, 3)
        };
        let conv = vb.at_area(vb.area() / 4).pp("conv").conv2d(spec)?;
        Ok(Self { name: vb.prefix().to_owned(), conv })
    }

    /// Runs the layer.
    pub(crate) fn forward(&self, x: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        let x = pass.conv2d(x, &self.conv)?;
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}
