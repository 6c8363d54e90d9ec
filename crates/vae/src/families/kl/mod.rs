//! `AutoencoderKL`: the autoencoder of SD v1, SDXL, Flux and their kin. They differ in configuration only.

mod config;
mod encode;

use std::cell::Cell;

use self::config::AutoencoderKLConfig;
use self::encode::EncodingHalf;
use super::decoder_only;
use super::tiling::Tiling;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::{Conv2dSpec, Engine};
use crate::families::batch::in_parts;
use crate::layers::{Conv2d, Decoder, Pass, VarBuilder, Workload};
use crate::{DecodeOptions, EncodeOptions, HostTensor, LoadError, Observer, Vae, VaeError, VaeInfo};

/// Its name in `config.json`.
pub(super) const CLASS_NAME: &str = "AutoencoderKL";

/// Images are decoded, or encoded, together while their latents have no more positions than this, 64×64, a picture of
/// 512×512. One such image keeps every core busy by itself, so that more at once would cost memory and save no time.
const BATCH_POSITIONS: usize = 64 * 64;

/// diffusers' `AutoencoderKL`, on one engine.
pub(super) struct AutoencoderKL<E: Engine> {
    engine: E,
    info: VaeInfo,
    post_quant_conv: Option<Conv2d<E>>,
    decoder: Decoder<E>,
    workload: Workload,
    tiling: Option<Tiling>,
    encoding: Option<EncodingHalf<E>>,
}

impl<E: Engine> AutoencoderKL<E> {
    /// Builds the model from its configuration and weights.
    pub(super) fn load(config: &Config, checkpoint: &Checkpoint, engine: E) -> Result<Self, LoadError> {
        let config = AutoencoderKLConfig::read(config)?;
        let latents = config.latent_channels;
        let workload = Cell::new(Workload::default());
        let vb = VarBuilder::new(&engine, checkpoint, &workload);
        let post_quant_conv = config
            .use_post_quant_conv
            .then(|| vb.pp("post_quant_conv").conv2d(Conv2dSpec::same(latents, latents, 1)))
            .transpose()?;
        let decoder = Decoder::load(
            &vb.pp("decoder"),
            latents,
            config.out_channels,
            &config.block_out_channels,
            config.layers_per_block,
            config.norm_num_groups,
            config.mid_block_add_attention,
        )?;
        let tiling = Tiling::of_decoder(config.sample_size, config.spatial_factor());
        let encoding = EncodingHalf::load(&config, checkpoint, &engine)?;
        let info = VaeInfo {
            class_name: CLASS_NAME.to_owned(),
            engine: engine.describe(),
            latent_channels: latents,
            out_channels: config.out_channels,
            spatial_factor: config.spatial_factor(),
            can_encode: encoding.is_some(),
            temporal_factor: None,
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor,
            latents_mean: config.latents_mean,
            latents_std: config.latents_std,
        };
        Ok(Self { engine, info, post_quant_conv, decoder, workload: workload.get(), tiling, encoding })
    }

    /// The batch and the positions of each image, `(B, h * w)`, of latents that this model can decode.
    fn check_latents(&self, shape: &[usize]) -> Result<(usize, usize), VaeError> {
        let channels = self.info.latent_channels;
        let &[batch, found, height, width] = shape else {
            return Err(VaeError::Input(format!(
                "latents of shape {shape:?} cannot be decoded, expected [B, {channels}, h, w]"
            )));
        };
        if found != channels || [batch, height, width].contains(&0) {
            return Err(VaeError::Input(format!(
                "latents of shape {shape:?} cannot be decoded, expected [B, {channels}, h, w] with no axis empty"
            )));
        }
        let limit = self.engine.limits().max_tensor_bytes;
        let bytes = [width, self.workload.largest_tensor, size_of::<f32>()]
            .into_iter()
            .try_fold(height, usize::checked_mul);
        match bytes {
            Some(bytes) if bytes <= limit => Ok((batch, height * width)),
            _ => Err(VaeError::Input(format!(
                "latents of {height} x {width} are too large: a layer would need more than the {limit} bytes that \
                 one tensor may have"
            ))),
        }
    }

    /// Decodes a batch that fits in memory at once.
    fn decode_batch(&self, latents: &HostTensor, pass: &mut Pass<'_, E>) -> Result<HostTensor, VaeError> {
        let mut x = self.engine.upload(latents)?;
        if let Some(conv) = &self.post_quant_conv {
            x = pass.conv2d(x, conv)?;
            pass.observe("post_quant_conv", &x)?;
        }
        let x = self.decoder.forward(x, pass)?;
        Ok(self.engine.download(&x)?)
    }

    /// Decodes latents as they are, as many images at once as fit in memory.
    fn decode_whole(
        &self,
        latents: &HostTensor,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let (batch, positions) = self.check_latents(&latents.shape)?;
        let total = self.workload.cost.of_image(positions).saturating_mul(batch);
        let mut pass = Pass::new(&self.engine, observer, total)?;
        in_parts(latents, BATCH_POSITIONS / positions, |part| {
            pass.set_input(part.shape[0], positions);
            self.decode_batch(&part, &mut pass)
        })
    }

    /// Decodes latents in tiles, unless they fit one.
    fn decode_tiled(
        &self,
        latents: &HostTensor,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let Some(tiling) = self.tiling else {
            return Err(VaeError::Input(
                "this model cannot be decoded in tiles: its `sample_size` does not divide into tiles that overlap by a \
                 quarter"
                    .to_owned(),
            ));
        };
        let (batch, _) = self.check_latents(&latents.shape)?;
        let (height, width) = (latents.shape[2], latents.shape[3]);
        if !tiling.cuts(height, width) {
            return self.decode_whole(latents, observer);
        }
        let cost = |(height, width)| self.workload.cost.of_image(height * width);
        let total = tiling.tiles(height, width).map(cost).fold(0, usize::saturating_add);
        let mut pass = Pass::new(&self.engine, observer, total.saturating_mul(batch))?;
        // Image by image, which needs less memory and gives the same: nothing of one is seen by another.
        in_parts(latents, 1, |image| {
            tiling.run(&image, |tile| {
                pass.set_input(1, tile.shape[2] * tile.shape[3]);
                self.decode_batch(&tile, &mut pass)
            })
        })
    }
}

impl<E: Engine> Vae for AutoencoderKL<E> {
    fn info(&self) -> &VaeInfo {
        &self.info
    }

    fn decode(
        &mut self,
        latents: HostTensor,
        options: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        if options.tiling {
            self.decode_tiled(&latents, observer)
        } else {
            self.decode_whole(&latents, observer)
        }
    }

    fn tile_latent_min_size(&self) -> Option<usize> {
        self.tiling.map(|tiling| tiling.tile_min_size)
    }

    fn encode(
        &mut self,
        pixels: HostTensor,
        options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        match &self.encoding {
            Some(half) => half.encode(&self.engine, &pixels, options, observer),
            None => Err(decoder_only()),
        }
    }

    fn tile_sample_min_size(&self) -> Option<usize> {
        self.encoding.as_ref()?.tile_sample_min_size()
    }

    fn release(&mut self) {
        self.engine.release();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::reference::Reference;

    #[test]
    fn latents_are_checked_before_memory_is_taken() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vae/sd-like");
        let config = Config::read(&folder.join("config.json")).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let vae = AutoencoderKL::load(&config, &checkpoint, Reference).unwrap();
        assert_eq!(vae.check_latents(&[2, 4, 5, 3]).unwrap(), (2, 15));
        // The largest tensor is what the last up blocks put out: 8 channels of 8×8 pixels a latent, in f32.
        let limit = Reference.limits().max_tensor_bytes / (8 * 8 * 8 * 4);
        assert!(vae.check_latents(&[1, 4, 1, limit]).is_ok());
        for shape in
            [[1, 4, 1, limit + 1], [1, 4, limit + 1, 1], [1, 4, 1 << 32, 1 << 32], [1, 4, usize::MAX, 2]]
        {
            let message = vae.check_latents(&shape).unwrap_err().to_string();
            assert!(message.contains("too large"), "{message}");
        }
    }
}
