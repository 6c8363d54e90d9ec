//! The encoding half of HunyuanVideo: everything that a checkpoint without an encoder does not have.

use std::cell::Cell;

use super::config::HunyuanVideoConfig;
use super::encoder::HunyuanVideoEncoder3D;
use super::pass::{CausalConv3d, Pass};
use super::pieces::Pieces;
use super::workload::{Size, Workload};
use super::{Costs, TILE_SAMPLE_MIN_SIZE, TILE_SAMPLE_STRIDE};
use crate::checkpoint::Checkpoint;
use crate::engine::VideoEngine;
use crate::families::batch::{self, in_parts};
use crate::families::tiling::{Tiling, crop};
use crate::families::{bytes_of, is_lean, rehearse};
use crate::forecast::Forecast;
use crate::layers::VarBuilder;
use crate::{EncodeOptions, HostTensor, LoadError, Observer, Silent, VaeError};

/// Encoder and `quant_conv`.
pub(super) struct EncodingHalf<E: VideoEngine> {
    encoder: HunyuanVideoEncoder3D<E>,
    quant_conv: CausalConv3d<E>,
    workload: Workload,
    in_channels: usize,
    /// Means and variances of the latents' channels.
    moments: usize,
    /// Pixels per latent, along height and width.
    spatial_factor: usize,
    /// Frames per latent frame.
    temporal_factor: usize,
}

impl<E: VideoEngine> EncodingHalf<E> {
    /// Loads it; `None` when the checkpoint has no encoder.
    pub(super) fn load(
        config: &HunyuanVideoConfig,
        checkpoint: &Checkpoint,
        engine: &E,
    ) -> Result<Option<Self>, LoadError> {
        if !checkpoint.contains("encoder.conv_in.conv.weight") {
            return Ok(None);
        }
        let costs = Costs::default();
        let unused = Cell::default();
        let vb = VarBuilder::new(engine, checkpoint, &unused);
        let encoder = HunyuanVideoEncoder3D::load(&vb.pp("encoder"), config, &costs)?;
        let end = config.encoder_stage(config.block_out_channels.len());
        // Means and variances.
        let moments = 2 * config.latent_channels;
        let quant_conv = CausalConv3d::load(&vb.pp("quant_conv"), [moments; 2], 1, end, &costs)?;
        Ok(Some(Self {
            encoder,
            quant_conv,
            workload: Workload::new(costs),
            in_channels: config.in_channels,
            moments,
            spatial_factor: config.spatial_compression_ratio,
            temporal_factor: config.temporal_compression_ratio,
        }))
    }

    /// [`Vae::encode`](crate::Vae::encode).
    pub(super) fn encode(
        &self,
        engine: &E,
        pixels: &HostTensor,
        options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let (batch, pieces) = self.check_pixels(&pixels.shape, options, engine.limits().max_tensor_bytes)?;
        let total = self.workload.of(&pieces).saturating_mul(batch);
        let mut pass = Pass::new(engine, observer, total)?;
        let moments = in_parts(pixels, 1, |clip| {
            pieces.run(&clip, |piece| self.encode_piece(engine, piece, &mut pass))
        })?;
        if !pieces.tiled() {
            return Ok(moments);
        }
        // Pixels that make no whole latent do make one in the last tiles; diffusers leaves it out.
        let sides = [pixels.shape[3], pixels.shape[4]].map(|side| side / self.spatial_factor);
        Ok(crop_clip(&moments, sides))
    }

    /// What [`EncodingHalf::encode`] would take on `engine`, which rehearses.
    pub(super) fn rehearse(
        &self,
        engine: &E,
        pixels: &[usize],
        options: &EncodeOptions,
    ) -> Result<Forecast, VaeError> {
        let (batch, pieces) = self.check_pixels(pixels, options, engine.limits().max_tensor_bytes)?;
        let (space, time) = (self.spatial_factor, self.temporal_factor);
        let moments = |Size { frames, height, width }: Size| {
            bytes_of(&[self.moments, (frames - 1) / time + 1, height.div_ceil(space), width.div_ceil(space)])
        };
        let mut observer = Silent;
        let mut pass = Pass::new(engine, &mut observer, 0)?;
        let run = |x: HostTensor| self.encode_piece(engine, &x, &mut pass);
        let host = batch::memory(batch, 1, bytes_of(&pixels[1..]), moments(pieces.whole()));
        Ok(Forecast {
            engine_memory: rehearse(engine, pieces.shapes(pixels[1]), run)?,
            host_memory: host.saturating_add(pieces.memory(moments)),
            work: self.workload.of(&pieces).saturating_mul(batch),
            lean: is_lean(engine),
        })
    }

    /// Encodes one piece `[1, 3, F, H, W]` in one pass.
    fn encode_piece(
        &self,
        engine: &E,
        pixels: &HostTensor,
        pass: &mut Pass<'_, E>,
    ) -> Result<HostTensor, VaeError> {
        pass.set_input(Size::of(pixels));
        let x = self.encoder.forward(engine.upload_clip(pixels)?, pass)?;
        let x = pass.conv(x, &self.quant_conv)?;
        pass.observe("quant_conv", &x)?;
        Ok(engine.download_clip(&x)?)
    }

    /// The batch and the pieces of each clip of pixels that this model can encode.
    fn check_pixels(
        &self,
        shape: &[usize],
        options: &EncodeOptions,
        limit: usize,
    ) -> Result<(usize, Pieces), VaeError> {
        let (channels, factor) = (self.in_channels, self.spatial_factor);
        let wrong = |what: &str| {
            Err(VaeError::Input(format!(
                "pixels of shape {shape:?} cannot be encoded, expected [B, {channels}, F, H, W]{what}"
            )))
        };
        let &[batch, found, frames, height, width] = shape else { return wrong("") };
        if found != channels || batch == 0 || frames == 0 {
            return wrong("");
        }
        if height < factor || width < factor {
            return wrong(&format!(" with sides of {factor} pixels at least"));
        }
        let size = Size { frames, height, width };
        let tiling = Tiling::of_encoder_strides(TILE_SAMPLE_MIN_SIZE, TILE_SAMPLE_STRIDE, factor);
        let units = [self.temporal_factor, 1];
        let pieces = Pieces::new(size, units, options.framewise, options.tiling.then_some(tiling));
        if !self.workload.fits(size, &pieces, limit) {
            return Err(VaeError::Input(format!(
                "a video of {frames} frames of {width} x {height} pixels is too large: a layer would need more than the \
                 {limit} bytes that one tensor may have"
            )));
        }
        Ok((batch, pieces))
    }
}

/// The first rows and columns of a clip's frames.
fn crop_clip(clip: &HostTensor, sides: [usize; 2]) -> HostTensor {
    let HostTensor { shape, data } = clip;
    let planes = HostTensor::new(vec![1, shape[..3].iter().product(), shape[3], shape[4]], data.clone());
    let shape = [&shape[..3], &sides].concat();
    HostTensor::new(shape, crop(&planes, [0, 0], sides).data)
}
