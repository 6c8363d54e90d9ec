//! The blocks that HunyuanVideo's encoder and decoder have in common, of `autoencoder_kl_hunyuan_video.py`.

use super::Costs;
use super::config::HunyuanVideoConfig;
use super::pass::{CausalConv3d, Pass};
use super::workload::{Cost, Stage};
use crate::engine::VideoEngine;
use crate::layers::{Attention, VarBuilder};
use crate::{LoadError, VaeError};

/// `conv2(silu(norm2(conv1(silu(norm1(x)))))) + shortcut(x)`, where the shortcut is a convolution without neighbours if
/// the number of channels changes.
pub(super) struct HunyuanVideoResnetBlockCausal3D<E: VideoEngine> {
    name: String,
    norm1: E::GroupNorm,
    conv1: CausalConv3d<E>,
    norm2: E::GroupNorm,
    conv2: CausalConv3d<E>,
    conv_shortcut: Option<CausalConv3d<E>>,
}

impl<E: VideoEngine> HunyuanVideoResnetBlockCausal3D<E> {
    pub(super) fn load(
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
    pub(super) fn forward(&self, x: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
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
pub(super) struct HunyuanVideoMidBlock3D<E: VideoEngine> {
    name: String,
    resnets: [HunyuanVideoResnetBlockCausal3D<E>; 2],
    /// With the name of its place and its cost.
    attention: Option<(String, Attention<E>, Cost)>,
}

impl<E: VideoEngine> HunyuanVideoMidBlock3D<E> {
    pub(super) fn load(
        vb: &VarBuilder<'_, E>,
        config: &HunyuanVideoConfig,
        channels: usize,
        stage: Stage,
        costs: &Costs,
    ) -> Result<Self, LoadError> {
        let groups = config.norm_num_groups;
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

    pub(super) fn forward(&self, x: E::Clip, pass: &mut Pass<'_, E>) -> Result<E::Clip, VaeError> {
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
