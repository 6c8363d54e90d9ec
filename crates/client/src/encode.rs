//! Pictures to latents.

use bytes::Bytes;
use reqwest::header::HeaderMap;
use wire::{DType, EncodeParams, EncodeRequest, Picture, SampleMode, Tensor, TensorHead};

use crate::exchange::Exchange;
use crate::options::scaling;
use crate::{Error, RemoteVae};

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
    /// Encode in tiles, as diffusers does after `enable_tiling()`.
    pub tiling: bool,
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
        }
    }
}

impl EncodeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`EncodeOptions::do_scaling`].
    pub fn do_scaling(mut self, do_scaling: bool) -> Self {
        self.do_scaling = do_scaling;
        self
    }

    /// Sets [`EncodeOptions::scaling_factor`].
    pub fn scaling_factor(mut self, scaling_factor: impl Into<Option<f32>>) -> Self {
        self.scaling_factor = scaling_factor.into();
        self
    }

    /// Sets [`EncodeOptions::shift_factor`].
    pub fn shift_factor(mut self, shift_factor: impl Into<Option<f32>>) -> Self {
        self.shift_factor = shift_factor.into();
        self
    }

    /// Sets [`EncodeOptions::sample_mode`].
    pub fn sample_mode(mut self, sample_mode: SampleMode) -> Self {
        self.sample_mode = sample_mode;
        self
    }

    /// Sets [`EncodeOptions::dtype`].
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Sets [`EncodeOptions::tiling`].
    pub fn tiling(mut self, tiling: bool) -> Self {
        self.tiling = tiling;
        self
    }

    /// These options as the protocol says them.
    ///
    /// # Errors
    /// [`Error::Options`] when they contradict each other.
    pub fn params(&self) -> Result<EncodeParams, Error> {
        if self.dtype == DType::UInt8 {
            return Err(Error::Options("latents are float16, bfloat16 or float32, not uint8".to_owned()));
        }
        Ok(EncodeParams {
            scaling: scaling(self.do_scaling, self.scaling_factor, self.shift_factor)?,
            sample_mode: self.sample_mode,
            dtype: self.dtype,
            tiling: self.tiling,
            ..EncodeParams::default()
        })
    }
}

/// What an encode gave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// `[B, C, h, w]`, for video `[B, C, f, h, w]`.
    pub latents: Tensor,
    /// What the sample was drawn with; with this seed the server gives the same latents again. `None` for the mode, and
    /// from other servers than ours.
    pub seed: Option<u64>,
}

impl RemoteVae {
    /// Encodes a picture: a PNG, JPEG or WebP file, or pixels `[B, 3, H, W]`, `[3, H, W]` (video `[B, 3, F, H, W]`) in
    /// [-1, 1] or, without a negative value, in [0, 1]; bytes from 0 to 255.
    ///
    /// # Errors
    /// As for [`RemoteVae::decode`].
    pub async fn encode(&self, picture: &Picture, options: &EncodeOptions) -> Result<Encoded, Error> {
        let request = EncodeRequest { picture: picture.clone(), params: options.params()? };
        let exchange = Exchange {
            query: request.query(),
            content_type: request.content_type(),
            accept: request.accept(),
            body: request.body(),
        };
        let (headers, body) = self.exchange(&exchange).await?;
        let seed = headers.get("seed").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Encoded { latents: tensor(&headers, body)?, seed })
    }
}

/// The tensor of an answer.
pub(crate) fn tensor(headers: &HeaderMap, body: Bytes) -> Result<Tensor, Error> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    TensorHead::from_headers(header("shape"), header("dtype"))
        .and_then(|head| Tensor::from_head(head, body))
        .map_err(|error| Error::Answer(error.to_string()))
}

/// Encodes once; `diffusers.utils.remote_utils.remote_encode` for async code. For more than one picture, keep a
/// [`RemoteVae`].
///
/// # Errors
/// As [`RemoteVae::new`] and [`RemoteVae::encode`].
pub async fn remote_encode(
    endpoint: &str,
    picture: &Picture,
    options: &EncodeOptions,
) -> Result<Encoded, Error> {
    RemoteVae::new(endpoint)?.encode(picture, options).await
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
        let params = asked.params().unwrap();
        assert_eq!((params.scaling, params.sample_mode), (Scaling::None, SampleMode::Argmax));
        assert_eq!((params.dtype, params.transfer), (DType::Float32, Transfer::Binary));
        for wrong in [
            options.clone().dtype(DType::UInt8),
            options.clone().shift_factor(1.0),
            options.scaling_factor(0.0),
        ] {
            assert!(matches!(wrong.params(), Err(Error::Options(_))));
        }
    }
}
