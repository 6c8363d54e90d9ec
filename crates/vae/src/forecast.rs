//! What a piece of work will take, known before it begins.
//!
//! A model is built twice from the same checkpoint: on the engine that does the work, and on that engine's
//! [`rehearsal`](crate::engine::Engine::rehearsal), which goes through the very same graph and kernels and only keeps the
//! books of the memory. So a prediction cannot drift from the code.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{DecodeOptions, EncodeOptions, HostTensor, Observer, Vae, VaeError, VaeInfo};

/// What a piece of work will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Bytes of the engine's memory, for feature maps and scratch, at its peak.
    pub engine_memory: usize,
    /// Bytes of the host's memory beside it, for latents and pixels.
    pub host_memory: usize,
    /// Multiply-adds, as [`Observer::progress`] counts them: equal numbers take roughly equal times.
    pub work: usize,
    /// Whether values take 16 bits between layers.
    pub lean: bool,
}

impl Forecast {
    /// Bytes of memory in all.
    pub fn memory(&self) -> usize {
        self.engine_memory.saturating_add(self.host_memory)
    }
}

/// A model that is on a rehearsing engine, as its family sees it.
pub(crate) trait Rehearse: Vae {
    /// Of latents of this shape, as [`Vae::decode`] would decode them.
    fn rehearse_decode(&self, latents: &[usize], options: &DecodeOptions) -> Result<Forecast, VaeError>;
    /// Of pixels of this shape, as [`Vae::encode`] would encode them.
    fn rehearse_encode(&self, pixels: &[usize], options: &EncodeOptions) -> Result<Forecast, VaeError>;
}

/// Predicts what work with a model will take, from any thread and while the model works. A prediction takes
/// milliseconds and hardly any memory.
pub struct Forecaster(Mutex<Box<dyn Rehearse>>);

impl Forecaster {
    /// What [`Vae::decode`] will take for latents of this shape.
    ///
    /// # Errors
    /// [`VaeError::Input`] for latents or options that this model cannot take.
    pub fn decode(&self, latents: &[usize], options: &DecodeOptions) -> Result<Forecast, VaeError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rehearse_decode(latents, options)
    }

    /// [`Vae::tile_latent_min_size`].
    pub fn tile_latent_min_size(&self) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tile_latent_min_size()
    }

    /// [`Vae::tile_sample_min_size`].
    pub fn tile_sample_min_size(&self) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tile_sample_min_size()
    }

    /// What [`Vae::encode`] will take for pixels of this shape.
    ///
    /// # Errors
    /// [`VaeError::Input`] for pixels or options that this model cannot take.
    pub fn encode(&self, pixels: &[usize], options: &EncodeOptions) -> Result<Forecast, VaeError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rehearse_encode(pixels, options)
    }
}

/// A model together with its rehearsal.
pub(crate) struct Foreseen {
    vae: Box<dyn Vae>,
    forecaster: Arc<Forecaster>,
    /// Bytes of the checkpoint, and those of them that are no part of a mapped file.
    weights: [usize; 2],
}

impl Foreseen {
    pub(crate) fn new(vae: Box<dyn Vae>, rehearsal: Box<dyn Rehearse>, weights: [usize; 2]) -> Self {
        Self { vae, forecaster: Arc::new(Forecaster(Mutex::new(rehearsal))), weights }
    }
}

impl Vae for Foreseen {
    fn info(&self) -> &VaeInfo {
        self.vae.info()
    }

    fn decode(
        &mut self,
        latents: HostTensor,
        options: &DecodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        self.vae.decode(latents, options, observer)
    }

    fn tile_latent_min_size(&self) -> Option<usize> {
        self.vae.tile_latent_min_size()
    }

    fn encode(
        &mut self,
        pixels: HostTensor,
        options: &EncodeOptions,
        observer: &mut dyn Observer,
    ) -> Result<HostTensor, VaeError> {
        self.vae.encode(pixels, options, observer)
    }

    fn tile_sample_min_size(&self) -> Option<usize> {
        self.vae.tile_sample_min_size()
    }

    fn forecaster(&self) -> Option<Arc<Forecaster>> {
        Some(Arc::clone(&self.forecaster))
    }

    fn peak_memory(&self) -> Option<usize> {
        self.vae.peak_memory()
    }

    fn weights_memory(&self) -> usize {
        self.weights[0]
    }

    fn copied_weights_memory(&self) -> usize {
        self.weights[1]
    }

    fn release(&mut self) {
        self.vae.release();
    }

    fn reserve(&mut self, bytes: usize) {
        self.vae.reserve(bytes);
    }
}
