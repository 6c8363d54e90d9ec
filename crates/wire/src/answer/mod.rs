//! What a client wants to get, and the media types and parameters that say so.

mod read;
#[cfg(test)]
mod tests;

use crate::{DType, JSON, OCTET_STREAM, TENSOR_BASE64, TENSOR_BINARY, VIDEO_MP4};

/// What a decode answers with. Several parameters and the `Accept` header of a request come down to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A tensor.
    Tensor {
        /// Which values.
        values: Values,
        /// Their type; always [`DType::UInt8`] with [`Values::Round8`].
        dtype: DType,
        /// How it travels.
        transfer: Transfer,
    },
    /// One picture as a file.
    Image(ImageFormat),
    /// All pictures of a batch as files in one body.
    Images(ImageFormat, Packaging),
    /// A video as an mp4 file.
    Video(VideoFormat),
}

/// How a video file is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VideoFormat {
    /// Frames a second, 1 to 240; `None` is 15.
    pub fps: Option<u16>,
    /// 1 to 100; `None` leaves it to the server.
    pub quality: Option<u8>,
}

/// Which values a tensor answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// What the model gave, nominally in [-1, 1], not clamped: `[B, 3, H, W]`, video `[B, 3, F, H, W]`, with alpha 4 for 3
    /// (`output_type=pt`).
    Raw,
    /// Clamped and in [0, 1]: `[B, 3, H, W]`, video `[F, 3, H, W]` (`output_type=pil` where the client has a
    /// processor of its own, as its `Accept` says).
    Unit,
    /// Bytes `round(clamp(x / 2 + 0.5, 0, 1) * 255)`: `[B, H, W, 3]`, video `[F, H, W, 3]`
    /// (`partial_postprocess`).
    Round8,
}

/// How a tensor travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Raw bytes; shape and type are in headers.
    Binary,
    /// The same bytes under a name that every HTTP library knows.
    Octets,
    /// JSON with base64, under the media type `tensor/base64`.
    Base64,
    /// The same JSON under its plain name.
    Json,
}

/// File formats of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// JPEG; `None` is the quality that Pillow uses when none is given.
    Jpeg {
        /// 1 to 100.
        quality: Option<u8>,
    },
    /// PNG.
    Png,
    /// Lossy WebP; `None` is the quality that Pillow uses when none is given.
    WebP {
        /// 1 to 100.
        quality: Option<u8>,
    },
}

/// How several files travel in one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packaging {
    /// `multipart/mixed`.
    Multipart,
    /// `application/zip`.
    Zip,
}

impl Transfer {
    /// The media type of such an answer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Binary => TENSOR_BINARY,
            Self::Octets => OCTET_STREAM,
            Self::Base64 => TENSOR_BASE64,
            Self::Json => JSON,
        }
    }
}

impl ImageFormat {
    /// The media type of such a file.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg { .. } => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP { .. } => "image/webp",
        }
    }

    /// Its name in `image_format`, which is also the usual file extension.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg { .. } => "jpg",
            Self::Png => "png",
            Self::WebP { .. } => "webp",
        }
    }
}

impl Packaging {
    /// The media type of such an answer, without parameters.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Multipart => "multipart/mixed",
            Self::Zip => "application/zip",
        }
    }
}

impl Default for Answer {
    /// What `remote_decode` asks for when it is told nothing: a JPEG file.
    fn default() -> Self {
        Self::Image(ImageFormat::Jpeg { quality: None })
    }
}

impl Answer {
    /// The parameters that ask for this, in the order in which diffusers sends them.
    pub(crate) fn parameters(self) -> Vec<(&'static str, String)> {
        let format = match self {
            Self::Image(format) | Self::Images(format, _) => format,
            Self::Tensor { .. } | Self::Video(_) => ImageFormat::Jpeg { quality: None },
        };
        let output_type = match self {
            Self::Tensor { values: Values::Raw | Values::Round8, .. } => "pt",
            Self::Tensor { values: Values::Unit, .. } | Self::Image(_) | Self::Images(..) => "pil",
            Self::Video(_) => "mp4",
        };
        let partial = matches!(self, Self::Tensor { values: Values::Round8, .. });
        let mut parameters = vec![
            ("image_format", format.name().to_owned()),
            ("output_type", output_type.to_owned()),
            ("partial_postprocess", if partial { "True" } else { "False" }.to_owned()),
        ];
        match self {
            Self::Tensor { values: Values::Raw | Values::Unit, dtype, .. } if dtype != DType::default() => {
                parameters.push(("out_dtype", dtype.to_string()));
            }
            Self::Image(
                ImageFormat::Jpeg { quality: Some(quality) } | ImageFormat::WebP { quality: Some(quality) },
            )
            | Self::Images(
                ImageFormat::Jpeg { quality: Some(quality) } | ImageFormat::WebP { quality: Some(quality) },
                _,
            ) => {
                parameters.push(("quality", quality.to_string()));
            }
            Self::Video(VideoFormat { fps, quality }) => {
                parameters.extend(fps.map(|fps| ("fps", fps.to_string())));
                parameters.extend(quality.map(|quality| ("quality", quality.to_string())));
            }
            _ => {}
        }
        parameters
    }

    /// The media type of such an answer; of several files, that of each.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Tensor { transfer, .. } => transfer.media_type(),
            Self::Image(format) | Self::Images(format, _) => format.media_type(),
            Self::Video(_) => VIDEO_MP4,
        }
    }

    /// The `Accept` header that asks for this.
    pub fn accept(self) -> &'static str {
        match self {
            Self::Tensor { transfer, .. } => transfer.media_type(),
            Self::Image(format) => format.media_type(),
            Self::Images(_, packaging) => packaging.media_type(),
            // What diffusers sends.
            Self::Video(_) => "text/plain",
        }
    }
}
