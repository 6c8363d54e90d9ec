//! `AutoencoderKL`: the autoencoder of SD v1, SDXL, Flux and their kin. They differ in configuration only.

#[cfg(test)]
mod tests;

use super::blocks::{Blocks, Settings};
use super::{Family, refused};
use crate::config::Config;
use crate::graph::{Conv, Graph, GraphError, NodeId, Pad, Scope, Upsample};
use crate::latents::{LatentFormat, Normalization};
use crate::model::{Description, Half, Tiling};
use crate::{LoadError, VaeInfo};

const CLASS_NAME: &str = "AutoencoderKL";

pub(super) const FAMILY: Family = Family {
    class_name: CLASS_NAME,
    describe: |config| {
        AutoencoderKLConfig::read(config, &DEFAULTS)?.description(CLASS_NAME).map_err(refused(config))
    },
    read_latents: None,
};

/// Limits that no real model comes near; they keep every product of sizes far from overflow.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_LAYERS: usize = 64;
const MAX_SAMPLE_SIZE: usize = 1 << 20;

/// What `config.json` says of an `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AutoencoderKLConfig {
    in_channels: usize,
    out_channels: usize,
    pub(super) latent_channels: usize,
    /// Of the encoder, from the picture's end to the latents' end.
    block_out_channels: Vec<usize>,
    /// The same of the decoder.
    decoder_block_out_channels: Vec<usize>,
    layers_per_block: usize,
    norm_num_groups: usize,
    mid_block_add_attention: bool,
    use_quant_conv: bool,
    use_post_quant_conv: bool,
    scaling_factor: f32,
    shift_factor: Option<f32>,
    latents_mean: Option<Vec<f32>>,
    latents_std: Option<Vec<f32>>,
    /// Side of the pictures that the model was trained on; of use for tiling only.
    sample_size: usize,
}

/// What the constructor of a class in diffusers takes where it is told nothing.
pub(super) struct Defaults {
    pub(super) latent_channels: usize,
    pub(super) block_out_channels: &'static [usize],
    pub(super) layers_per_block: usize,
    pub(super) sample_size: usize,
}

const DEFAULTS: Defaults =
    Defaults { latent_channels: 4, block_out_channels: &[64], layers_per_block: 1, sample_size: 32 };

impl AutoencoderKLConfig {
    /// Reads and checks the settings.
    pub(super) fn read(config: &Config, defaults: &Defaults) -> Result<Self, LoadError> {
        let latent_channels = config.size("latent_channels", defaults.latent_channels, MAX_CHANNELS)?;
        let block_out_channels =
            config.sizes("block_out_channels", defaults.block_out_channels, MAX_CHANNELS)?;
        let this = Self {
            in_channels: config.size("in_channels", 3, MAX_CHANNELS)?,
            out_channels: config.size("out_channels", 3, MAX_CHANNELS)?,
            latent_channels,
            decoder_block_out_channels: block_out_channels.clone(),
            block_out_channels,
            layers_per_block: config.size("layers_per_block", defaults.layers_per_block, MAX_LAYERS)?,
            norm_num_groups: config.size("norm_num_groups", 32, MAX_CHANNELS)?,
            mid_block_add_attention: config.boolean("mid_block_add_attention", true)?,
            use_quant_conv: config.boolean("use_quant_conv", true)?,
            use_post_quant_conv: config.boolean("use_post_quant_conv", true)?,
            scaling_factor: config.number("scaling_factor", 0.18215)?,
            shift_factor: config.optional_number("shift_factor")?,
            latents_mean: config.optional_numbers("latents_mean", latent_channels)?,
            latents_std: config.optional_numbers("latents_std", latent_channels)?,
            sample_size: config.first_size("sample_size", defaults.sample_size, MAX_SAMPLE_SIZE)?,
        };
        this.check(config, defaults)?;
        Ok(this)
    }

    /// The same with a decoder of other widths than the encoder.
    pub(super) fn with_decoder(self, config: &Config, key: &str) -> Result<Self, LoadError> {
        let channels = config.sizes(key, &self.block_out_channels, MAX_CHANNELS)?;
        let (blocks, groups) = (self.block_out_channels.len(), self.norm_num_groups);
        if channels.len() != blocks || channels.iter().any(|channels| channels % groups != 0) {
            let expected = format!("{blocks} multiples of `norm_num_groups`, which is {groups}");
            return Err(config.refuse(key, &expected));
        }
        Ok(Self { decoder_block_out_channels: channels, ..self })
    }

    /// Checks what no single key can tell.
    fn check(&self, config: &Config, defaults: &Defaults) -> Result<(), LoadError> {
        let settings = Settings {
            block_out_channels: &self.block_out_channels,
            norm_num_groups: self.norm_num_groups,
            scaling_factor: self.scaling_factor,
            up_block: "UpDecoderBlock2D",
            down_block: "DownEncoderBlock2D",
            default_blocks: defaults.block_out_channels.len(),
        };
        settings.check(config)
    }

    /// Pixels per latent along each side: every block but the last doubles the picture.
    fn spatial_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    pub(super) fn description(self, class_name: &str) -> Result<Description, GraphError> {
        const ODD: &str = "its `sample_size` does not divide into tiles that overlap by a quarter";
        let factor = self.spatial_factor();
        let half =
            |graph: Graph, tiling: Option<Tiling>| Half { graph, tiling: tiling.ok_or(ODD), framewise: None };
        let decoder = Graph::build(false, self.latent_channels, |root, x| self.decoder(root, x))?;
        let encoder = Graph::build(false, self.in_channels, |root, x| self.encoder(root, x))?;
        Ok(Description {
            decoder: half(decoder, Tiling::of_decoder(self.sample_size, factor)),
            encoder: half(encoder, Tiling::of_encoder(self.sample_size, factor)),
            info: VaeInfo {
                class_name: class_name.to_owned(),
                latent_channels: self.latent_channels,
                out_channels: self.out_channels,
                spatial_factor: factor,
                latents: LatentFormat {
                    normalization: Normalization::of_config(
                        self.scaling_factor,
                        self.shift_factor,
                        self.latents_mean,
                        self.latents_std,
                    ),
                    ..LatentFormat::default()
                },
                ..VaeInfo::default()
            },
        })
    }

    fn blocks(&self) -> Blocks {
        Blocks { norm_num_groups: self.norm_num_groups, is_video: false }
    }

    /// `post_quant_conv`, and diffusers' `Decoder` of `models/autoencoders/vae.py`.
    fn decoder(&self, root: &Scope<'_>, mut x: NodeId) -> NodeId {
        let (blocks, scope) = (self.blocks(), root.pp("decoder"));
        if self.use_post_quant_conv {
            x = blocks.quant_conv(&root.pp("post_quant_conv"), x, self.latent_channels);
        }
        let last = self.decoder_block_out_channels.len() - 1;
        let conv_in = scope.pp("conv_in");
        x = conv_in.stage(blocks.conv(&conv_in, x, self.decoder_block_out_channels[last], 3));
        x = blocks.mid_block(&scope.pp("mid_block"), x, self.mid_block_add_attention);
        for (index, &channels) in self.decoder_block_out_channels.iter().rev().enumerate() {
            let upsample = (index != last).then_some(Upsample { frames: false, sides: true });
            let scope = scope.pp("up_blocks").pp(index);
            x = blocks.up_block(&scope, x, channels, self.layers_per_block + 1, upsample);
        }
        blocks.conv_out(&scope, x, self.out_channels)
    }

    /// diffusers' `Encoder`, and `quant_conv`.
    fn encoder(&self, root: &Scope<'_>, mut x: NodeId) -> NodeId {
        let (blocks, scope) = (self.blocks(), root.pp("encoder"));
        let last = self.block_out_channels.len() - 1;
        let conv_in = scope.pp("conv_in");
        x = conv_in.stage(blocks.conv(&conv_in, x, self.block_out_channels[0], 3));
        for (index, &channels) in self.block_out_channels.iter().enumerate() {
            // Zeros below and to the right only: diffusers' `F.pad(x, (0, 1, 0, 1))` with `downsample_padding=0`.
            let end = Pad { after: 1, ..Pad::default() };
            let downsample =
                Conv { stride: [1, 2, 2], pad: [Pad::default(), end, end], ..Conv::same_2d(channels, 3) };
            let scope = scope.pp("down_blocks").pp(index);
            let downsample = (index != last).then_some(downsample);
            x = blocks.down_block(&scope, x, channels, self.layers_per_block, downsample);
        }
        x = blocks.mid_block(&scope.pp("mid_block"), x, self.mid_block_add_attention);
        // Means and variances.
        let moments = 2 * self.latent_channels;
        x = blocks.conv_out(&scope, x, moments);
        match self.use_quant_conv {
            true => blocks.quant_conv(&root.pp("quant_conv"), x, moments),
            false => x,
        }
    }
}
