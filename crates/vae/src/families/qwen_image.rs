//! `AutoencoderKLQwenImage`: the autoencoder of Qwen-Image and its kin, for pictures (`autoencoder_kl_qwenimage.py`). Its layers
//! are those of Wan 2.1, whose convolutions in time do nothing to a single frame but with their last tap.

#[cfg(test)]
mod tests;

use super::wan::{LATENTS_MEAN, LATENTS_STD};
use super::wan_blocks::{Frames, WanBlocks};
use super::wan_settings::{Defaults, Settings};
use super::{Family, refused};
use crate::VaeInfo;
use crate::graph::GraphError;
use crate::latents::LatentFormat;
use crate::model::{Description, Half, Units};

pub(super) const FAMILY: Family = Family {
    class_name: "AutoencoderKLQwenImage",
    describe: |config| description(Settings::read_qwen_image(config, &DEFAULTS)?).map_err(refused(config)),
    read_latents: None,
    unused: &[".time_conv.weight", ".time_conv.bias"],
};

const DEFAULTS: Defaults = Defaults {
    decoder_base_dim: None,
    dim_mult: &[1, 2, 4, 4],
    temperal_downsample: &[false, true, true],
    is_residual: false,
    channels: 3,
    latents: [LATENTS_MEAN, LATENTS_STD],
};

fn description(settings: Settings) -> Result<Description, GraphError> {
    let blocks = WanBlocks { settings: &settings, frames: Frames::Still };
    // diffusers clamps whole pictures, but not what it makes of tiles.
    let [decoder, encoder] = settings.tiling(false);
    let half = |graph, tiling, units| Half { graph, still: None, units, tiling, framewise: None };
    Ok(Description {
        decoder: half(blocks.decoder()?, decoder, Units::default()),
        encoder: half(blocks.encoder()?, encoder, settings.units(1)),
        info: VaeInfo {
            class_name: FAMILY.class_name.to_owned(),
            latent_channels: settings.z_dim,
            out_channels: settings.channels[1],
            spatial_factor: settings.spatial_factor(),
            latents: LatentFormat {
                normalization: settings.normalization.clone(),
                // Pictures with alpha are layers: `QwenImageLayeredPipeline`.
                layers: settings.channels[1] == 4,
                ..LatentFormat::default()
            },
            ..VaeInfo::default()
        },
    })
}
