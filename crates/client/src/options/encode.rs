//! The options of an encode.

use wire::{DType, EncodeParams, SampleMode};

use super::{scaling, setters};
use crate::Error;

/// The options of an encode. Names are those of diffusers' `remote_encode` and `retrieve_latents`.
///
/// ```
/// use client::{EncodeOptions, SampleMode};
///
/// let flux = EncodeOptions::new().scaling_factor(0.3611).shift_factor(0.1159).sample_mode(SampleMode::Argmax);
/// assert_eq!(flux.shift_factor, Some(0.1159));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EncodeOptions {
    /// Whether the server scales the latents to what pipelines work with: with the factors below, or with its model's
    /// own when there are none. `true` by default, as for a decode, so that one undoes the other. `false` is what
    /// diffusers' `remote_encode` does when it is told no factor.
    pub do_scaling: bool,
    /// Latents are multiplied with this. SD v1: 0.18215, SDXL: 0.13025, Flux: 0.3611.
    pub scaling_factor: Option<f32>,
    /// Subtracted before the multiplication. Flux: 0.1159.
    pub shift_factor: Option<f32>,
    /// A sample of the latents' distribution (the default, without a seed) or its mode.
    pub sample_mode: SampleMode,
    /// The type of the latents: float16 (the default), bfloat16 or float32.
    pub dtype: DType,
    /// Encode in tiles, as diffusers does after `enable_tiling()`: less memory, faint seams.
    pub tiling: bool,
    /// Encode a video a few frames at a time, as diffusers does by default. `false` is one exact pass, in more memory.
    pub framewise: bool,
    /// Send pixels that hold NaN or infinity, which are otherwise refused before they are sent. The server must allow
    /// them, too.
    pub allow_non_finite: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            do_scaling: true,
            scaling_factor: None,
            shift_factor: None,
            sample_mode: SampleMode::default(),
            dtype: DType::Float16,
            tiling: false,
            framewise: true,
            allow_non_finite: false,
        }
    }
}

setters! { EncodeOptions:
    do_scaling: bool,
    scaling_factor: impl Into<Option<f32>>,
    shift_factor: impl Into<Option<f32>>,
    sample_mode: SampleMode,
    dtype: DType,
    tiling: bool,
    framewise: bool,
    allow_non_finite: bool,
}

impl EncodeOptions {
    /// These options as the protocol says them.
    ///
    /// # Errors
    /// [`Error::Options`] when they contradict each other.
    pub fn params(&self) -> Result<EncodeParams, Error> {
        if matches!(self.dtype, DType::UInt8 | DType::Float64) {
            return Err(Error::Options(format!(
                "latents are float16, bfloat16 or float32, not {}",
                self.dtype
            )));
        }
        Ok(EncodeParams {
            scaling: scaling(self.do_scaling, self.scaling_factor, self.shift_factor)?,
            sample_mode: self.sample_mode,
            dtype: self.dtype,
            tiling: self.tiling,
            framewise: self.framewise,
            ..EncodeParams::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use wire::{Scaling, Transfer};

    use super::*;

    #[test]
    fn options_become_parameters() {
        let options = EncodeOptions::new();
        assert_eq!(
            options.params().unwrap(),
            EncodeParams { scaling: Scaling::Model, ..EncodeParams::default() }
        );
        let asked = options.clone().do_scaling(false).sample_mode(SampleMode::Argmax).dtype(DType::Float32);
        let asked = asked.tiling(true).framewise(false);
        let params = asked.params().unwrap();
        assert_eq!((params.scaling, params.sample_mode), (Scaling::None, SampleMode::Argmax));
        assert_eq!((params.dtype, params.transfer), (DType::Float32, Transfer::Binary));
        assert_eq!((params.tiling, params.framewise), (true, false));
        for wrong in [
            options.clone().dtype(DType::UInt8),
            options.clone().dtype(DType::Float64),
            options.clone().shift_factor(1.0),
            options.scaling_factor(0.0),
        ] {
            assert!(matches!(wrong.params(), Err(Error::Options(_))));
        }
    }
}
