//! The settings of Wan's autoencoder and of Qwen-Image's, which are the same in another place or with other defaults.

use crate::LoadError;
use crate::config::Config;
use crate::latents::Normalization;
use crate::model::{End, Tiling, Units};

/// Limits that no real model comes near; they keep every product of sizes far from overflow.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_LAYERS: usize = 64;
const MAX_BLOCKS: usize = 8;
const MAX_FACTOR: usize = 1 << 10;

/// Side of a tile in pixels, and pixels from one tile to the next: `tile_sample_min_height` and
/// `tile_sample_stride_height` of diffusers' constructors, and the same for the width.
const TILE_SAMPLE_MIN_SIZE: usize = 256;
const TILE_SAMPLE_STRIDE: usize = 192;

/// What a class in diffusers takes where its configuration says nothing.
pub(super) struct Defaults {
    pub(super) decoder_base_dim: Option<usize>,
    pub(super) dim_mult: &'static [usize],
    pub(super) temperal_downsample: &'static [bool],
    pub(super) is_residual: bool,
    /// Channels of pictures.
    pub(super) channels: usize,
    /// `latents_mean` and `latents_std`, one for each latent channel.
    pub(super) latents: [&'static [f32]; 2],
}

/// What `config.json` says of one of these models.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) base_dim: usize,
    pub(super) decoder_base_dim: usize,
    /// Channels of the latents.
    pub(super) z_dim: usize,
    /// Channels of each block in units of `base_dim`, from the picture's end to the latents' end.
    pub(super) dim_mult: Vec<usize>,
    /// Residual blocks of each block of the encoder; the decoder's have one more.
    pub(super) num_res_blocks: usize,
    /// Whether each block but the last halves the frames too, as diffusers spells it.
    pub(super) temperal_downsample: Vec<bool>,
    /// Whether blocks have shortcuts around all of what they do.
    pub(super) is_residual: bool,
    /// Channels of the pictures that go in, and of those that come out.
    pub(super) channels: [usize; 2],
    /// Pixels along each side of which channels are made before the encoder and behind the decoder.
    pub(super) patch_size: usize,
    pub(super) normalization: Normalization,
}

impl Settings {
    /// Reads and checks the settings of a class that has keys for all of them.
    pub(super) fn read(config: &Config, defaults: &Defaults) -> Result<Self, LoadError> {
        let patch_size = config.size("patch_size", 1, MAX_FACTOR)?;
        let default = defaults.channels * patch_size * patch_size;
        let channels = |key: &str| {
            let found = config.size(key, default, MAX_CHANNELS)?;
            let channels = found / (patch_size * patch_size);
            if ![3, 4].contains(&channels) || found != channels * patch_size * patch_size {
                let expected = match patch_size {
                    1 => "3 or 4, the channels of a picture (decoders that also enlarge pictures put out more and are not served)"
                        .to_owned(),
                    _ => format!(
                        "{} or {}, the channels of patches of {patch_size}x{patch_size} pixels",
                        3 * patch_size * patch_size,
                        4 * patch_size * patch_size
                    ),
                };
                return Err(config.refuse(key, &expected));
            }
            Ok(channels)
        };
        let channels = [channels("in_channels")?, channels("out_channels")?];
        let is_residual = config.boolean("is_residual", defaults.is_residual)?;
        let base_dim = config.size("base_dim", 96, MAX_CHANNELS)?;
        let decoder_base_dim =
            config.size("decoder_base_dim", defaults.decoder_base_dim.unwrap_or(base_dim), MAX_CHANNELS)?;
        let this =
            Self::of(config, defaults, [base_dim, decoder_base_dim], channels, is_residual, patch_size)?;
        let factor = config.size("scale_factor_spatial", this.spatial_factor(), MAX_FACTOR)?;
        if factor != this.spatial_factor() {
            let expected = format!("{}, what `dim_mult` and `patch_size` come to", this.spatial_factor());
            return Err(config.refuse("scale_factor_spatial", &expected));
        }
        Ok(this)
    }

    /// Reads and checks the settings of `AutoencoderKLQwenImage`, which has no keys for some of them.
    pub(super) fn read_qwen_image(config: &Config, defaults: &Defaults) -> Result<Self, LoadError> {
        for key in ["patch_size", "decoder_base_dim", "is_residual"] {
            config.nothing(key, "nothing: it is no setting of an AutoencoderKLQwenImage")?;
        }
        let channels = config.size("input_channels", defaults.channels, MAX_CHANNELS)?;
        if ![3, 4].contains(&channels) {
            return Err(config.refuse("input_channels", "3 or 4, the channels of a picture"));
        }
        let base_dim = config.size("base_dim", 96, MAX_CHANNELS)?;
        Self::of(config, defaults, [base_dim; 2], [channels; 2], false, 1)
    }

    fn of(
        config: &Config,
        defaults: &Defaults,
        [base_dim, decoder_base_dim]: [usize; 2],
        channels: [usize; 2],
        is_residual: bool,
        patch_size: usize,
    ) -> Result<Self, LoadError> {
        let dim_mult = config.sizes("dim_mult", defaults.dim_mult, MAX_CHANNELS)?;
        if !(2..=MAX_BLOCKS).contains(&dim_mult.len()) {
            return Err(config.refuse("dim_mult", &format!("2 to {MAX_BLOCKS} numbers, one for each block")));
        }
        config.nothing("attn_scales", "an empty list: attention outside of the middle is not served")?;
        let z_dim = config.size("z_dim", defaults.latents[0].len(), MAX_CHANNELS)?;
        let this = Self {
            base_dim,
            decoder_base_dim,
            z_dim,
            temperal_downsample: config.booleans(
                "temperal_downsample",
                defaults.temperal_downsample,
                dim_mult.len() - 1,
            )?,
            dim_mult,
            num_res_blocks: config.size("num_res_blocks", 2, MAX_LAYERS)?,
            is_residual,
            channels,
            patch_size,
            normalization: normalization(config, defaults, z_dim)?,
        };
        this.check(config)?;
        Ok(this)
    }

    /// Checks what no single key can tell.
    fn check(&self, config: &Config) -> Result<(), LoadError> {
        let blocks = self.dim_mult.len();
        let all = [self.dims(self.base_dim), self.dims(self.decoder_base_dim)];
        if all.iter().flatten().any(|&channels| channels > MAX_CHANNELS) {
            let expected = format!("numbers by which no block has more than {MAX_CHANNELS} channels");
            return Err(config.refuse("dim_mult", &expected));
        }
        let [encoder, decoder] = all;
        if !self.is_residual && decoder[2..].iter().any(|channels| channels % 2 != 0) {
            return Err(
                config.refuse("dim_mult", "numbers by which channels are even: upsampling halves them")
            );
        }
        if self.is_residual {
            // Shortcuts repeat channels, or take means of them.
            let is_even = (0..blocks).all(|index| {
                let time = 1 + usize::from(self.temperal_downsample.get(index) == Some(&true));
                let positions = if index + 1 < blocks { 4 * time } else { 1 };
                let [from, to] = [encoder[index], encoder[index + 1]];
                to.is_multiple_of(from) && positions.is_multiple_of(to / from)
            });
            let is_even = is_even
                && (0..blocks - 1).all(|index| {
                    let [from, to] = [decoder[blocks + 1 - index.max(1)], decoder[blocks - index]];
                    (to * 4 * self.up_frames(index)).is_multiple_of(from)
                });
            if !is_even {
                return Err(
                    config.refuse("dim_mult", "numbers by which the shortcuts divide channels evenly")
                );
            }
        }
        Ok(())
    }

    /// Channels before the blocks of an encoder and behind each of them: those of a decoder are the same in reverse, with the
    /// last of them in the place of the first.
    pub(super) fn dims(&self, base_dim: usize) -> Vec<usize> {
        [1].iter().chain(&self.dim_mult).map(|times| base_dim.saturating_mul(*times)).collect()
    }

    /// How many frames the up block of this index makes of one.
    pub(super) fn up_frames(&self, index: usize) -> usize {
        1 + usize::from(self.temperal_downsample.iter().rev().nth(index) == Some(&true))
    }

    /// Pixels per latent along each side.
    pub(super) fn spatial_factor(&self) -> usize {
        self.patch_size << (self.dim_mult.len() - 1)
    }

    /// Frames per latent frame.
    pub(super) fn temporal_factor(&self) -> usize {
        1 << self.temperal_downsample.iter().filter(|is_halved| **is_halved).count()
    }

    /// What pictures are made of that the encoder takes. Means over blocks of pixels need whole blocks.
    pub(super) fn units(&self, frames: usize) -> Units {
        let is_even = self.is_residual || self.patch_size > 1;
        Units { frames, sides: if is_even { self.spatial_factor() } else { 1 } }
    }

    /// How the decoder and the encoder are run in tiles. `is_clamped` says whether tiles are clamped once they are together.
    pub(super) fn tiling(&self, is_clamped: bool) -> [Result<Tiling, &'static str>; 2] {
        let (space, patch) = (self.spatial_factor(), self.patch_size);
        if !TILE_SAMPLE_STRIDE.is_multiple_of(space) || !TILE_SAMPLE_MIN_SIZE.is_multiple_of(space) {
            let odd = "its tiles of 256 pixels, one every 192, do not divide into latents";
            return [Err(odd); 2];
        }
        let (size, stride) = (TILE_SAMPLE_MIN_SIZE, TILE_SAMPLE_STRIDE);
        // The decoder's tiles are put together before patches become pixels.
        let decoder = Tiling::of_strides(size / patch, stride / patch, space / patch);
        let end = End { nodes: 1 + usize::from(patch > 1), is_done: is_clamped };
        // diffusers cuts what the encoder takes in tiles of as many patches as others have pixels, but decides by pixels
        // whether to cut.
        let encoder = Tiling::of_encoder_strides(size * patch, stride * patch, space);
        [Ok(decoder.without(end)), Ok(encoder.rounding_down(space, size))]
    }
}

/// `latents_mean` and `latents_std`; where there are none but a `scaling_factor`, as of Ming-Image, that.
fn normalization(config: &Config, defaults: &Defaults, z_dim: usize) -> Result<Normalization, LoadError> {
    let scaling_factor = config.optional_number("scaling_factor")?;
    if scaling_factor == Some(0.0) {
        return Err(config.refuse("scaling_factor", "a number other than zero"));
    }
    let keys = ["latents_mean", "latents_std"];
    let [mean, std] = keys.map(|key| config.optional_numbers(key, z_dim));
    let shift_factor = config.optional_number("shift_factor")?;
    match (mean?, std?, scaling_factor) {
        (None, None, Some(scaling_factor)) => Ok(Normalization::Factors { scaling_factor, shift_factor }),
        (mean, std, scaling_factor) => {
            let or_default = |found: Option<Vec<f32>>, index: usize| match found {
                Some(found) => Ok(found),
                None if defaults.latents[index].len() == z_dim => Ok(defaults.latents[index].to_vec()),
                None => {
                    Err(config.refuse(keys[index], &format!("{z_dim} numbers, one for each latent channel")))
                }
            };
            Ok(Normalization::MeanStd {
                mean: or_default(mean, 0)?,
                std: or_default(std, 1)?,
                scaling_factor: scaling_factor.unwrap_or(1.0),
            })
        }
    }
}
