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
use crate::families::batch::{self, in_parts};
use crate::families::{bytes_of, is_lean, rehearse};
use crate::forecast::{Forecast, Rehearse};
use crate::layers::{Conv2d, Decoder, Pass, VarBuilder, Workload};
use crate::{DecodeOptions, EncodeOptions, HostTensor, LoadError, Observer, Silent, Vae, VaeError, VaeInfo};

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
        let concluded = config.concluded().map(str::to_owned);
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
            concluded,
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

    /// What encodes.
    fn encoding(&self) -> Result<&EncodingHalf<E>, VaeError> {
        self.encoding.as_ref().ok_or_else(decoder_only)
    }

    /// Decodes a batch that fits in memory at once.
    fn decode_batch(&self, latents: &HostTensor, pass: &mut Pass<'_, E>) -> Result<HostTensor, VaeError> {
        let engine = pass.engine();
        let mut x = engine.upload(latents)?;
        if let Some(conv) = &self.post_quant_conv {
            x = pass.conv2d(x, conv)?;
            pass.observe("post_quant_conv", &x)?;
        }
        let x = self.decoder.forward(x, pass)?;
        Ok(engine.download(&x)?)
    }

    /// Decodes latents as they are, as many images at once as fit in memory.
    fn decode_whole(
        &self,
        engine: &E,
        latents: &HostTensor,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let (batch, positions) = self.check_latents(&latents.shape)?;
        let total = self.work(positions).saturating_mul(batch);
        let mut pass = Pass::new(engine, observer, total)?;
        in_parts(latents, BATCH_POSITIONS / positions, |part| {
            pass.set_input(part.shape[0], positions);
            self.decode_batch(&part, &mut pass)
        })
    }

    /// How it decodes in tiles.
    fn tiling(&self) -> Result<Tiling, VaeError> {
        self.tiling.ok_or_else(|| {
            VaeError::Input(
                "this model cannot be decoded in tiles: its `sample_size` does not divide into tiles that overlap by a \
                 quarter"
                    .to_owned(),
            )
        })
    }

    /// Multiply-adds of one image.
    fn work(&self, positions: usize) -> usize {
        self.workload.cost.of_image(positions)
    }

    /// Multiply-adds of one image in tiles.
    fn tiled_work(&self, tiling: Tiling, height: usize, width: usize) -> usize {
        let tiles = tiling.tiles(height, width);
        tiles.map(|(height, width)| self.work(height * width)).fold(0, usize::saturating_add)
    }

    /// Decodes latents in tiles, unless they fit one.
    fn decode_tiled(
        &self,
        engine: &E,
        latents: &HostTensor,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let tiling = self.tiling()?;
        let (batch, _) = self.check_latents(&latents.shape)?;
        let (height, width) = (latents.shape[2], latents.shape[3]);
        if !tiling.cuts(height, width) {
            return self.decode_whole(engine, latents, observer);
        }
        let total = self.tiled_work(tiling, height, width).saturating_mul(batch);
        let mut pass = Pass::new(engine, observer, total)?;
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
        let lean = options.lean.then(|| self.engine.lean()).flatten();
        let engine = lean.as_ref().unwrap_or(&self.engine);
        engine.begin_peak();
        if options.tiling {
            self.decode_tiled(engine, &latents, observer)
        } else {
            self.decode_whole(engine, &latents, observer)
        }
    }

    fn peak_memory(&self) -> Option<usize> {
        Some(self.engine.peak_memory())
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
        let half = self.encoding()?;
        self.engine.begin_peak();
        half.encode(&self.engine, &pixels, options, observer)
    }

    fn tile_sample_min_size(&self) -> Option<usize> {
        self.encoding.as_ref()?.tile_sample_min_size()
    }

    fn release(&mut self) {
        self.engine.release();
    }

    fn reserve(&mut self, bytes: usize) {
        self.engine.reserve(bytes);
    }
}

impl<E: Engine> Rehearse for AutoencoderKL<E> {
    fn rehearse_decode(&self, latents: &[usize], options: &DecodeOptions) -> Result<Forecast, VaeError> {
        let (batch, positions) = self.check_latents(latents)?;
        let (channels, height, width) = (latents[1], latents[2], latents[3]);
        let lean = options.lean.then(|| self.engine.lean()).flatten();
        let engine = lean.as_ref().unwrap_or(&self.engine);
        let (pixels, factor) = (self.info.out_channels, self.info.spatial_factor);
        let output = |height: usize, width: usize| bytes_of(&[pixels, height, factor, width, factor]);
        let (input, whole) = (bytes_of(&latents[1..]), output(height, width));
        let mut tiling = None;
        if options.tiling {
            tiling = Some(self.tiling()?).filter(|tiling| tiling.cuts(height, width));
        }
        let together = if tiling.is_some() { 1 } else { (BATCH_POSITIONS / positions).clamp(1, batch) };
        let (work, tiles, cutting) = match tiling {
            Some(tiling) => (
                self.tiled_work(tiling, height, width),
                tiling.tiles(height, width).collect(),
                tiling.memory([height, width], whole, output),
            ),
            None => (self.work(positions), vec![(height, width)], 0),
        };
        let inputs = tiles.into_iter().map(|(height, width)| vec![together, channels, height, width]);
        let mut observer = Silent;
        let mut pass = Pass::new(engine, &mut observer, 0)?;
        Ok(Forecast {
            engine_memory: rehearse(engine, inputs, |x| self.decode_batch(&x, &mut pass))?,
            host_memory: batch::memory(batch, together, input, whole).saturating_add(cutting),
            work: work.saturating_mul(batch),
            lean: is_lean(engine),
        })
    }

    fn rehearse_encode(&self, pixels: &[usize], options: &EncodeOptions) -> Result<Forecast, VaeError> {
        self.encoding()?.rehearse(&self.engine, pixels, options)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::LoadMode;
    use crate::engine::reference::Reference;

    #[test]
    fn latents_are_checked_before_memory_is_taken() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vae/sd-like");
        let config = Config::read(&folder.join("config.json")).unwrap();
        let mut checkpoint = Checkpoint::open(&folder).unwrap();
        checkpoint.settle(LoadMode::Map).unwrap();
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
