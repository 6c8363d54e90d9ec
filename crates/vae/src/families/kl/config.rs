//! The settings of `AutoencoderKL`, with the defaults of its constructor in diffusers.

use crate::LoadError;
use crate::config::Config;

/// Limits that no real model comes near; they keep every product of sizes far from overflow.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_LAYERS: usize = 64;
const MAX_BLOCKS: usize = 8;
const MAX_SAMPLE_SIZE: usize = 1 << 20;

/// What `config.json` says of an `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AutoencoderKLConfig {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) latent_channels: usize,
    /// From the picture's end to the latents' end.
    pub(super) block_out_channels: Vec<usize>,
    pub(super) layers_per_block: usize,
    pub(super) norm_num_groups: usize,
    pub(super) mid_block_add_attention: bool,
    pub(super) use_quant_conv: bool,
    pub(super) use_post_quant_conv: bool,
    pub(super) scaling_factor: f32,
    pub(super) shift_factor: Option<f32>,
    pub(super) latents_mean: Option<Vec<f32>>,
    pub(super) latents_std: Option<Vec<f32>>,
    /// Side of the pictures that the model was trained on; of use for tiling only.
    pub(super) sample_size: usize,
}

impl AutoencoderKLConfig {
    /// Reads and checks the settings.
    pub(super) fn read(config: &Config) -> Result<Self, LoadError> {
        let latent_channels = config.size("latent_channels", 4, MAX_CHANNELS)?;
        let this = Self {
            in_channels: config.size("in_channels", 3, MAX_CHANNELS)?,
            out_channels: config.size("out_channels", 3, MAX_CHANNELS)?,
            latent_channels,
            block_out_channels: config.sizes("block_out_channels", &[64], MAX_CHANNELS)?,
            layers_per_block: config.size("layers_per_block", 1, MAX_LAYERS)?,
            norm_num_groups: config.size("norm_num_groups", 32, MAX_CHANNELS)?,
            mid_block_add_attention: config.boolean("mid_block_add_attention", true)?,
            use_quant_conv: config.boolean("use_quant_conv", true)?,
            use_post_quant_conv: config.boolean("use_post_quant_conv", true)?,
            scaling_factor: config.number("scaling_factor", 0.18215)?,
            shift_factor: config.optional_number("shift_factor")?,
            latents_mean: config.optional_numbers("latents_mean", latent_channels)?,
            latents_std: config.optional_numbers("latents_std", latent_channels)?,
            sample_size: config.first_size("sample_size", 32, MAX_SAMPLE_SIZE)?,
        };
        this.check(config)?;
        Ok(this)
    }

    /// Checks what no single key can tell.
    fn check(&self, config: &Config) -> Result<(), LoadError> {
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
        for (key, block) in
            [("up_block_types", "UpDecoderBlock2D"), ("down_block_types", "DownEncoderBlock2D")]
        {
            let types = config.texts(key, &[block])?;
            if types.len() != blocks || types.iter().any(|found| found != block) {
                let expected = format!("{blocks} times \"{block}\", one for each of `block_out_channels`");
                return Err(config.refuse(key, &expected));
            }
        }
        Ok(())
    }

    /// Pixels per latent along each side: every block but the last doubles the picture.
    pub(super) fn spatial_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AutoencoderKLConfig, LoadError> {
        AutoencoderKLConfig::read(&Config::parse("config.json", text).unwrap())
    }

    #[test]
    fn an_empty_configuration_is_diffusers_constructor_without_arguments() {
        let expected = AutoencoderKLConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            sample_size: 32,
        };
        assert_eq!(expected.spatial_factor(), 1);
        assert_eq!(read("{}").unwrap(), expected);
    }

    #[test]
    fn the_real_configurations_are_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/configs/");
        let read =
            |name: &str| read(&std::fs::read_to_string(format!("{folder}{name}.json")).unwrap()).unwrap();
        let sd = read("sd-v1");
        assert_eq!((sd.latent_channels, sd.scaling_factor, sd.shift_factor), (4, 0.18215, None));
        assert!(sd.use_post_quant_conv && sd.spatial_factor() == 8);
        assert_eq!(sd.sample_size, 256);
        let sdxl = AutoencoderKLConfig { scaling_factor: 0.13025, sample_size: 512, ..sd.clone() };
        assert_eq!(sdxl, read("sdxl"));
        let flux = AutoencoderKLConfig {
            latent_channels: 16,
            scaling_factor: 0.3611,
            shift_factor: Some(0.1159),
            use_quant_conv: false,
            use_post_quant_conv: false,
            sample_size: 1024,
            ..sd
        };
        assert_eq!(flux, read("flux"));
    }

    #[test]
    fn what_cannot_be_built_is_refused_by_key() {
        for (text, parts) in [
            (r#"{"latent_channels": 0}"#, ["`latent_channels` is 0", "from 1"]),
            (r#"{"norm_num_groups": 48}"#, ["`block_out_channels` is missing", "which is 48"]),
            (r#"{"block_out_channels": [32, 48]}"#, ["`block_out_channels` is [32,48]", "which is 32"]),
            (
                r#"{"block_out_channels": [32,32,32,32,32,32,32,32,32]}"#,
                ["`block_out_channels`", "at most 8"],
            ),
            (r#"{"block_out_channels": [32, 64]}"#, ["`up_block_types` is missing", "2 times"]),
            (r#"{"up_block_types": ["AttnUpDecoderBlock2D"]}"#, ["AttnUp", "\"UpDecoderBlock2D\""]),
            (r#"{"down_block_types": ["DownBlock2D"]}"#, ["`down_block_types`", "\"DownEncoderBlock2D\""]),
            (r#"{"act_fn": "gelu"}"#, ["`act_fn` is \"gelu\"", "\"silu\""]),
            (r#"{"scaling_factor": 0}"#, ["`scaling_factor` is 0", "other than zero"]),
            (r#"{"latents_mean": [1, 2, 3]}"#, ["`latents_mean` is [1,2,3]", "4 numbers"]),
        ] {
            let message = read(text).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
    }
}
