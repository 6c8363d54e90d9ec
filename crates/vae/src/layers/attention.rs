//! diffusers' `Attention` as its autoencoders use it: one head, a group norm before and a residual around it.

use super::{Cost, Pass, VarBuilder};
use crate::engine::Engine;
use crate::{LoadError, VaeError};

/// `x + to_out(attention(group_norm(x)))` over all positions of each image.
pub(crate) struct Attention<E: Engine> {
    pub(super) name: String,
    pub(crate) weights: E::Attention,
    pub(super) cost: Cost,
}

impl<E: Engine> Attention<E> {
    /// Loads the block at `vb`, under today's names of its layers or those from before diffusers 0.13.
    pub(crate) fn load(vb: &VarBuilder<'_, E>, channels: usize, groups: usize) -> Result<Self, LoadError> {
        let linear = |name: &str, old_name: &str| {
            let old = vb.pp(old_name);
            let at = if old.contains("weight") { old } else { vb.pp(name) };
            at.linear(channels, channels)
        };
        let weights = vb.engine().attention(
            vb.pp("group_norm").group_norm(channels, groups)?,
            linear("to_q", "query")?,
            linear("to_k", "key")?,
            linear("to_v", "value")?,
            linear("to_out.0", "proj_attn")?,
        )?;
        // Four linear layers, the logits and the weighted sum.
        let cost =
            Cost { fixed: 4 * channels * channels * vb.area(), per_position: 2 * channels * vb.area() };
        Ok(Self { name: vb.prefix().to_owned(), weights, cost: vb.add(cost, channels) })
    }

    /// Runs the block.
    pub(crate) fn forward(&self, x: E::Tensor, pass: &mut Pass<'_, E>) -> Result<E::Tensor, VaeError> {
        let x = pass.attention(x, self)?;
        pass.observe(&self.name, &x)?;
        Ok(x)
    }
}
