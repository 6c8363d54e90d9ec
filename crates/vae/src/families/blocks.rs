//! The blocks of diffusers' `AutoencoderKL` and of what was made from it: resnets, a middle with attention, and rows of
//! resnets that end in an upsampler or a downsampler.

use crate::LoadError;
use crate::config::Config;
use crate::graph::{Activation, Attention, Conv, Extent, NodeId, Scope, Upsample};

/// Every norm of these models has this.
const EPS: f64 = 1e-6;

/// A limit that no real model comes near; it keeps every product of sizes far from overflow.
const MAX_BLOCKS: usize = 8;

/// Settings that all of these models have.
pub(super) struct Settings<'a> {
    pub(super) block_out_channels: &'a [usize],
    pub(super) norm_num_groups: usize,
    pub(super) scaling_factor: f32,
    /// The one kind of block that each row of them has.
    pub(super) up_block: &'a str,
    pub(super) down_block: &'a str,
    /// How many blocks the constructor in diffusers has when it is told nothing.
    pub(super) default_blocks: usize,
}

impl Settings<'_> {
    /// Checks what no single key can tell.
    pub(super) fn check(&self, config: &Config) -> Result<(), LoadError> {
        let blocks = self.block_out_channels.len();
        if blocks > MAX_BLOCKS {
            return Err(config.refuse("block_out_channels", &format!("at most {MAX_BLOCKS} blocks")));
        }
        let groups = self.norm_num_groups;
        if self.block_out_channels.iter().any(|channels| channels % groups != 0) {
            let expected = format!("multiples of `norm_num_groups`, which is {groups}");
            return Err(config.refuse("block_out_channels", &expected));
        }
        if self.scaling_factor == 0.0 {
            return Err(config.refuse("scaling_factor", "a number other than zero"));
        }
        let act_fn = config.text("act_fn", "silu")?;
        if !["silu", "swish"].contains(&act_fn.to_lowercase().as_str()) {
            return Err(config.refuse("act_fn", "\"silu\""));
        }
        for (key, block) in [("up_block_types", self.up_block), ("down_block_types", self.down_block)] {
            let types = config.texts(key, &vec![block; self.default_blocks])?;
            if types.len() != blocks || types.iter().any(|found| found != block) {
                let expected = format!("{blocks} times \"{block}\", one for each of `block_out_channels`");
                return Err(config.refuse(key, &expected));
            }
        }
        Ok(())
    }
}

/// What the blocks of one model have in common.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) norm_num_groups: usize,
    /// Causal convolutions over clips, whose parameters are one level deeper in the checkpoint, in `conv`.
    pub(super) is_video: bool,
}

impl Blocks {
    /// A convolution at `scope` that keeps the size.
    pub(super) fn conv(self, scope: &Scope<'_>, x: NodeId, out_channels: usize, side: usize) -> NodeId {
        match self.is_video {
            true => scope.pp("conv").conv(x, Conv::causal_3d(out_channels, side)),
            false => scope.conv(x, Conv::same_2d(out_channels, side)),
        }
    }

    /// `post_quant_conv` and `quant_conv`, whose parameters are not deeper.
    pub(super) fn quant_conv(self, scope: &Scope<'_>, x: NodeId, channels: usize) -> NodeId {
        let conv = match self.is_video {
            true => Conv::causal_3d(channels, 1),
            false => Conv::same_2d(channels, 1),
        };
        scope.stage(scope.conv(x, conv))
    }

    /// `silu(norm(x))`, with the norm at `scope`.
    fn norm_silu(self, scope: &Scope<'_>, x: NodeId) -> NodeId {
        let normed = scope.group_norm(x, self.norm_num_groups, EPS);
        scope.activation(normed, Activation::Silu)
    }

    /// The end of an encoder or a decoder: norm, activation and convolution.
    pub(super) fn conv_out(self, scope: &Scope<'_>, x: NodeId, out_channels: usize) -> NodeId {
        let x = self.norm_silu(&scope.pp("conv_norm_out"), x);
        let scope = scope.pp("conv_out");
        scope.stage(self.conv(&scope, x, out_channels, 3))
    }

    /// `ResnetBlock2D`: `conv2(silu(norm2(conv1(silu(norm1(x)))))) + shortcut(x)`, where the shortcut is a convolution without
    /// neighbours if the number of channels changes.
    pub(super) fn resnet(self, scope: &Scope<'_>, x: NodeId, out_channels: usize) -> NodeId {
        let hidden = self.norm_silu(&scope.pp("norm1"), x);
        let hidden = self.conv(&scope.pp("conv1"), hidden, out_channels, 3);
        let shortcut = match scope.channels(x) == out_channels {
            true => x,
            false => self.conv(&scope.pp("conv_shortcut"), x, out_channels, 1),
        };
        let hidden = self.norm_silu(&scope.pp("norm2"), hidden);
        let hidden = self.conv(&scope.pp("conv2"), hidden, out_channels, 3);
        scope.stage(scope.add(hidden, shortcut))
    }

    /// `UNetMidBlock2D`: a resnet, attention unless the model has none, and a second resnet.
    pub(super) fn mid_block(self, scope: &Scope<'_>, x: NodeId, add_attention: bool) -> NodeId {
        let channels = scope.channels(x);
        let mut x = self.resnet(&scope.pp("resnets.0"), x, channels);
        if add_attention {
            x = self.attention(&scope.pp("attentions.0"), x);
        }
        scope.stage(self.resnet(&scope.pp("resnets.1"), x, channels))
    }

    /// `Attention` with one head, a group norm before it and a residual around it.
    fn attention(self, scope: &Scope<'_>, x: NodeId) -> NodeId {
        let channels = scope.channels(x);
        let normed = scope.pp("group_norm").group_norm(x, self.norm_num_groups, EPS);
        let projected = ["to_q", "to_k", "to_v"].map(|name| scope.pp(name).linear(normed, channels));
        let extent = if self.is_video { Extent::Causal } else { Extent::All };
        let attended = scope.attention(projected, Attention { heads: 1, extent });
        let out = scope.pp("to_out.0").linear(attended, channels);
        scope.stage(scope.add(out, x))
    }

    /// `UpDecoderBlock2D`: a row of resnets, then an upsampler if there is one.
    pub(super) fn up_block(
        self,
        scope: &Scope<'_>,
        mut x: NodeId,
        out_channels: usize,
        resnets: usize,
        upsample: Option<Upsample>,
    ) -> NodeId {
        for index in 0..resnets {
            x = self.resnet(&scope.pp("resnets").pp(index), x, out_channels);
        }
        if let Some(upsample) = upsample {
            let scope = scope.pp("upsamplers.0");
            x = self.conv(&scope.pp("conv"), scope.upsample(x, upsample), out_channels, 3);
            scope.stage(x);
        }
        scope.stage(x)
    }

    /// `DownEncoderBlock2D`: a row of resnets, then a convolution with a stride if there is one.
    pub(super) fn down_block(
        self,
        scope: &Scope<'_>,
        mut x: NodeId,
        out_channels: usize,
        resnets: usize,
        downsample: Option<Conv>,
    ) -> NodeId {
        for index in 0..resnets {
            x = self.resnet(&scope.pp("resnets").pp(index), x, out_channels);
        }
        if let Some(conv) = downsample {
            let scope = scope.pp("downsamplers.0");
            let layer = if self.is_video { scope.pp("conv.conv") } else { scope.pp("conv") };
            x = layer.conv(x, conv);
            scope.stage(x);
        }
        scope.stage(x)
    }
}
