//! The blocks of Wan's autoencoder (`autoencoder_kl_wan.py`), which those of Qwen-Image are too.
//!
//! diffusers works on a few frames at a time and keeps the last two before each convolution. Here are whole clips, which comes
//! to the same: every convolution sees zeros before the first frame. Only what changes the number of frames treats the first
//! one differently, as diffusers has no frames before it yet.

use super::wan_settings::Settings;
use super::wan_shortcuts as shortcuts;
use crate::graph::{
    Activation, Attention, Axis, BlockOrder, Blocks, Conv, ConvWeight, Extent, Graph, GraphError, NodeId, Op,
    Pad, PadMode, Scope, Upsample,
};

/// diffusers' `F.normalize` divides by no norm smaller than this.
const EPS: f64 = 1e-12;

/// What a graph is of, and how the weights of its causal convolutions lie in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// Two frames or more.
    Clip,
    /// One frame, through the weights of clips.
    Still,
    /// One frame, through weights of pictures.
    Picture,
}

/// Builds the graphs of one model.
#[derive(Clone, Copy)]
pub(super) struct WanBlocks<'a> {
    pub(super) settings: &'a Settings,
    pub(super) frames: Frames,
}

impl WanBlocks<'_> {
    /// From latents to pictures, clamped to [-1, 1].
    pub(super) fn decoder(self) -> Result<Graph, GraphError> {
        let is_video = self.frames == Frames::Clip;
        Graph::build(is_video, self.settings.z_dim, |root, x| self.decode(root, x))
    }

    /// From pictures to the moments of latents.
    pub(super) fn encoder(self) -> Result<Graph, GraphError> {
        let is_video = self.frames == Frames::Clip;
        Graph::build(is_video, self.settings.channels[0], |root, x| self.encode(root, x))
    }

    /// `post_quant_conv`, `WanDecoder3d` and `unpatchify`.
    fn decode(self, root: &Scope<'_>, mut x: NodeId) -> NodeId {
        let Settings { is_residual, channels: [_, out_channels], patch_size, .. } = *self.settings;
        let scope = root.pp("decoder");
        x = self.conv_stage(&root.pp("post_quant_conv"), x, self.settings.z_dim, 1);
        let dims = self.settings.dims(self.settings.decoder_base_dim);
        let last = self.settings.dim_mult.len() - 1;
        x = self.conv_stage(&scope.pp("conv_in"), x, dims[last + 1], 3);
        x = self.mid_block(&scope.pp("mid_block"), x);
        for (index, &channels) in dims[1..].iter().rev().enumerate() {
            let scope = scope.pp("up_blocks").pp(index);
            let frames = self.settings.up_frames(index);
            let shortcut = (is_residual && index != last)
                .then(|| shortcuts::duplicate(&scope, x, channels, frames, self.frames == Frames::Clip));
            for resnet in 0..=self.settings.num_res_blocks {
                x = self.resnet(&scope.pp("resnets").pp(resnet), x, channels);
            }
            if index != last {
                let (name, out) =
                    if is_residual { ("upsampler", channels) } else { ("upsamplers.0", channels / 2) };
                x = self.upsample(&scope.pp(name), x, out, frames);
            }
            x = scope.stage(shortcut.map_or(x, |shortcut| scope.add(x, shortcut)));
        }
        x = self.conv_out(&scope, x, out_channels * patch_size * patch_size);
        if patch_size > 1 {
            x = root.op(Op::DepthToSpace(self.patches()), &[x]);
        }
        root.op(Op::Clamp { min: -1.0, max: 1.0 }, &[x])
    }

    /// `patchify`, `WanEncoder3d` and `quant_conv`.
    fn encode(self, root: &Scope<'_>, mut x: NodeId) -> NodeId {
        let scope = root.pp("encoder");
        if self.settings.patch_size > 1 {
            x = root.op(Op::SpaceToDepth(self.patches()), &[x]);
        }
        let dims = self.settings.dims(self.settings.base_dim);
        let last = self.settings.dim_mult.len() - 1;
        x = self.conv_stage(&scope.pp("conv_in"), x, dims[0], 3);
        let mut layer = 0;
        for (index, &channels) in dims[1..].iter().enumerate() {
            let halves_frames = self.settings.temperal_downsample.get(index) == Some(&true);
            if self.settings.is_residual {
                let scope = scope.pp("down_blocks").pp(index);
                let factors = [1 + usize::from(halves_frames), 1 + usize::from(index != last)];
                let shortcut = shortcuts::mean(&scope, x, channels, factors, self.frames == Frames::Clip);
                for resnet in 0..self.settings.num_res_blocks {
                    x = self.resnet(&scope.pp("resnets").pp(resnet), x, channels);
                }
                if index != last {
                    x = self.downsample(&scope.pp("downsampler"), x, halves_frames);
                }
                x = scope.stage(scope.add(x, shortcut));
                continue;
            }
            // One row of layers, whatever they are.
            for _ in 0..self.settings.num_res_blocks {
                x = self.resnet(&scope.pp("down_blocks").pp(layer), x, channels);
                layer += 1;
            }
            if index != last {
                x = self.downsample(&scope.pp("down_blocks").pp(layer), x, halves_frames);
                layer += 1;
            }
        }
        x = self.mid_block(&scope.pp("mid_block"), x);
        // Means and variances.
        let moments = 2 * self.settings.z_dim;
        x = self.conv_out(&scope, x, moments);
        self.conv_stage(&root.pp("quant_conv"), x, moments, 1)
    }

    /// `WanCausalConv3d`.
    fn conv(self, scope: &Scope<'_>, x: NodeId, out_channels: usize, side: usize) -> NodeId {
        let zeros = |before| Pad { before, after: 0, mode: PadMode::Zeros };
        let of_picture = Conv::same_2d(out_channels, side);
        let [_, rows, columns] = of_picture.pad;
        scope.conv(
            x,
            match self.frames {
                Frames::Clip => {
                    Conv { pad: [zeros(side - 1), rows, columns], ..Conv::causal_3d(out_channels, side) }
                }
                Frames::Still => Conv::last_tap(out_channels, side),
                Frames::Picture => of_picture,
            },
        )
    }

    fn conv_stage(self, scope: &Scope<'_>, x: NodeId, out_channels: usize, side: usize) -> NodeId {
        scope.stage(self.conv(scope, x, out_channels, side))
    }

    /// `WanRMS_norm`: `x / max(‖x‖, 1e-12) * sqrt(channels) * gamma`.
    fn norm(scope: &Scope<'_>, x: NodeId) -> NodeId {
        let floor = EPS / (scope.channels(x) as f64).sqrt();
        scope.op(Op::RmsNorm { eps: 0.0, floor, scale: Some("gamma") }, &[x])
    }

    fn norm_silu(scope: &Scope<'_>, x: NodeId) -> NodeId {
        scope.activation(Self::norm(scope, x), Activation::Silu)
    }

    fn conv_out(self, scope: &Scope<'_>, x: NodeId, out_channels: usize) -> NodeId {
        let x = Self::norm_silu(&scope.pp("norm_out"), x);
        self.conv_stage(&scope.pp("conv_out"), x, out_channels, 3)
    }

    /// `WanResidualBlock`.
    fn resnet(self, scope: &Scope<'_>, x: NodeId, out_channels: usize) -> NodeId {
        let hidden = Self::norm_silu(&scope.pp("norm1"), x);
        let hidden = self.conv(&scope.pp("conv1"), hidden, out_channels, 3);
        let shortcut = match scope.channels(x) == out_channels {
            true => x,
            false => self.conv(&scope.pp("conv_shortcut"), x, out_channels, 1),
        };
        let hidden = Self::norm_silu(&scope.pp("norm2"), hidden);
        let hidden = self.conv(&scope.pp("conv2"), hidden, out_channels, 3);
        scope.stage(scope.add(hidden, shortcut))
    }

    /// `WanMidBlock`.
    fn mid_block(self, scope: &Scope<'_>, mut x: NodeId) -> NodeId {
        let channels = scope.channels(x);
        x = self.resnet(&scope.pp("resnets.0"), x, channels);
        x = self.attention(&scope.pp("attentions.0"), x);
        scope.stage(self.resnet(&scope.pp("resnets.1"), x, channels))
    }

    /// `WanAttentionBlock`: one head, within each frame.
    fn attention(self, scope: &Scope<'_>, x: NodeId) -> NodeId {
        let channels = scope.channels(x);
        let normed = Self::norm(&scope.pp("norm"), x);
        let all = scope.pp("to_qkv").linear(normed, 3 * channels);
        let projected = [0, 1, 2]
            .map(|part| slice(scope, all, Axis::Channels, part * channels, Some((part + 1) * channels)));
        let extent = if self.frames == Frames::Clip { Extent::Frame } else { Extent::All };
        let attended = scope.attention(projected, Attention { heads: 1, extent });
        scope.stage(scope.add(scope.pp("proj").linear(attended, channels), x))
    }

    /// `WanResample` upwards. The first frame stays one, and `time_conv` neither sees nor makes it.
    fn upsample(self, scope: &Scope<'_>, mut x: NodeId, out_channels: usize, frames: usize) -> NodeId {
        if frames == 2 && self.frames == Frames::Clip {
            let first = slice(scope, x, Axis::Frames, 0, Some(1));
            let past = Pad { before: 2, after: 0, mode: PadMode::Zeros };
            let conv =
                Conv { pad: [past, Pad::default(), Pad::default()], ..time_conv(2 * scope.channels(x)) };
            let rest = scope.pp("time_conv").conv(slice(scope, x, Axis::Frames, 1, None), conv);
            // The first half of the channels is the first of two frames.
            let blocks = Blocks { factors: [2, 1, 1], order: BlockOrder::ChannelLast };
            let rest = scope.op(Op::DepthToSpace(blocks), &[rest]);
            x = scope.op(Op::Concat(Axis::Frames), &[first, rest]);
        }
        x = scope.upsample(x, Upsample { frames: false, sides: true });
        scope.stage(scope.pp("resample.1").conv(x, Conv::same_2d(out_channels, 3)))
    }

    /// `WanResample` downwards. The first frame stays one, and each two behind it become one.
    fn downsample(self, scope: &Scope<'_>, mut x: NodeId, halves_frames: bool) -> NodeId {
        let channels = scope.channels(x);
        // `ZeroPad2d((0, 1, 0, 1))`.
        let end = Pad { after: 1, ..Pad::default() };
        let conv = Conv { stride: [1, 2, 2], pad: [Pad::default(), end, end], ..Conv::same_2d(channels, 3) };
        x = scope.pp("resample.1").conv(x, conv);
        if halves_frames && self.frames == Frames::Clip {
            let first = slice(scope, x, Axis::Frames, 0, Some(1));
            let rest = scope.pp("time_conv").conv(x, Conv { stride: [2, 1, 1], ..time_conv(channels) });
            x = scope.op(Op::Concat(Axis::Frames), &[first, rest]);
        }
        scope.stage(x)
    }

    fn patches(self) -> Blocks {
        let side = self.settings.patch_size;
        Blocks { factors: [1, side, side], order: BlockOrder::ColumnFirst }
    }
}

/// `time_conv` without its padding.
fn time_conv(out_channels: usize) -> Conv {
    Conv {
        kernel: [3, 1, 1],
        pad: [Pad::default(); 3],
        weight: ConvWeight::Conv3d,
        ..Conv::same_2d(out_channels, 1)
    }
}

pub(super) fn slice(scope: &Scope<'_>, x: NodeId, axis: Axis, start: usize, end: Option<usize>) -> NodeId {
    scope.op(Op::Slice { axis, start, end }, &[x])
}
