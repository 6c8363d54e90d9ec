//! `AutoencoderKLFlux2`: the graphs of `AutoencoderKL`, and latents that are normalised in patches by statistics of the weights;
//! of `autoencoder_kl_flux2.py`.

use super::kl::{AutoencoderKLConfig, Defaults};
use super::{Family, refused};
use crate::LoadError;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::graph::Expected;
use crate::latents::{LatentFormat, Normalization};

const CLASS_NAME: &str = "AutoencoderKLFlux2";

pub(super) const FAMILY: Family = Family {
    class_name: CLASS_NAME,
    describe: |config| {
        if config.sizes("patch_size", &[2, 2], 2)? != [2, 2] {
            return Err(config.refuse("patch_size", "[2, 2]"));
        }
        let this = AutoencoderKLConfig::read(config, &DEFAULTS)?;
        let this = this.with_decoder(config, "decoder_block_out_channels")?;
        this.description(CLASS_NAME).map_err(refused(config))
    },
    read_latents: Some(read_latents),
};

/// Those of the constructor in diffusers.
const DEFAULTS: Defaults = Defaults {
    latent_channels: 32,
    block_out_channels: &[128, 256, 512, 512],
    layers_per_block: 2,
    sample_size: 1024,
};

/// Reads the statistics, and passes over the count of the batches that they were made of.
fn read_latents(
    config: &Config,
    checkpoint: &Checkpoint,
    latents: &mut LatentFormat,
) -> Result<(), LoadError> {
    let channels = 4 * config.size("latent_channels", DEFAULTS.latent_channels, 1 << 14)?;
    let statistic = |name: &str| {
        let expected =
            Expected { name: format!("bn.{name}"), shape: vec![channels], may_have_more_axes: false };
        Ok::<_, LoadError>(checkpoint.tensor(&expected)?.to_f32())
    };
    let eps = config.number("batch_norm_eps", 1e-4)?;
    latents.normalization = Normalization::BatchNorm {
        running_mean: statistic("running_mean")?,
        running_var: statistic("running_var")?,
        eps,
        plain_is_normalized: false,
    };
    checkpoint.pass_over("bn.num_batches_tracked");
    Ok(())
}
