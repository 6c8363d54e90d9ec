//! `AutoencoderKLHunyuanVideo`: the causal 3-D autoencoder of HunyuanVideo.

mod config;
mod decoder;
mod framewise;
mod pass;
mod workload;

use std::cell::{Cell, RefCell};

use self::config::HunyuanVideoConfig;
use self::decoder::HunyuanVideoDecoder3D;
use self::framewise::Joiner;
use self::pass::{CausalConv3d, Pass};
use self::workload::{Cost, Size, Stage};
use super::tiling::Tiling;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::{Upsampling, VideoEngine};
use crate::families::batch::in_parts;
use crate::layers::{VarBuilder, Workload};
use crate::{DecodeOptions, HostTensor, LoadError, Observer, Vae, VaeError, VaeInfo};

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
    /// Of every layer of a pass.
    costs: Vec<Cost>,
    tiling: Tiling,
}

impl Stage {
    /// After an upsampling.
    fn after(self, Upsampling { time, space }: Upsampling) -> Self {
        Self { time: self.time << usize::from(time), area: self.area << (2 * usize::from(space)) }
    }
}

impl<E: VideoEngine> AutoencoderKLHunyuanVideo<E> {
    /// Builds the model from its configuration and weights.
    pub(super) fn load(config: &Config, checkpoint: &Checkpoint, engine: E) -> Result<Self, LoadError> {
        let config = HunyuanVideoConfig::read(config)?;
        let (latents, space) = (config.latent_channels, config.spatial_compression_ratio);
        let costs = Costs::default();
        let workload = Cell::new(Workload::default());
        let vb = VarBuilder::new(&engine, checkpoint, &workload);
        let ends = [latents, latents];
        let post_quant_conv =
            CausalConv3d::load(&vb.pp("post_quant_conv"), ends, 1, config.stage(0), &costs)?;
        let decoder = HunyuanVideoDecoder3D::load(&vb.pp("decoder"), &config, &costs)?;
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
            can_encode: false,
        };
        let tiling = Tiling::of_strides(TILE_SAMPLE_MIN_SIZE, TILE_SAMPLE_STRIDE, space);
        Ok(Self { engine, info, post_quant_conv, decoder, costs: costs.into_inner(), tiling })
    }

    /// The batch and the size of each clip of latents that this model can decode.
    fn check_latents(&self, shape: &[usize], options: &DecodeOptions) -> Result<(usize, Size), VaeError> {
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
        let limit = self.engine.limits().max_tensor_bytes;
        let fits = |part: Size| {
            let largest = self.costs.iter().map(|cost| cost.values(part)?.checked_mul(size_of::<f32>()));
            largest.into_iter().all(|bytes| bytes.is_some_and(|bytes| bytes <= limit))
        };
        // The clip as a whole first: its pictures must be countable before its parts are counted.
        let countable = self.costs.iter().all(|cost| cost.values(size).is_some());
        if !countable || !self.passes(size, options).all(fits) {
            return Err(VaeError::Input(format!(
                "latents of {frames} x {height} x {width} are too large: a layer would need more than the {limit} bytes \
                 that one tensor may have"
            )));
        }
        Ok((batch, size))
    }

    /// The sizes of the clips that go through the decoder for latents of this size, in order.
    fn passes(&self, size: Size, options: &DecodeOptions) -> impl Iterator<Item = Size> {
        let framewise = options.framewise && framewise::cuts(size.frames);
        let tiled = options.tiling && self.tiling.cuts(size.height, size.width);
        let whole = (!framewise).then_some(size.frames);
        let parts = framewise.then(|| framewise::parts(size.frames).map(|(_, frames)| frames));
        let tiling = self.tiling;
        whole.into_iter().chain(parts.into_iter().flatten()).flat_map(move |frames| {
            let one = (!tiled).then_some((size.height, size.width));
            let tiles = tiled.then(|| tiling.tiles(size.height, size.width));
            let tiles = one.into_iter().chain(tiles.into_iter().flatten());
            tiles.map(move |(height, width)| Size { frames, height, width })
        })
    }

    /// Decodes one clip `[1, C, f, h, w]`.
    fn decode_clip(
        &self,
        latents: &HostTensor,
        size: Size,
        options: &DecodeOptions,
        pass: &mut Pass<'_, E>,
    ) -> Result<HostTensor, VaeError> {
        if !(options.framewise && framewise::cuts(size.frames)) {
            return self.decode_part(latents, options, pass);
        }
        let factor = self.info.temporal_factor.unwrap_or(1);
        let mut joiner = Joiner::new(
            factor,
            [
                1,
                self.info.out_channels,
                (size.frames - 1) * factor + 1,
                size.height * self.info.spatial_factor,
                size.width * self.info.spatial_factor,
            ],
        );
        for (first, length) in framewise::parts(size.frames) {
            let part = framewise::frames(latents, first, length);
            joiner.add(self.decode_part(&part, options, pass)?);
        }
        Ok(joiner.finish())
    }

    /// Decodes frames that are not cut any more, whole or in tiles.
    fn decode_part(
        &self,
        latents: &HostTensor,
        options: &DecodeOptions,
        pass: &mut Pass<'_, E>,
    ) -> Result<HostTensor, VaeError> {
        let &[_, channels, frames, height, width] = latents.shape.as_slice() else {
            unreachable!("latents were checked")
        };
        if !(options.tiling && self.tiling.cuts(height, width)) {
            return self.decode_whole(latents, pass);
        }
        // Tiles are cut and blended plane by plane, whatever the planes are.
        let planes = |x: HostTensor, channels: usize| {
            let shape = vec![1, x.shape[1] * x.shape[2], x.shape[3], x.shape[4]];
            (HostTensor::new(shape, x.data), channels)
        };
        let (flat, channels) = planes(latents.clone(), channels);
        let out_channels = self.info.out_channels;
        let decoded = self.tiling.run(&flat, |tile| {
            let shape = vec![1, channels, frames, tile.shape[2], tile.shape[3]];
            let decoded = self.decode_whole(&HostTensor::new(shape, tile.data), pass)?;
            Ok::<_, VaeError>(planes(decoded, out_channels).0)
        })?;
        let &[_, all, height, width] = decoded.shape.as_slice() else { unreachable!("planes of pictures") };
        let shape = vec![1, out_channels, all / out_channels, height, width];
        Ok(HostTensor::new(shape, decoded.data))
    }

    /// Decodes frames in one pass.
    fn decode_whole(&self, latents: &HostTensor, pass: &mut Pass<'_, E>) -> Result<HostTensor, VaeError> {
        let [frames, height, width] = [2, 3, 4].map(|axis| latents.shape[axis]);
        pass.set_input(Size { frames, height, width });
        let x = self.engine.upload_clip(latents)?;
        let x = pass.conv(x, &self.post_quant_conv)?;
        pass.observe("post_quant_conv", &x)?;
        let x = self.decoder.forward(x, pass)?;
        Ok(self.engine.download_clip(&x)?)
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
        let (batch, size) = self.check_latents(&latents.shape, options)?;
        let cost = |size| self.costs.iter().map(|cost| cost.of(size)).fold(0, usize::saturating_add);
        let total = self.passes(size, options).map(cost).fold(0, usize::saturating_add);
        let mut pass = Pass::new(&self.engine, observer, total.saturating_mul(batch))?;
        in_parts(&latents, 1, |clip| self.decode_clip(&clip, size, options, &mut pass))
    }

    fn tile_latent_min_size(&self) -> Option<usize> {
        Some(TILE_SAMPLE_MIN_SIZE / self.info.spatial_factor)
    }

    fn release(&mut self) {
        self.engine.release();
    }
}
