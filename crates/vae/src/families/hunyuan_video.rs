//! `AutoencoderKLHunyuanVideo`: the causal 3-D autoencoder of HunyuanVideo, of `autoencoder_kl_hunyuan_video.py`.

#[cfg(test)]
mod tests;

use super::blocks::{Blocks, Settings};
use super::{Family, refused};
use crate::config::Config;
use crate::graph::{Conv, Graph, GraphError, NodeId, Scope, Upsample};
use crate::latents::{LatentFormat, Normalization};
use crate::model::{Description, Framewise, Half, Tiling, Units};
use crate::{LoadError, VaeInfo};

pub(super) const FAMILY: Family = Family {
    class_name: "AutoencoderKLHunyuanVideo",
    describe: |config| HunyuanVideoConfig::read(config)?.description().map_err(refused(config)),
    read_latents: None,
    unused: &[],
};

/// Limits that no real model comes near; they keep every product of sizes far from overflow.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_LAYERS: usize = 64;
const MAX_FACTOR: usize = 64;

/// diffusers builds decoders for this factor only.
const TEMPORAL_COMPRESSION_RATIO: usize = 4;

/// Side of a tile in pixels, and pixels from one tile to the next: `tile_sample_min_height` and
/// `tile_sample_stride_height` of diffusers' constructor, and the same for the width.
const TILE_SAMPLE_MIN_SIZE: usize = 256;
const TILE_SAMPLE_STRIDE: usize = 192;

/// diffusers' `tile_sample_min_num_frames` and `tile_sample_stride_num_frames`, 16 and 12, in latent frames.
const MIN_NUM_FRAMES: usize = 4;
const STRIDE_NUM_FRAMES: usize = 3;

/// What `config.json` says of an `AutoencoderKLHunyuanVideo`.
#[derive(Clone, Debug, PartialEq)]
struct HunyuanVideoConfig {
    in_channels: usize,
    out_channels: usize,
    latent_channels: usize,
    /// From the picture's end to the latents' end.
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    norm_num_groups: usize,
    mid_block_add_attention: bool,
    scaling_factor: f32,
    spatial_compression_ratio: usize,
    temporal_compression_ratio: usize,
}

impl HunyuanVideoConfig {
    /// Reads and checks the settings. Defaults are those of the constructor in diffusers.
    fn read(config: &Config) -> Result<Self, LoadError> {
        let this = Self {
            in_channels: config.size("in_channels", 3, MAX_CHANNELS)?,
            out_channels: config.size("out_channels", 3, MAX_CHANNELS)?,
            latent_channels: config.size("latent_channels", 16, MAX_CHANNELS)?,
            block_out_channels: config.sizes("block_out_channels", &[128, 256, 512, 512], MAX_CHANNELS)?,
            layers_per_block: config.size("layers_per_block", 2, MAX_LAYERS)?,
            norm_num_groups: config.size("norm_num_groups", 32, MAX_CHANNELS)?,
            mid_block_add_attention: config.boolean("mid_block_add_attention", true)?,
            scaling_factor: config.number("scaling_factor", 0.476_986)?,
            spatial_compression_ratio: config.size("spatial_compression_ratio", 8, MAX_FACTOR)?,
            temporal_compression_ratio: config.size("temporal_compression_ratio", 4, MAX_FACTOR)?,
        };
        this.check(config)?;
        Ok(this)
    }

    /// Checks what no single key can tell.
    fn check(&self, config: &Config) -> Result<(), LoadError> {
        let settings = Settings {
            block_out_channels: &self.block_out_channels,
            norm_num_groups: self.norm_num_groups,
            scaling_factor: self.scaling_factor,
            up_block: "HunyuanVideoUpBlock3D",
            down_block: "HunyuanVideoDownBlock3D",
            default_blocks: 4,
        };
        settings.check(config)?;
        let blocks = self.block_out_channels.len();
        // Which blocks double what follows from the ratios and the number of blocks, and must come to the same.
        let reached =
            (0..blocks).map(|block| self.upsampling(block)).fold((1, 1), |(time, space), doubled| {
                (time << usize::from(doubled.frames), space << usize::from(doubled.sides))
            });
        if reached.0 != self.temporal_compression_ratio || reached.0 != TEMPORAL_COMPRESSION_RATIO {
            let expected = format!("{TEMPORAL_COMPRESSION_RATIO}, with three blocks or more");
            return Err(config.refuse("temporal_compression_ratio", &expected));
        }
        if reached.1 != self.spatial_compression_ratio {
            let expected = format!("a power of two that {blocks} blocks can reach, such as {}", reached.1);
            return Err(config.refuse("spatial_compression_ratio", &expected));
        }
        Ok(())
    }

    /// What the up block of this index doubles, as in `HunyuanVideoDecoder3D.__init__`; the down block of the same index
    /// halves it.
    fn upsampling(&self, block: usize) -> Upsample {
        let spatial_layers = self.spatial_compression_ratio.ilog2() as usize;
        let time_layers = TEMPORAL_COMPRESSION_RATIO.ilog2() as usize;
        let last = self.block_out_channels.len() - 1;
        Upsample { frames: block + time_layers >= last && block != last, sides: block < spatial_layers }
    }

    fn description(self) -> Result<Description, GraphError> {
        let (space, time) = (self.spatial_compression_ratio, self.temporal_compression_ratio);
        let (size, stride) = (TILE_SAMPLE_MIN_SIZE, TILE_SAMPLE_STRIDE);
        let half = |graph: Graph, tiling: Tiling, units: [usize; 2]| Half {
            graph,
            still: None,
            units: Units::default(),
            tiling: Ok(tiling),
            framewise: Some(Framewise {
                min_num_frames: MIN_NUM_FRAMES,
                stride_num_frames: STRIDE_NUM_FRAMES,
                units,
            }),
        };
        let decoder = Graph::build(true, self.latent_channels, |root, x| self.decoder(root, x))?;
        let encoder = Graph::build(true, self.in_channels, |root, x| self.encoder(root, x))?;
        Ok(Description {
            decoder: half(decoder, Tiling::of_strides(size, stride, space), [1, time]),
            encoder: half(encoder, Tiling::of_encoder_strides(size, stride, space), [time, 1]),
            info: VaeInfo {
                class_name: FAMILY.class_name.to_owned(),
                latent_channels: self.latent_channels,
                out_channels: self.out_channels,
                spatial_factor: space,
                temporal_factor: Some(time),
                latents: LatentFormat {
                    normalization: Normalization::Factors {
                        scaling_factor: self.scaling_factor,
                        shift_factor: None,
                    },
                    ..LatentFormat::default()
                },
                ..VaeInfo::default()
            },
        })
    }

    fn blocks(&self) -> Blocks {
        Blocks { norm_num_groups: self.norm_num_groups, is_video: true }
    }

    /// `post_quant_conv` and `HunyuanVideoDecoder3D`.
    fn decoder(&self, root: &Scope<'_>, mut x: NodeId) -> NodeId {
        let (blocks, scope) = (self.blocks(), root.pp("decoder"));
        x = blocks.quant_conv(&root.pp("post_quant_conv"), x, self.latent_channels);
        let last = self.block_out_channels.len() - 1;
        let conv_in = scope.pp("conv_in");
        x = conv_in.stage(blocks.conv(&conv_in, x, self.block_out_channels[last], 3));
        x = blocks.mid_block(&scope.pp("mid_block"), x, self.mid_block_add_attention);
        for (index, &channels) in self.block_out_channels.iter().rev().enumerate() {
            let doubled = self.upsampling(index);
            let upsample = (doubled.frames || doubled.sides).then_some(doubled);
            let scope = scope.pp("up_blocks").pp(index);
            x = blocks.up_block(&scope, x, channels, self.layers_per_block + 1, upsample);
        }
        blocks.conv_out(&scope, x, self.out_channels)
    }

    /// `HunyuanVideoEncoder3D` and `quant_conv`.
    fn encoder(&self, root: &Scope<'_>, mut x: NodeId) -> NodeId {
        let (blocks, scope) = (self.blocks(), root.pp("encoder"));
        let conv_in = scope.pp("conv_in");
        x = conv_in.stage(blocks.conv(&conv_in, x, self.block_out_channels[0], 3));
        for (index, &channels) in self.block_out_channels.iter().enumerate() {
            let halved = self.upsampling(index);
            let [time, side] = [halved.frames, halved.sides].map(|is_halved| 1 + usize::from(is_halved));
            let downsample = Conv { stride: [time, side, side], ..Conv::causal_3d(channels, 3) };
            let downsample = (halved.frames || halved.sides).then_some(downsample);
            let scope = scope.pp("down_blocks").pp(index);
            x = blocks.down_block(&scope, x, channels, self.layers_per_block, downsample);
        }
        x = blocks.mid_block(&scope.pp("mid_block"), x, self.mid_block_add_attention);
        // Means and variances.
        let moments = 2 * self.latent_channels;
        x = blocks.conv_out(&scope, x, moments);
        blocks.quant_conv(&root.pp("quant_conv"), x, moments)
    }
}
