//! The options of a decode.

use wire::{Answer, DType, ImageFormat, Params, Transfer, Values, VideoFormat};

use super::{scaling, setters};
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
    /// Quality of a JPEG or WebP file or of [`OutputType::Mp4`], 1 to 100; 75, 80 and 65 from our server if nothing is
    /// said.
    pub quality: Option<u8>,
    /// Type of the values of [`OutputType::Pt`]: float16 if nothing is said, bfloat16 or float32; with
    /// [`DecodeOptions::partial_postprocess`] always uint8.
    pub dtype: Option<DType>,
    /// Decode in tiles, as diffusers does after `enable_tiling()`: less memory, faint seams.
    pub tiling: bool,
    /// Decode a video a few frames at a time, as diffusers does by default. `false` is one exact pass, in more memory.
    pub framewise: bool,
    /// Send latents that hold NaN or infinity, which are otherwise refused before they are sent. The server must allow
    /// them, too.
    pub allow_non_finite: bool,
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
            dtype: None,
            tiling: false,
            framewise: true,
            allow_non_finite: false,
        }
    }
}

setters! { DecodeOptions:
    do_scaling: bool,
    scaling_factor: impl Into<Option<f32>>,
    shift_factor: impl Into<Option<f32>>,
    output_type: OutputType,
    image_format: ImageFormat,
    partial_postprocess: bool,
    height: impl Into<Option<usize>>,
    width: impl Into<Option<usize>>,
    fps: impl Into<Option<u16>>,
    quality: impl Into<Option<u8>>,
    dtype: impl Into<Option<DType>>,
    tiling: bool,
    framewise: bool,
    allow_non_finite: bool,
}

impl DecodeOptions {
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
            (OutputType::Pil, false) => Answer::Image(self.picture()?),
            (OutputType::Mp4, false) => Answer::Video(VideoFormat { fps: self.fps, quality: self.quality }),
            (OutputType::Pil | OutputType::Mp4, true) => {
                return wrong("`partial_postprocess` answers with a tensor: it needs `output_type` pt");
            }
            (OutputType::Pt, false) => {
                let dtype = self.dtype.unwrap_or_default();
                if dtype == DType::Float64 {
                    return wrong("`dtype` is float64, but answers are float16, bfloat16 or float32");
                }
                if dtype == DType::UInt8 {
                    return wrong("a tensor of uint8 needs `partial_postprocess`");
                }
                Answer::Tensor { values: Values::Raw, dtype, transfer: Transfer::Binary }
            }
            (OutputType::Pt, true) => {
                if self.dtype.is_some_and(|dtype| dtype != DType::UInt8) {
                    return wrong("`partial_postprocess` answers in uint8: drop it, or the other type");
                }
                Answer::Tensor { values: Values::Round8, dtype: DType::UInt8, transfer: Transfer::Binary }
            }
        };
        if self.output_type != OutputType::Mp4 && self.fps.is_some() {
            return wrong("`fps` is of a video: it needs `output_type` mp4");
        }
        if self.output_type == OutputType::Pt && self.quality.is_some() {
            return wrong("`quality` is of a JPEG, WebP or mp4 file: a tensor has none");
        }
        if self.output_type != OutputType::Pt && self.dtype.is_some() {
            return wrong("the type of values is of a tensor: it needs `output_type` pt");
        }
        let Self { height, width, tiling, framewise, .. } = *self;
        Ok(Params { scaling, height, width, tiling, framewise, ..Params::new(answer) })
    }

    /// The format of a picture, with its quality from wherever it is said.
    fn picture(&self) -> Result<ImageFormat, Error> {
        let wrong = |message: &str| Err(Error::Options(message.to_owned()));
        let Some(quality) = self.quality else { return Ok(self.image_format) };
        if !(1..=100).contains(&quality) {
            return wrong("`quality` is from 1 to 100");
        }
        match self.image_format {
            ImageFormat::Jpeg { quality: Some(other) } | ImageFormat::WebP { quality: Some(other) }
                if other != quality =>
            {
                wrong("`quality` and `image_format` name different qualities: drop one of them")
            }
            ImageFormat::Jpeg { .. } => Ok(ImageFormat::Jpeg { quality: Some(quality) }),
            ImageFormat::WebP { .. } => Ok(ImageFormat::WebP { quality: Some(quality) }),
            ImageFormat::Png => {
                wrong("`quality` is of a JPEG, WebP or mp4 file: a PNG keeps every pixel as it is")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::Scaling;

    use super::*;

    #[test]
    fn the_defaults_are_those_of_diffusers() {
        let params = DecodeOptions::new().params().unwrap();
        assert_eq!(params, Params { scaling: Scaling::Model, ..Params::new(Answer::default()) });
    }

    #[test]
    fn pieces_are_asked_for() {
        let params = DecodeOptions::new().tiling(true).framewise(false).params().unwrap();
        assert_eq!((params.tiling, params.framewise), (true, false));
    }

    #[test]
    fn quality_and_type_go_where_the_protocol_has_them() {
        let answer = |options: DecodeOptions| options.params().unwrap().answer;
        let options = || DecodeOptions::new().quality(90);
        for (options, expected) in [
            (options(), Answer::Image(ImageFormat::Jpeg { quality: Some(90) })),
            (
                options().image_format(ImageFormat::WebP { quality: None }),
                Answer::Image(ImageFormat::WebP { quality: Some(90) }),
            ),
            (
                options().output_type(OutputType::Mp4),
                Answer::Video(VideoFormat { fps: None, quality: Some(90) }),
            ),
        ] {
            assert_eq!(answer(options), expected);
        }
        for dtype in [DType::Float16, DType::BFloat16, DType::Float32] {
            let tensor = Answer::Tensor { values: Values::Raw, dtype, transfer: Transfer::Binary };
            assert_eq!(answer(DecodeOptions::new().output_type(OutputType::Pt).dtype(dtype)), tensor);
        }
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
            (options().quality(90).image_format(ImageFormat::Png), "a PNG keeps"),
            (options().quality(0), "from 1 to 100"),
            (options().quality(90).image_format(ImageFormat::WebP { quality: Some(80) }), "drop one"),
            (options().quality(90).output_type(OutputType::Pt), "a tensor has none"),
            (options().fps(24), "mp4"),
            (options().dtype(DType::Float32), "needs `output_type` pt"),
            (options().dtype(DType::Float64).output_type(OutputType::Pt), "float64"),
            (options().dtype(DType::UInt8).output_type(OutputType::Pt), "partial_postprocess"),
            (
                options().dtype(DType::Float32).output_type(OutputType::Pt).partial_postprocess(true),
                "answers in uint8",
            ),
        ] {
            let error = options.params().unwrap_err();
            assert!(matches!(&error, Error::Options(message) if message.contains(word)), "{error}");
        }
    }
}
