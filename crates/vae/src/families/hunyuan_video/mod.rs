//! `AutoencoderKLHunyuanVideo`: the causal 3-D autoencoder of HunyuanVideo.

mod blocks;
mod config;
mod decoder;
mod encode;
mod encoder;
mod framewise;
mod pass;
mod pieces;
mod workload;

use std::cell::{Cell, RefCell};

use self::config::HunyuanVideoConfig;
use self::decoder::HunyuanVideoDecoder3D;
use self::encode::EncodingHalf;
use self::pass::{CausalConv3d, Pass};
use self::pieces::Pieces;
use self::workload::{Cost, Size, Workload};
use super::decoder_only;
use super::tiling::Tiling;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::VideoEngine;
use crate::families::batch::{self, in_parts};
use crate::families::{bytes_of, is_lean, rehearse};
use crate::forecast::{Forecast, Rehearse};
use crate::layers::VarBuilder;
use crate::{DecodeOptions, EncodeOptions, HostTensor, LoadError, Observer, Silent, Vae, VaeError, VaeInfo};

/// Its name in `config.json`.
pub(super) const CLASS_NAME: &str = "AutoencoderKLHunyuanVideo";

/// Side of a tile in pixels, and pixels from one tile to the next: `tile_sample_min_height` and
/// `tile_sample_stride_height` of diffusers' constructor, and the same for the width.
const TILE_SAMPLE_MIN_SIZE: usize = 256;
const TILE_SAMPLE_STRIDE: usize = 192;

/// The costs of the layers that were loaded so far.
type Costs = RefCell<Vec<Cost>>;

/// diffusers' `AutoencoderKLHunyuanVideo`, on one engine.
pub(super) struct AutoencoderKLHunyuanVideo<E: VideoEngine> {
    engine: E,
    info: VaeInfo,
    post_quant_conv: CausalConv3d<E>,
    decoder: HunyuanVideoDecoder3D<E>,
    /// Of the decoder.
    workload: Workload,
    encoding: Option<EncodingHalf<E>>,
}

impl<E: VideoEngine> AutoencoderKLHunyuanVideo<E> {
    /// Builds the model from its configuration and weights.
    pub(super) fn load(config: &Config, checkpoint: &Checkpoint, engine: E) -> Result<Self, LoadError> {
        let concluded = config.concluded().map(str::to_owned);
        let config = HunyuanVideoConfig::read(config)?;
        let (latents, space) = (config.latent_channels, config.spatial_compression_ratio);
        let costs = Costs::default();
        let unused = Cell::default();
        let vb = VarBuilder::new(&engine, checkpoint, &unused);
        let ends = [latents, latents];
        let post_quant_conv =
            CausalConv3d::load(&vb.pp("post_quant_conv"), ends, 1, config.stage(0), &costs)?;
        let decoder = HunyuanVideoDecoder3D::load(&vb.pp("decoder"), &config, &costs)?;
        let encoding = EncodingHalf::load(&config, checkpoint, &engine)?;
        let info = VaeInfo {
            class_name: CLASS_NAME.to_owned(),
            engine: engine.describe(),
            latent_channels: latents,
            out_channels: config.out_channels,
            spatial_factor: space,
            temporal_factor: Some(config.temporal_compression_ratio),
            scaling_factor: config.scaling_factor,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            concluded,
            can_encode: encoding.is_some(),
        };
        let workload = Workload::new(costs);
        Ok(Self { engine, info, post_quant_conv, decoder, workload, encoding })
    }

    /// The batch and the pieces of each clip of latents that this model can decode.
    fn check_latents(&self, shape: &[usize], options: &DecodeOptions) -> Result<(usize, Pieces), VaeError> {
        let channels = self.info.latent_channels;
        let &[batch, found, frames, height, width] = shape else {
            return Err(VaeError::Input(format!(
                "latents of shape {shape:?} cannot be decoded, expected [B, {channels}, f, h, w]"
            )));
        };
        if found != channels || [batch, frames, height, width].contains(&0) {
            return Err(VaeError::Input(format!(
                "latents of shape {shape:?} cannot be decoded, expected [B, {channels}, f, h, w] with no axis empty"
            )));
        }
        let size = Size { frames, height, width };
        let tiling = Tiling::of_strides(TILE_SAMPLE_MIN_SIZE, TILE_SAMPLE_STRIDE, self.info.spatial_factor);
        let units = [1, self.info.temporal_factor.unwrap_or(1)];
        let pieces = Pieces::new(size, units, options.framewise, options.tiling.then_some(tiling));
        let limit = self.engine.limits().max_tensor_bytes;
        if !self.workload.fits(size, &pieces, limit) {
            return Err(VaeError::Input(format!(
                "latents of {frames} x {height} x {width} are too large: a layer would need more than the {limit} bytes \
                 that one tensor may have"
            )));
        }
        Ok((batch, pieces))
    }

    /// What encodes.
    fn encoding(&self) -> Result<&EncodingHalf<E>, VaeError> {
        self.encoding.as_ref().ok_or_else(decoder_only)
    }

    /// Decodes one piece `[1, C, f, h, w]` in one pass.
    fn decode_piece(&self, latents: &HostTensor, pass: &mut Pass<'_, E>) -> Result<HostTensor, VaeError> {
        pass.set_input(Size::of(latents));
        let engine = pass.engine();
        let x = engine.upload_clip(latents)?;
        let x = pass.conv(x, &self.post_quant_conv)?;
        pass.observe("post_quant_conv", &x)?;
        let x = self.decoder.forward(x, pass)?;
        Ok(engine.download_clip(&x)?)
    }
}

impl<E: VideoEngine> Vae for AutoencoderKLHunyuanVideo<E> {
    fn info(&self) -> &VaeInfo {
        &self.info
    }

    fn decode(
        &mut self,
        latents: HostTensor,
        options: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let (batch, pieces) = self.check_latents(&latents.shape, options)?;
        let total = self.workload.of(&pieces).saturating_mul(batch);
        let lean = options.lean.then(|| self.engine.lean()).flatten();
        let engine = lean.as_ref().unwrap_or(&self.engine);
        engine.begin_peak();
        let mut pass = Pass::new(engine, observer, total)?;
        in_parts(&latents, 1, |clip| pieces.run(&clip, |piece| self.decode_piece(piece, &mut pass)))
    }

    fn tile_latent_min_size(&self) -> Option<usize> {
        Some(TILE_SAMPLE_MIN_SIZE / self.info.spatial_factor)
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

    fn peak_memory(&self) -> Option<usize> {
        Some(self.engine.peak_memory())
    }

    fn tile_sample_min_size(&self) -> Option<usize> {
        self.encoding.is_some().then_some(TILE_SAMPLE_MIN_SIZE)
    }

    fn release(&mut self) {
        self.engine.release();
    }

    fn reserve(&mut self, bytes: usize) {
        self.engine.reserve(bytes);
    }
}

impl<E: VideoEngine> Rehearse for AutoencoderKLHunyuanVideo<E> {
    fn rehearse_decode(&self, latents: &[usize], options: &DecodeOptions) -> Result<Forecast, VaeError> {
        let (batch, pieces) = self.check_latents(latents, options)?;
        let lean = options.lean.then(|| self.engine.lean()).flatten();
        let engine = lean.as_ref().unwrap_or(&self.engine);
        let (space, time) = (self.info.spatial_factor, self.info.temporal_factor.unwrap_or(1));
        let pictures = |Size { frames, height, width }: Size| {
            let frames = (frames - 1).saturating_mul(time).saturating_add(1);
            bytes_of(&[self.info.out_channels, frames, height, space, width, space])
        };
        let mut observer = Silent;
        let mut pass = Pass::new(engine, &mut observer, 0)?;
        let host = batch::memory(batch, 1, bytes_of(&latents[1..]), pictures(pieces.whole()));
        Ok(Forecast {
            engine_memory: rehearse(engine, pieces.shapes(latents[1]), |x| self.decode_piece(&x, &mut pass))?,
            host_memory: host.saturating_add(pieces.memory(pictures)),
            work: self.workload.of(&pieces).saturating_mul(batch),
            lean: is_lean(engine),
        })
    }

    fn rehearse_encode(&self, pixels: &[usize], options: &EncodeOptions) -> Result<Forecast, VaeError> {
        self.encoding()?.rehearse(&self.engine, pixels, options)
    }
}
