//! The encoding half of `AutoencoderKL`: everything that a checkpoint without an encoder does not have.

use std::cell::Cell;

use super::BATCH_POSITIONS;
use super::config::AutoencoderKLConfig;
use crate::checkpoint::Checkpoint;
use crate::engine::{Conv2dSpec, Engine};
use crate::families::batch::{self, in_parts};
use crate::families::tiling::Tiling;
use crate::families::{bytes_of, is_lean, rehearse};
use crate::forecast::Forecast;
use crate::layers::{Conv2d, Encoder, Pass, VarBuilder, Workload};
use crate::{EncodeOptions, HostTensor, LoadError, Observer, Silent, VaeError};

/// Encoder and `quant_conv`.
pub(super) struct EncodingHalf<E: Engine> {
    encoder: Encoder<E>,
    quant_conv: Option<Conv2d<E>>,
    workload: Workload,
    tiling: Option<Tiling>,
    in_channels: usize,
    /// Means and variances of the latents' channels.
    moments: usize,
    /// Pixels per latent, along height and width.
    spatial_factor: usize,
}

impl<E: Engine> EncodingHalf<E> {
    /// Loads it; `None` when the checkpoint has no encoder.
    pub(super) fn load(
        config: &AutoencoderKLConfig,
        checkpoint: &Checkpoint,
        engine: &E,
    ) -> Result<Option<Self>, LoadError> {
        if !checkpoint.contains("encoder.conv_in.weight") {
            return Ok(None);
        }
        let workload = Cell::new(Workload::default());
        let vb = VarBuilder::new(engine, checkpoint, &workload);
        // Means and variances.
        let moments = 2 * config.latent_channels;
        let encoder = Encoder::load(
            &vb.pp("encoder"),
            config.in_channels,
            moments,
            &config.block_out_channels,
            config.layers_per_block,
            config.norm_num_groups,
            config.mid_block_add_attention,
        )?;
        let quant_conv = config
            .use_quant_conv
            .then(|| vb.pp("quant_conv").conv2d(Conv2dSpec::same(moments, moments, 1)))
            .transpose()?;
        Ok(Some(Self {
            encoder,
            quant_conv,
            workload: workload.get(),
            tiling: Tiling::of_encoder(config.sample_size, config.spatial_factor()),
            in_channels: config.in_channels,
            moments,
            spatial_factor: config.spatial_factor(),
        }))
    }

    /// [`Vae::tile_sample_min_size`](crate::Vae::tile_sample_min_size).
    pub(super) fn tile_sample_min_size(&self) -> Option<usize> {
        self.tiling.map(|tiling| tiling.tile_min_size)
    }

    /// [`Vae::encode`](crate::Vae::encode).
    pub(super) fn encode(
        &self,
        engine: &E,
        pixels: &HostTensor,
        options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let (batch, positions) = self.check_pixels(&pixels.shape, engine.limits().max_tensor_bytes)?;
        let (height, width) = (pixels.shape[2], pixels.shape[3]);
        if options.tiling {
            let tiling = self.tiling()?;
            if tiling.cuts(height, width) {
                return self.encode_tiled(engine, pixels, tiling, observer);
            }
        }
        let mut pass = Pass::new(engine, observer, self.cost(positions).saturating_mul(batch))?;
        in_parts(pixels, BATCH_POSITIONS / positions, |part| {
            pass.set_input(part.shape[0], positions);
            self.encode_batch(engine, &part, &mut pass)
        })
    }

    fn encode_tiled(
        &self,
        engine: &E,
        pixels: &HostTensor,
        tiling: Tiling,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let total = self.tiled_cost(tiling, pixels.shape[2], pixels.shape[3]).saturating_mul(pixels.shape[0]);
        let mut pass = Pass::new(engine, observer, total)?;
        in_parts(pixels, 1, |image| {
            tiling.run(&image, |tile| {
                pass.set_input(1, self.positions(tile.shape[2], tile.shape[3]));
                self.encode_batch(engine, &tile, &mut pass)
            })
        })
    }

    /// Encodes a batch that fits in memory at once.
    fn encode_batch(
        &self,
        engine: &E,
        pixels: &HostTensor,
        pass: &mut Pass<'_, E>,
    ) -> Result<HostTensor, VaeError> {
        let mut x = self.encoder.forward(engine.upload(pixels)?, pass)?;
        if let Some(conv) = &self.quant_conv {
            x = pass.conv2d(x, conv)?;
            pass.observe("quant_conv", &x)?;
        }
        Ok(engine.download(&x)?)
    }

    /// What [`EncodingHalf::encode`] would take on `engine`, which rehearses.
    pub(super) fn rehearse(
        &self,
        engine: &E,
        pixels: &[usize],
        options: &EncodeOptions,
    ) -> Result<Forecast, VaeError> {
        let (batch, positions) = self.check_pixels(pixels, engine.limits().max_tensor_bytes)?;
        let (channels, height, width) = (pixels[1], pixels[2], pixels[3]);
        let mut tiling = None;
        if options.tiling {
            tiling = Some(self.tiling()?).filter(|tiling| tiling.cuts(height, width));
        }
        let moments = |height: usize, width: usize| bytes_of(&[self.moments, self.positions(height, width)]);
        let (input, whole) = (bytes_of(&pixels[1..]), moments(height, width));
        let together = if tiling.is_some() { 1 } else { (BATCH_POSITIONS / positions).clamp(1, batch) };
        let (work, tiles, cutting) = match tiling {
            Some(tiling) => (
                self.tiled_cost(tiling, height, width),
                tiling.tiles(height, width).collect(),
                tiling.memory([height, width], whole, moments),
            ),
            None => (self.cost(positions), vec![(height, width)], 0),
        };
        let inputs = tiles.into_iter().map(|(height, width)| vec![together, channels, height, width]);
        let mut observer = Silent;
        let mut pass = Pass::new(engine, &mut observer, 0)?;
        Ok(Forecast {
            engine_memory: rehearse(engine, inputs, |x| self.encode_batch(engine, &x, &mut pass))?,
            host_memory: batch::memory(batch, together, input, whole).saturating_add(cutting),
            work: work.saturating_mul(batch),
            lean: is_lean(engine),
        })
    }

    /// How it encodes in tiles.
    fn tiling(&self) -> Result<Tiling, VaeError> {
        self.tiling.ok_or_else(|| {
            VaeError::Input(
                "this model cannot encode in tiles: its `sample_size` does not divide into tiles that overlap by a \
                 quarter"
                    .to_owned(),
            )
        })
    }

    /// Positions of the latents of so many pixels.
    fn positions(&self, height: usize, width: usize) -> usize {
        (height / self.spatial_factor) * (width / self.spatial_factor)
    }

    /// Multiply-adds of one picture in tiles.
    fn tiled_cost(&self, tiling: Tiling, height: usize, width: usize) -> usize {
        let tiles = tiling.tiles(height, width);
        tiles.map(|(height, width)| self.cost(self.positions(height, width))).fold(0, usize::saturating_add)
    }

    fn cost(&self, positions: usize) -> usize {
        self.workload.cost.of_image(positions)
    }

    /// The batch and the latent positions of each picture, of pixels that this model can encode.
    fn check_pixels(&self, shape: &[usize], limit: usize) -> Result<(usize, usize), VaeError> {
        let (channels, factor) = (self.in_channels, self.spatial_factor);
        let wrong = |what: &str| {
            Err(VaeError::Input(format!(
                "pixels of shape {shape:?} cannot be encoded, expected [B, {channels}, H, W]{what}"
            )))
        };
        let &[batch, found, height, width] = shape else { return wrong("") };
        if found != channels || batch == 0 {
            return wrong("");
        }
        if height < factor || width < factor {
            return wrong(&format!(" with sides of {factor} pixels at least"));
        }
        // Rounded up, so that pixels that make no whole latent count too.
        let (rows, columns) = (height.div_ceil(factor), width.div_ceil(factor));
        let bytes = [columns, self.workload.largest_tensor, size_of::<f32>()]
            .into_iter()
            .try_fold(rows, usize::checked_mul);
        match bytes {
            Some(bytes) if bytes <= limit => Ok((batch, (height / factor) * (width / factor))),
            _ => Err(VaeError::Input(format!(
                "a picture of {width} x {height} pixels is too large: a layer would need more than the {limit} bytes \
                 that one tensor may have"
            ))),
        }
    }
}
