//! What to ask for, in diffusers' words.

use wire::{Answer, DType, ImageFormat, Params, Scaling, Transfer, Values, VideoFormat};

use crate::Error;

/// What the server shall answer with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputType {
    /// A picture file in [`DecodeOptions::image_format`].
    #[default]
    Pil,
    /// A tensor: float16 `[B, 3, H, W]`, nominally in [-1, 1]; with [`DecodeOptions::partial_postprocess`] uint8
    /// `[B, H, W, 3]`. Of a video `[B, 3, F, H, W]`, and `[F, H, W, 3]`.
    Pt,
    /// A video as an mp4 file, with [`DecodeOptions::fps`] and [`DecodeOptions::quality`].
    Mp4,
}

/// The options of a decode: names and defaults are those of diffusers' `remote_decode`.
///
/// ```
/// use client::{DecodeOptions, ImageFormat};
///
/// let flux = DecodeOptions::new().scaling_factor(0.3611).shift_factor(0.1159).image_format(ImageFormat::Png);
/// assert_eq!(flux.shift_factor, Some(0.1159));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DecodeOptions {
    /// Whether the server scales the latents: with the factors below, or with its model's own when there are none.
    /// `true` by default. Set it to `false` for latents that are scaled already.
    pub do_scaling: bool,
    /// Latents are divided by this. SD v1: 0.18215, SDXL: 0.13025, Flux: 0.3611.
    pub scaling_factor: Option<f32>,
    /// Added after the division. Flux: 0.1159.
    pub shift_factor: Option<f32>,
    /// A picture file (the default) or a tensor.
    pub output_type: OutputType,
    /// The file format for [`OutputType::Pil`]; JPEG by default.
    pub image_format: ImageFormat,
    /// With [`OutputType::Pt`]: bytes that are ready to show, the smallest transfer at full quality.
    pub partial_postprocess: bool,
    /// Height of the picture in pixels; packed latents need it.
    pub height: Option<usize>,
    /// Width of the picture in pixels; packed latents need it.
    pub width: Option<usize>,
    /// Frames a second of [`OutputType::Mp4`], 1 to 240; 15 if nothing is said.
    pub fps: Option<u16>,
    /// Quality of [`OutputType::Mp4`], 1 to 100.
    pub quality: Option<u8>,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            do_scaling: true,
            scaling_factor: None,
            shift_factor: None,
            output_type: OutputType::default(),
            image_format: ImageFormat::Jpeg { quality: None },
            partial_postprocess: false,
            height: None,
            width: None,
            fps: None,
            quality: None,
        }
    }
}

impl DecodeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`DecodeOptions::do_scaling`].
    pub fn do_scaling(mut self, do_scaling: bool) -> Self {
        self.do_scaling = do_scaling;
        self
    }

    /// Sets [`DecodeOptions::scaling_factor`].
    pub fn scaling_factor(mut self, scaling_factor: impl Into<Option<f32>>) -> Self {
        self.scaling_factor = scaling_factor.into();
        self
    }

    /// Sets [`DecodeOptions::shift_factor`].
    pub fn shift_factor(mut self, shift_factor: impl Into<Option<f32>>) -> Self {
        self.shift_factor = shift_factor.into();
        self
    }

    /// Sets [`DecodeOptions::output_type`].
    pub fn output_type(mut self, output_type: OutputType) -> Self {
        self.output_type = output_type;
        self
    }

    /// Sets [`DecodeOptions::image_format`].
    pub fn image_format(mut self, image_format: ImageFormat) -> Self {
        self.image_format = image_format;
        self
    }

    /// Sets [`DecodeOptions::partial_postprocess`].
    pub fn partial_postprocess(mut self, partial_postprocess: bool) -> Self {
        self.partial_postprocess = partial_postprocess;
        self
    }

    /// Sets [`DecodeOptions::height`].
    pub fn height(mut self, height: impl Into<Option<usize>>) -> Self {
        self.height = height.into();
        self
    }

    /// Sets [`DecodeOptions::width`].
    pub fn width(mut self, width: impl Into<Option<usize>>) -> Self {
        self.width = width.into();
        self
    }

    /// Sets [`DecodeOptions::fps`].
    pub fn fps(mut self, fps: impl Into<Option<u16>>) -> Self {
        self.fps = fps.into();
        self
    }

    /// Sets [`DecodeOptions::quality`].
    pub fn quality(mut self, quality: impl Into<Option<u8>>) -> Self {
        self.quality = quality.into();
        self
    }

    /// These options as the protocol says them.
    ///
    /// # Errors
    /// [`Error::Options`] when they contradict each other.
    pub fn params(&self) -> Result<Params, Error> {
        let wrong = |message: &str| Err(Error::Options(message.to_owned()));
        let scaling = scaling(self.do_scaling, self.scaling_factor, self.shift_factor)?;
        if self.height.is_some() != self.width.is_some() {
            return wrong("`height` and `width` are needed together");
        }
        let answer = match (self.output_type, self.partial_postprocess) {
            (OutputType::Pil, false) => Answer::Image(self.image_format),
            (OutputType::Mp4, false) => Answer::Video(VideoFormat { fps: self.fps, quality: self.quality }),
            (OutputType::Pil | OutputType::Mp4, true) => {
                return wrong("`partial_postprocess` answers with a tensor: it needs `output_type` pt");
            }
            (OutputType::Pt, false) => {
                Answer::Tensor { values: Values::Raw, dtype: DType::Float16, transfer: Transfer::Binary }
            }
            (OutputType::Pt, true) => {
                Answer::Tensor { values: Values::Round8, dtype: DType::UInt8, transfer: Transfer::Binary }
            }
        };
        if self.output_type != OutputType::Mp4 && (self.fps.is_some() || self.quality.is_some()) {
            return wrong("`fps` and `quality` are of a video: they need `output_type` mp4");
        }
        let (height, width) = (self.height, self.width);
        Ok(Params { scaling, height, width, ..Params::new(answer) })
    }
}

/// How latents are scaled, in both directions.
///
/// # Errors
/// [`Error::Options`] when the three contradict each other.
pub(crate) fn scaling(
    do_scaling: bool,
    scaling_factor: Option<f32>,
    shift_factor: Option<f32>,
) -> Result<Scaling, Error> {
    let wrong = |message: &str| Err(Error::Options(message.to_owned()));
    match (do_scaling, scaling_factor, shift_factor) {
        (true, None, None) => Ok(Scaling::Model),
        (true, Some(factor), _) if factor == 0.0 || !factor.is_finite() => {
            wrong("`scaling_factor` must be a finite number other than 0")
        }
        (true, Some(_), Some(shift)) if !shift.is_finite() => wrong("`shift_factor` must be a finite number"),
        (true, Some(scaling_factor), shift_factor) => Ok(Scaling::Factors { scaling_factor, shift_factor }),
        (true, None, Some(_)) => wrong("`shift_factor` needs `scaling_factor` beside it"),
        (false, None, None) => Ok(Scaling::None),
        (false, _, _) => {
            wrong("`scaling_factor` and `shift_factor` have no effect without `do_scaling`: drop one")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_diffusers() {
        let params = DecodeOptions::new().params().unwrap();
        assert_eq!(params, Params { scaling: Scaling::Model, ..Params::new(Answer::default()) });
    }

    #[test]
    fn factors_go_before_the_models_own() {
        let scaling = |options: DecodeOptions| options.params().unwrap().scaling;
        let factors = |scaling_factor, shift_factor| Scaling::Factors { scaling_factor, shift_factor };
        let options = DecodeOptions::new();
        assert_eq!(scaling(options.clone().do_scaling(false)), Scaling::None);
        assert_eq!(scaling(options.clone().scaling_factor(0.5)), factors(0.5, None));
        assert_eq!(scaling(options.scaling_factor(0.5).shift_factor(0.25)), factors(0.5, Some(0.25)));
    }

    #[test]
    fn contradictions_are_found_before_anything_is_sent() {
        let options = DecodeOptions::new;
        for (options, word) in [
            (options().shift_factor(0.1), "needs `scaling_factor`"),
            (options().scaling_factor(0.0), "other than 0"),
            (options().scaling_factor(f32::NAN), "finite"),
            (options().scaling_factor(1.0).shift_factor(f32::INFINITY), "finite"),
            (options().scaling_factor(1.0).do_scaling(false), "no effect"),
            (options().height(8), "together"),
            (options().partial_postprocess(true), "output_type"),
        ] {
            let error = options.params().unwrap_err();
            assert!(matches!(&error, Error::Options(message) if message.contains(word)), "{error}");
        }
    }
}
