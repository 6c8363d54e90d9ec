//! What a loaded model can do, whatever its family and device.

use std::sync::Arc;

use crate::latents::LatentFormat;
use crate::{Forecaster, HostTensor, Observer, VaeError};

/// What a caller needs to know of a loaded model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VaeInfo {
    /// `_class_name` of its configuration, for example `AutoencoderKL`.
    pub class_name: String,
    /// The device that runs it, for people: `cpu, AVX2+FMA, 2 threads`.
    pub engine: String,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of the pictures: 3, or 4 with alpha.
    pub out_channels: usize,
    /// Pixels per latent, along height and width (8 for the models we know).
    pub spatial_factor: usize,
    /// Whether [`Vae::encode`] works: not for checkpoints that hold a decoder only.
    pub can_encode: bool,
    /// Frames per latent frame for video models (`F = (f - 1) * factor + 1`); `None` for image models.
    pub temporal_factor: Option<usize>,
    /// How pipelines hand over its latents.
    pub latents: LatentFormat,
    /// What neither a configuration nor the user has said and was concluded from the tensors, such as the factors: one
    /// sentence for people, without the path of the file.
    pub concluded: Option<String>,
}

/// How latents are decoded. The default is what diffusers does when it is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// As diffusers does after `enable_tiling()`: in overlapping tiles that are blended where they meet, unless the
    /// latents fit one tile. Needs less memory and gives a slightly different picture, with faint seams.
    pub tiling: bool,
    /// Video only, diffusers' `use_framewise_decoding`: a few latent frames at a time, blended where they meet. Its
    /// memory does not grow with the length of the video; without it the whole video is decoded in one exact pass.
    pub framewise: bool,
    /// Values take 16 bits between layers: about half of the memory, and a picture that differs by less than what eight
    /// bits show.
    pub lean: bool,
    /// Bytes that the work may take, of device and host together. What would take more is decoded in bands of rows or a few
    /// frames at a time, with the same result, if the model can do that; it is not refused if it cannot. Without a limit, what
    /// would take much is decoded so where that is hardly more work.
    pub memory: Option<usize>,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { tiling: false, framewise: true, lean: false, memory: None }
    }
}

/// How pictures are encoded. The default is what diffusers does when it is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// As diffusers does after `enable_tiling()`: in overlapping tiles whose moments are blended where they meet,
    /// unless the picture fits one tile. Needs less memory and gives slightly different latents.
    pub tiling: bool,
    /// Video only, diffusers' `use_framewise_encoding`: 17 frames at a time, one such part every 12 frames, blended
    /// where they meet. Its memory does not grow with the length of the video; without it the whole video is encoded in
    /// one pass.
    pub framewise: bool,
    /// As [`DecodeOptions::memory`].
    pub memory: Option<usize>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { tiling: false, framewise: true, memory: None }
    }
}

/// A loaded autoencoder. One thread owns it; it may be sent to that thread.
pub trait Vae: Send {
    /// What this model is.
    fn info(&self) -> &VaeInfo;

    /// Decodes latents that are already scaled for the model.
    ///
    /// Images: `[B, C, h, w]` to `[B, 3, h * 8, w * 8]`; video: `[B, C, f, h, w]` to
    /// `[B, 3, (f - 1) * 4 + 1, h * 8, w * 8]`. Nominally in [-1, 1], not clamped.
    ///
    /// # Errors
    /// A shape that this model cannot take, a cancelled observer, a failure of the device, or [`VaeError::Input`] for
    /// tiles when [`Vae::tile_latent_min_size`] is `None`.
    fn decode(
        &mut self,
        latents: HostTensor,
        options: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError>;

    /// Height and width, in latents, of the largest latents that are one tile when they are decoded in tiles; `None` for
    /// a model that is not decoded in tiles.
    fn tile_latent_min_size(&self) -> Option<usize> {
        None
    }

    /// Encodes pictures to the moments of the latents' distribution, from which
    /// [`DiagonalGaussianDistribution`](crate::DiagonalGaussianDistribution) makes latents:
    ///
    /// ```no_run
    /// # use remote_vae_vae::{DiagonalGaussianDistribution, EncodeOptions, HostTensor, SampleMode, Silent, Vae, VaeError};
    /// # use remote_vae_vae::latents::Scaling;
    /// # fn encode(vae: &mut dyn Vae, pixels: HostTensor) -> Result<HostTensor, VaeError> {
    /// let moments = vae.encode(pixels, &EncodeOptions::default(), &mut Silent)?;
    /// let mut latents = DiagonalGaussianDistribution::new(moments).latents(SampleMode::Sample { seed: 0 });
    /// Scaling::Model.undo(&mut latents, vae.info())?; // as a pipeline wants them
    /// # Ok(latents)
    /// # }
    /// ```
    ///
    /// Images: `[B, 3, H, W]` to `[B, 2C, H / 8, W / 8]`, rounded down. Video: `[B, 3, F, H, W]` to
    /// `[B, 2C, (F - 1) / 4 + 1, H / 8, W / 8]`, the frames rounded down, height and width up (in tiles: down), as
    /// diffusers' model does it. Values are nominally in [-1, 1]. The moments are not scaled.
    ///
    /// # Errors
    /// [`VaeError::Input`] when the model has no encoder ([`VaeInfo::can_encode`]), cannot take this shape, or is to
    /// encode in tiles and [`Vae::tile_sample_min_size`] is `None`; a cancelled observer, or a failure of the device.
    fn encode(
        &mut self,
        pixels: HostTensor,
        options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let _ = (pixels, options, observer);
        Err(VaeError::Input("this model cannot encode".to_owned()))
    }

    /// Height and width, in pixels, of the largest picture that is one tile when it is encoded in tiles; `None` for a model
    /// that is not encoded in tiles.
    fn tile_sample_min_size(&self) -> Option<usize> {
        None
    }

    /// Predicts what work with this model will take, from any thread; `None` for a model that cannot tell.
    fn forecaster(&self) -> Option<Arc<Forecaster>> {
        None
    }

    /// The most bytes that the device had in use at once in the last decode or encode, as [`Forecast::engine_memory`](crate::Forecast::engine_memory)
    /// predicts it; `None` for a model that cannot tell.
    fn peak_memory(&self) -> Option<usize> {
        None
    }

    /// Bytes of the weights, in mapped files and in memory; 0 for a model that cannot tell.
    fn weights_memory(&self) -> usize {
        0
    }

    /// Those of [`Vae::weights_memory`] that lie in memory, where the system cannot take them back: copies of files that
    /// may be changed, and values that had to be converted.
    fn copied_weights_memory(&self) -> usize {
        0
    }

    /// Gives back memory kept from earlier work. The next call takes it anew.
    fn release(&mut self);

    /// Has memory at hand for work that will take `bytes` of the device's
    /// ([`Forecast::engine_memory`](crate::Forecast::engine_memory)), so that the work need not wait for it.
    fn reserve(&mut self, _bytes: usize) {}
}
