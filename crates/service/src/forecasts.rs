//! What work with a model will take, remembered: a prediction goes through the whole model, which takes as long as a part of
//! a small picture, and most requests are like others before them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use vae::{DecodeOptions, EncodeOptions, Forecast, Forecaster, VaeError};

use crate::scheduler::Options;

/// Predictions that are remembered at most. Clients decide which there are, so all are forgotten when there are more.
const MOST: usize = 256;

/// A model's predictions.
pub(crate) struct Forecasts {
    forecaster: Arc<Forecaster>,
    known: Mutex<HashMap<(Vec<usize>, Options), Forecast>>,
}

impl Forecasts {
    pub(crate) fn new(forecaster: Arc<Forecaster>) -> Self {
        Self { forecaster, known: Mutex::default() }
    }

    /// [`Forecaster::decode`].
    ///
    /// # Errors
    /// Those of it, which are not remembered.
    pub(crate) fn decode(&self, latents: &[usize], options: &DecodeOptions) -> Result<Forecast, VaeError> {
        self.remember(latents, Options::Decode(*options), || self.forecaster.decode(latents, options))
    }

    /// [`Forecaster::encode`].
    ///
    /// # Errors
    /// Those of it, which are not remembered.
    pub(crate) fn encode(&self, pixels: &[usize], options: &EncodeOptions) -> Result<Forecast, VaeError> {
        self.remember(pixels, Options::Encode(*options), || self.forecaster.encode(pixels, options))
    }

    /// [`Forecaster::tile_latent_min_size`].
    pub(crate) fn tile_latent_min_size(&self) -> Option<usize> {
        self.forecaster.tile_latent_min_size()
    }

    /// [`Forecaster::tile_sample_min_size`].
    pub(crate) fn tile_sample_min_size(&self) -> Option<usize> {
        self.forecaster.tile_sample_min_size()
    }

    fn remember(
        &self,
        shape: &[usize],
        options: Options,
        foretell: impl FnOnce() -> Result<Forecast, VaeError>,
    ) -> Result<Forecast, VaeError> {
        let key = (shape.to_vec(), options);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(forecast) = known().get(&key) {
            return Ok(*forecast);
        }
        // Not under the lock: predictions of one shape must not wait for those of another.
        let forecast = foretell()?;
        let mut known = known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, forecast);
        Ok(forecast)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vae::Source;
    use vae::device::cpu::{Cpu, CpuOptions};

    use super::*;

    #[test]
    fn what_is_remembered_is_what_was_foretold() {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo-vae");
        let engine = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
        let forecaster = vae::load(Source::Folder(assets), engine).unwrap().forecaster().unwrap();
        let forecasts = Forecasts::new(Arc::clone(&forecaster));
        let lean = DecodeOptions { lean: true, ..DecodeOptions::default() };
        for _ in 0..2 {
            for shape in [[1, 16, 2, 2], [1, 16, 8, 4]] {
                for options in [DecodeOptions::default(), lean] {
                    let foretold = forecaster.decode(&shape, &options).unwrap();
                    assert_eq!(forecasts.decode(&shape, &options).unwrap(), foretold);
                }
            }
            let (pixels, options) = ([1, 3, 16, 16], EncodeOptions::default());
            let foretold = forecaster.encode(&pixels, &options).unwrap();
            assert_eq!(forecasts.encode(&pixels, &options).unwrap(), foretold);
            assert_eq!(forecasts.known.lock().unwrap().len(), 5);
        }
        assert!(forecasts.decode(&[1, 3, 2, 2], &lean).is_err());
        for side in 1..=MOST {
            forecasts.decode(&[1, 16, 1, side], &lean).unwrap();
        }
        assert!(forecasts.known.lock().unwrap().len() <= MOST);
    }
}
