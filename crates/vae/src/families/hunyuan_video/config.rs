//! The settings of `AutoencoderKLHunyuanVideo`, with the defaults of its constructor in diffusers.

use super::workload::Stage;
use crate::LoadError;
use crate::config::Config;
use crate::engine::{Stride, Upsampling};

/// Limits that no real model comes near; they keep every product of sizes far from overflow.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_LAYERS: usize = 64;
const MAX_BLOCKS: usize = 8;
const MAX_FACTOR: usize = 64;

/// diffusers builds decoders for this factor only.
const TEMPORAL_COMPRESSION_RATIO: usize = 4;

/// What `config.json` says of an `AutoencoderKLHunyuanVideo`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HunyuanVideoConfig {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) latent_channels: usize,
    /// From the picture's end to the latents' end.
    pub(super) block_out_channels: Vec<usize>,
    pub(super) layers_per_block: usize,
    pub(super) norm_num_groups: usize,
    pub(super) mid_block_add_attention: bool,
    pub(super) scaling_factor: f32,
    pub(super) spatial_compression_ratio: usize,
    pub(super) temporal_compression_ratio: usize,
}

impl HunyuanVideoConfig {
    /// Reads and checks the settings.
    pub(super) fn read(config: &Config) -> Result<Self, LoadError> {
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
            [("up_block_types", "HunyuanVideoUpBlock3D"), ("down_block_types", "HunyuanVideoDownBlock3D")]
        {
            let types = config.texts(key, &[block; 4])?;
            if types.len() != blocks || types.iter().any(|found| found != block) {
                let expected = format!("{blocks} times \"{block}\", one for each of `block_out_channels`");
                return Err(config.refuse(key, &expected));
            }
        }
        // Which blocks double what follows from the ratios and the number of blocks, and must come to the same.
        let reached =
            (0..blocks).map(|block| self.upsampling(block)).fold((1, 1), |(time, space), upsampling| {
                (time << usize::from(upsampling.time), space << usize::from(upsampling.space))
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

    /// What the up block of this index doubles, as in `HunyuanVideoDecoder3D.__init__`.
    pub(super) fn upsampling(&self, block: usize) -> Upsampling {
        let spatial_layers = self.spatial_compression_ratio.ilog2() as usize;
        let time_layers = TEMPORAL_COMPRESSION_RATIO.ilog2() as usize;
        let last = self.block_out_channels.len() - 1;
        Upsampling { time: block + time_layers >= last && block != last, space: block < spatial_layers }
    }

    /// How far the decoder has got before the up block of this index.
    pub(super) fn stage(&self, block: usize) -> Stage {
        (0..block)
            .map(|block| self.upsampling(block))
            .fold(Stage::Grown { time: 1, area: 1 }, Stage::after_upsampling)
    }

    /// The stride behind the down block of this index, as in `HunyuanVideoEncoder3D.__init__`: the down blocks halve
    /// what the up blocks of the same index double.
    pub(super) fn stride(&self, block: usize) -> Stride {
        let Upsampling { time, space } = self.upsampling(block);
        Stride { time: 1 << usize::from(time), space: 1 << usize::from(space) }
    }

    /// How far the encoder has got before the down block of this index.
    pub(super) fn encoder_stage(&self, block: usize) -> Stage {
        (0..block)
            .map(|block| self.stride(block))
            .fold(Stage::Shrunk { time: 1, side: 1 }, Stage::after_stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HunyuanVideoConfig, LoadError> {
        HunyuanVideoConfig::read(&Config::parse("config.json", text).unwrap())
    }

    #[test]
    fn an_empty_configuration_is_the_real_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/configs/");
        let real = read(&std::fs::read_to_string(format!("{folder}hunyuan-video.json")).unwrap()).unwrap();
        assert_eq!(read("{}").unwrap(), real);
        let steps: Vec<_> = (0..4).map(|block| real.upsampling(block)).collect();
        let step = |time, space| Upsampling { time, space };
        assert_eq!(steps, [step(false, true), step(true, true), step(true, true), step(false, false)]);
        assert_eq!(real.stage(4), Stage::Grown { time: 4, area: 64 });
        let strides: Vec<_> = (0..4).map(|block| real.stride(block)).collect();
        let stride = |time, space| Stride { time, space };
        assert_eq!(strides, [stride(1, 2), stride(2, 2), stride(2, 2), stride(1, 1)]);
        assert_eq!(real.encoder_stage(3), Stage::Shrunk { time: 4, side: 8 });
    }

    #[test]
    fn what_cannot_be_built_is_refused_by_key() {
        for (text, parts) in [
            (r#"{"norm_num_groups": 48}"#, ["`block_out_channels` is missing", "which is 48"]),
            (r#"{"block_out_channels": [32, 48, 64, 64]}"#, ["`block_out_channels`", "which is 32"]),
            (r#"{"block_out_channels": [32, 32, 64]}"#, ["`up_block_types` is missing", "3 times"]),
            (r#"{"up_block_types": ["UpDecoderBlock2D"]}"#, ["UpDecoderBlock2D", "4 times"]),
            (r#"{"act_fn": "gelu"}"#, ["`act_fn` is \"gelu\"", "\"silu\""]),
            (r#"{"scaling_factor": 0}"#, ["`scaling_factor` is 0", "other than zero"]),
            (r#"{"temporal_compression_ratio": 8}"#, ["`temporal_compression_ratio` is 8", "4"]),
            (r#"{"spatial_compression_ratio": 12}"#, ["`spatial_compression_ratio` is 12", "such as 8"]),
            (r#"{"spatial_compression_ratio": 64}"#, ["`spatial_compression_ratio` is 64", "such as 16"]),
        ] {
            let message = read(text).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
    }
}
