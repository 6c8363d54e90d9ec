//! `AutoencoderKLWan`: the causal 3-D autoencoder of Wan 2.1, and with other settings that of Wan 2.2's 5B model
//! (`autoencoder_kl_wan.py`). Wan 2.2's 14B models have that of Wan 2.1.

#[cfg(test)]
mod tests;

use super::wan_blocks::{Frames, WanBlocks};
use super::wan_settings::{Defaults, Settings};
use super::{Family, refused};
use crate::config::Config;
use crate::graph::{Graph, GraphError};
use crate::latents::LatentFormat;
use crate::model::{Description, Half, Units};
use crate::{LoadError, VaeInfo};

pub(super) const FAMILY: Family = Family {
    class_name: "AutoencoderKLWan",
    describe: |config| description(read(config)?).map_err(refused(config)),
    read_latents: None,
    unused: &[],
};

/// diffusers encodes so many frames behind the first one together, whatever the configuration says.
const TEMPORAL_FACTOR: usize = 4;

/// Of Wan 2.1, and of Qwen-Image, whose latents are the same.
pub(super) const LATENTS_MEAN: &[f32] = &[
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632,
    -0.1922, -0.9497, 0.2503, -0.2921,
];
pub(super) const LATENTS_STD: &[f32] = &[
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382,
    1.1253, 2.8251, 1.916,
];

const DEFAULTS: Defaults = Defaults {
    decoder_base_dim: None,
    dim_mult: &[1, 2, 4, 4],
    temperal_downsample: &[false, true, true],
    is_residual: false,
    channels: 3,
    latents: [LATENTS_MEAN, LATENTS_STD],
};

fn read(config: &Config) -> Result<Settings, LoadError> {
    let settings = Settings::read(config, &DEFAULTS)?;
    let factor = config.size("scale_factor_temporal", TEMPORAL_FACTOR, usize::MAX)?;
    if factor != TEMPORAL_FACTOR {
        return Err(config.refuse("scale_factor_temporal", "4, for which diffusers' encoder is written"));
    }
    if settings.temporal_factor() != TEMPORAL_FACTOR {
        return Err(config.refuse("temperal_downsample", "true twice: 4 frames become one"));
    }
    Ok(settings)
}

fn description(settings: Settings) -> Result<Description, GraphError> {
    let blocks = |frames| WanBlocks { settings: &settings, frames };
    let [decoder, encoder] = settings.tiling(true);
    let half = |graph: Graph, still: Graph, tiling, units| Half {
        graph,
        still: Some(still),
        units,
        tiling,
        framewise: None,
    };
    let [clip, still] = [blocks(Frames::Clip), blocks(Frames::Still)];
    Ok(Description {
        decoder: half(clip.decoder()?, still.decoder()?, decoder, Units::default()),
        encoder: half(clip.encoder()?, still.encoder()?, encoder, settings.units(TEMPORAL_FACTOR)),
        info: VaeInfo {
            class_name: FAMILY.class_name.to_owned(),
            latent_channels: settings.z_dim,
            out_channels: settings.channels[1],
            spatial_factor: settings.spatial_factor(),
            temporal_factor: Some(TEMPORAL_FACTOR),
            latents: LatentFormat {
                normalization: settings.normalization.clone(),
                ..LatentFormat::default()
            },
            ..VaeInfo::default()
        },
    })
}
