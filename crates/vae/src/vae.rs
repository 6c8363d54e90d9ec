//! What a loaded model can do, whatever its family and engine.

use crate::{HostTensor, Observer, VaeError};

/// What a caller needs to know of a loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeInfo {
    /// `_class_name` of its configuration, for example `AutoencoderKL`.
    pub class_name: String,
    /// The engine that runs it, for people: `cpu, AVX2+FMA, 2 threads`.
    pub engine: String,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of the pictures (3).
    pub out_channels: usize,
    /// Pixels per latent, along height and width (8 for the models we know).
    pub spatial_factor: usize,
    /// Frames per latent frame for video models (`F = (f - 1) * factor + 1`); `None` for image models.
    pub temporal_factor: Option<usize>,
    /// `scaling_factor` of the configuration.
    pub scaling_factor: f32,
    /// `shift_factor` of the configuration, if it has one.
    pub shift_factor: Option<f32>,
    /// `latents_mean` of the configuration, one value a channel, if it has them.
    pub latents_mean: Option<Vec<f32>>,
    /// `latents_std` of the configuration, one value a channel, if it has them.
    pub latents_std: Option<Vec<f32>>,
}

/// A loaded autoencoder. One thread owns it; it may be sent to that thread.
pub trait Vae: Send {
    /// What this model is.
    fn info(&self) -> &VaeInfo;

    /// Decodes latents that are already scaled for the model.
    ///
    /// Images: `[B, C, h, w]` to `[B, 3, h * 8, w * 8]`, nominally in [-1, 1], not clamped.
    ///
    /// # Errors
    /// A shape that this model cannot take, a cancelled observer, or a failure of the engine.
    fn decode(&mut self, latents: HostTensor, observer: &mut dyn Observer) -> Result<HostTensor, VaeError>;

    /// Decodes as diffusers does after `enable_tiling()`: in overlapping tiles that are blended where they meet, unless
    /// the latents fit one tile. Needs less memory and gives a slightly different picture, with faint seams.
    ///
    /// # Errors
    /// Those of [`Vae::decode`], and [`VaeError::Input`] when [`Vae::tile_latent_min_size`] is `None`.
    fn decode_tiled(
        &mut self,
        latents: HostTensor,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        let _ = (latents, observer);
        Err(VaeError::Input("this model cannot be decoded in tiles".to_owned()))
    }

    /// Height and width, in latents, of the largest latents that [`Vae::decode_tiled`] decodes as one tile; `None` for
    /// a model that is not decoded in tiles.
    fn tile_latent_min_size(&self) -> Option<usize> {
        None
    }

    /// Gives back memory kept from earlier work. The next call takes it anew.
    fn release(&mut self);
}
