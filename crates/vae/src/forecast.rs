//! What a piece of work will take, known before it begins.
//!
//! A device predicts a run of a plan by the plan itself ([`Plan::forecast`](crate::device::Plan::forecast)), so that a
//! prediction cannot drift from the code; the model adds what its cuts take.

use std::fmt;
use std::sync::Arc;

use crate::model::Model;
use crate::{DecodeOptions, EncodeOptions, VaeError};

/// What a piece of work will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Bytes of the device's memory, for feature maps and scratch, at its peak.
    pub engine_memory: usize,
    /// Bytes of the host's memory beside it, for latents and pixels.
    pub host_memory: usize,
    /// Multiply-adds, as [`Observer::progress`](crate::Observer::progress) counts them: equal numbers take roughly equal times.
    pub work: usize,
    /// Whether values take 16 bits between layers.
    pub lean: bool,
    /// How it is cut, where it is not done in one piece: the result is the same.
    pub cut: Option<Cut>,
}

/// How work is cut so that it takes less memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bands of rows.
    pub bands: usize,
    /// Rows of what comes out of each but the last.
    pub rows: usize,
    /// Frames that come out at a time, of a clip.
    pub frames: Option<usize>,
}

impl fmt::Display for Cut {
    /// For people: `in 12 bands of 64 rows`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bands, rows, frames } = *self;
        if bands > 1 {
            write!(f, "in {bands} bands of {rows} rows")?;
        }
        match frames {
            Some(1) => write!(f, "{}frame by frame", if bands > 1 { ", " } else { "" }),
            Some(frames) => write!(f, "{}{frames} frames at a time", if bands > 1 { ", " } else { "" }),
            None => Ok(()),
        }
    }
}

impl Forecast {
    /// Bytes of memory in all.
    pub fn memory(&self) -> usize {
        self.engine_memory.saturating_add(self.host_memory)
    }
}

/// Predicts what work with a model will take, from any thread and while the model works. A prediction takes
/// milliseconds and hardly any memory.
pub struct Forecaster(Arc<Model>);

impl Forecaster {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self(model)
    }

    /// What [`Vae::decode`](crate::Vae::decode) will take for latents of this shape.
    ///
    /// # Errors
    /// [`VaeError::Input`] for latents or options that this model cannot take.
    pub fn decode(&self, latents: &[usize], options: &DecodeOptions) -> Result<Forecast, VaeError> {
        self.0.forecast_decode(latents, options)
    }

    /// [`Vae::tile_latent_min_size`](crate::Vae::tile_latent_min_size).
    pub fn tile_latent_min_size(&self) -> Option<usize> {
        self.0.tile_latent_min_size()
    }

    /// [`Vae::tile_sample_min_size`](crate::Vae::tile_sample_min_size).
    pub fn tile_sample_min_size(&self) -> Option<usize> {
        self.0.tile_sample_min_size()
    }

    /// What [`Vae::encode`](crate::Vae::encode) will take for pixels of this shape.
    ///
    /// # Errors
    /// [`VaeError::Input`] for pixels or options that this model cannot take.
    pub fn encode(&self, pixels: &[usize], options: &EncodeOptions) -> Result<Forecast, VaeError> {
        self.0.forecast_encode(pixels, options)
    }
}
