//! What a client wants to get, and the media types that say so.

use crate::{Accept, DType, JSON, Metadata, TENSOR_BASE64, TENSOR_BINARY, VIDEO_MP4, WireError};

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

impl VideoFormat {
    fn read(metadata: &Metadata) -> Result<Self, WireError> {
        Ok(Self { fps: metadata.number("fps", 1..=240)?, quality: metadata.number("quality", 1..=100)? })
    }
}

/// Which values a tensor answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// What the model gave, nominally in [-1, 1], not clamped: `[B, 3, H, W]`, video `[B, 3, F, H, W]`
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

/// A media type of `Accept` that an answer with pictures can take.
enum Wish {
    Any,
    Jpeg,
    Png,
    WebP,
    Tensor(Transfer),
    Files(Packaging),
}

impl Wish {
    fn read(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "*/*" | "image/*" => Self::Any,
            "image/jpeg" | "image/jpg" => Self::Jpeg,
            "image/png" => Self::Png,
            "image/webp" => Self::WebP,
            "multipart/mixed" => Self::Files(Packaging::Multipart),
            "application/zip" => Self::Files(Packaging::Zip),
            _ => Self::Tensor(transfer(media_type)?),
        })
    }
}

impl Transfer {
    /// The first of the media types in `accept` that a tensor can have; raw bytes when there is none.
    pub(crate) fn read(accept: &Accept) -> Self {
        accept.media_types().find_map(transfer).unwrap_or(Self::Binary)
    }
}

fn transfer(media_type: &str) -> Option<Transfer> {
    [Transfer::Binary, Transfer::Base64, Transfer::Json].into_iter().find(|t| t.media_type() == media_type)
}

impl Answer {
    /// Reads `output_type` (absent: `pil`), `image_format`, `partial_postprocess`, `out_dtype`, `quality` and
    /// `fps` in the light of `Accept`.
    ///
    /// # Errors
    /// A value that cannot be read, or an `Accept` that none of the answers fits.
    pub fn read(metadata: &Metadata, accept: &Accept) -> Result<Self, WireError> {
        let output_type = metadata.text("output_type")?;
        let partial_postprocess = metadata.flag("partial_postprocess")?.unwrap_or(false);
        match output_type {
            Some("mp4") => return VideoFormat::read(metadata).map(Self::Video),
            Some("pt") => return tensor_or_bytes(metadata, accept, partial_postprocess),
            Some("pil") | None => {}
            Some(other) => {
                return Err(WireError::Parameter(format!(
                    "`output_type` is {other:?}, but must be pil, pt or mp4"
                )));
            }
        }
        let wish = accept.media_types().find_map(Wish::read);
        // `partial_postprocess` implies `pt`, except where it would break diffusers' own client: with an explicit
        // `pil` that one reads what its `Accept` names, whatever `partial_postprocess` says.
        let named = output_type.is_some() && !matches!(wish, Some(Wish::Any));
        if partial_postprocess && !named {
            return tensor_or_bytes(metadata, accept, true);
        }
        match wish {
            Some(Wish::Jpeg) => Ok(Self::Image(jpeg(metadata)?)),
            Some(Wish::Png) => Ok(Self::Image(ImageFormat::Png)),
            Some(Wish::WebP) => Ok(Self::Image(webp(metadata)?)),
            Some(Wish::Any) => Ok(Self::Image(image_format(metadata)?)),
            Some(Wish::Files(packaging)) => Ok(Self::Images(image_format(metadata)?, packaging)),
            Some(Wish::Tensor(transfer)) => tensor(metadata, Values::Unit, transfer),
            None => {
                let accepted: Vec<_> = accept.media_types().collect();
                Err(WireError::Parameter(format!(
                    "`Accept` is {:?}, but the answers to output_type=pil are image/jpeg, image/png, image/webp, \
                     tensor/binary, tensor/base64, application/json, multipart/mixed and application/zip",
                    accepted.join(", ")
                )))
            }
        }
    }

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

/// The answer to `output_type=pt`, whatever `Accept` says: some clients send the one of another output type.
fn tensor_or_bytes(
    metadata: &Metadata,
    accept: &Accept,
    partial_postprocess: bool,
) -> Result<Answer, WireError> {
    let transfer = Transfer::read(accept);
    tensor(metadata, if partial_postprocess { Values::Round8 } else { Values::Raw }, transfer)
}

fn tensor(metadata: &Metadata, values: Values, transfer: Transfer) -> Result<Answer, WireError> {
    let asked = metadata.text("out_dtype")?.map(str::parse).transpose()?;
    let dtype = match (values, asked) {
        (Values::Round8, None | Some(DType::UInt8)) => DType::UInt8,
        (Values::Round8, Some(other)) => {
            return Err(WireError::Parameter(format!(
                "`out_dtype` is {other}, but partial_postprocess answers in uint8: drop one of the two"
            )));
        }
        (Values::Raw | Values::Unit, Some(DType::UInt8)) => {
            return Err(WireError::Parameter(
                "`out_dtype` is uint8, which needs partial_postprocess=True".to_owned(),
            ));
        }
        (Values::Raw | Values::Unit, asked) => asked.unwrap_or_default(),
    };
    Ok(Answer::Tensor { values, dtype, transfer })
}

fn image_format(metadata: &Metadata) -> Result<ImageFormat, WireError> {
    match metadata.text("image_format")? {
        None | Some("jpg" | "jpeg") => jpeg(metadata),
        Some("png") => Ok(ImageFormat::Png),
        Some("webp") => webp(metadata),
        Some(other) => {
            Err(WireError::Parameter(format!("`image_format` is {other:?}, but must be jpg, png or webp")))
        }
    }
}

fn webp(metadata: &Metadata) -> Result<ImageFormat, WireError> {
    Ok(ImageFormat::WebP { quality: metadata.number("quality", 1..=100)? })
}

fn jpeg(metadata: &Metadata) -> Result<ImageFormat, WireError> {
    Ok(ImageFormat::Jpeg { quality: metadata.number("quality", 1..=100)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, accept: &str) -> Result<Answer, WireError> {
        Answer::read(&Metadata::from_query(query), &Accept::read(Some(accept)))
    }

    const fn tensor(values: Values, dtype: DType, transfer: Transfer) -> Answer {
        Answer::Tensor { values, dtype, transfer }
    }

    const JPEG: Answer = Answer::Image(ImageFormat::Jpeg { quality: None });
    const WEBP: Answer = Answer::Image(ImageFormat::WebP { quality: None });
    const PNG: Answer = Answer::Image(ImageFormat::Png);
    const RAW: Answer = tensor(Values::Raw, DType::Float16, Transfer::Binary);
    const UNIT: Answer = tensor(Values::Unit, DType::Float16, Transfer::Binary);
    const VIDEO: Answer = Answer::Video(VideoFormat { fps: None, quality: None });
    const ROUND8: Answer = tensor(Values::Round8, DType::UInt8, Transfer::Binary);

    #[test]
    fn every_combination() {
        for (query, accept, expected) in [
            // As the table of the protocol says.
            ("output_type=pt", "tensor/binary", RAW),
            ("output_type=pt&partial_postprocess=True", "tensor/binary", ROUND8),
            ("output_type=pil", "image/jpeg", JPEG),
            ("output_type=pil", "image/png", PNG),
            ("output_type=pil", "tensor/binary", UNIT),
            ("output_type=mp4", "text/plain", VIDEO),
            ("output_type=mp4", "video/mp4", VIDEO),
            // The file follows `Accept`, and `image_format` where that leaves it open.
            ("output_type=pil&image_format=png", "image/jpeg", JPEG),
            ("output_type=pil&image_format=png", "*/*", PNG),
            ("output_type=pil&image_format=png", "", PNG),
            ("output_type=pil&image_format=png", "image/*", PNG),
            ("output_type=pil&image_format=jpg", "image/avif, */*", JPEG),
            // What a browser's own image request asks for.
            ("output_type=pil&image_format=jpg", "image/avif, image/webp, */*", WEBP),
            ("output_type=pil", "image/webp", WEBP),
            ("image_format=webp", "", WEBP),
            ("quality=3", "image/webp", Answer::Image(ImageFormat::WebP { quality: Some(3) })),
            ("output_type=pil", "image/jpeg;q=0.1, image/png", PNG),
            ("output_type=pil&image_format=tiff", "image/png", PNG),
            ("", "", JPEG),
            ("", "image/png", PNG),
            ("", "tensor/binary", UNIT),
            // `pt` stays `pt`.
            ("output_type=pt", "", RAW),
            ("output_type=pt", "image/jpeg", RAW),
            ("output_type=pt&image_format=tiff", "*/*", RAW),
            // `partial_postprocess` implies `pt`, but not against the eyes of diffusers' client.
            ("partial_postprocess=True", "", ROUND8),
            ("partial_postprocess=true", "image/png", ROUND8),
            ("output_type=pil&partial_postprocess=True", "*/*", ROUND8),
            ("output_type=pil&partial_postprocess=True", "image/jpeg", JPEG),
            ("output_type=pil&partial_postprocess=True", "tensor/binary", UNIT),
            ("output_type=mp4&partial_postprocess=True", "text/plain", VIDEO),
            // Other types, other transfers, several files.
            ("output_type=pt&out_dtype=float32", "", tensor(Values::Raw, DType::Float32, Transfer::Binary)),
            ("output_type=pt&out_dtype=bfloat16", "", tensor(Values::Raw, DType::BFloat16, Transfer::Binary)),
            ("out_dtype=float32", "tensor/binary", tensor(Values::Unit, DType::Float32, Transfer::Binary)),
            ("output_type=pt&partial_postprocess=1&out_dtype=uint8", "", ROUND8),
            ("output_type=pt", "tensor/base64", tensor(Values::Raw, DType::Float16, Transfer::Base64)),
            ("output_type=pt", "application/json", tensor(Values::Raw, DType::Float16, Transfer::Json)),
            ("output_type=pil&quality=90", "", Answer::Image(ImageFormat::Jpeg { quality: Some(90) })),
            ("image_format=png", "application/zip", Answer::Images(ImageFormat::Png, Packaging::Zip)),
            (
                "quality=5",
                "multipart/mixed",
                Answer::Images(ImageFormat::Jpeg { quality: Some(5) }, Packaging::Multipart),
            ),
        ] {
            assert_eq!(read(query, accept), Ok(expected), "{query} {accept}");
        }
    }

    #[test]
    fn what_cannot_be() {
        for (query, accept) in [
            ("output_type=np", ""),
            ("output_type=pil&output_type=pt", ""),
            ("output_type=pil&image_format=avif", ""),
            ("output_type=pil", "text/plain"),
            ("output_type=pil", "image/avif"),
            ("output_type=pil&quality=101", "image/webp"),
            ("output_type=pil&quality=0", ""),
            ("output_type=pil&quality=101", "image/jpeg"),
            ("output_type=mp4&quality=0", "text/plain"),
            ("output_type=mp4&fps=0", "text/plain"),
            ("output_type=mp4&fps=241", "text/plain"),
            ("output_type=pt&out_dtype=uint8", ""),
            ("output_type=pt&out_dtype=float64", ""),
            ("output_type=pt&partial_postprocess=True&out_dtype=float32", ""),
            ("output_type=pt&partial_postprocess=perhaps", ""),
        ] {
            assert!(matches!(read(query, accept), Err(WireError::Parameter(_))), "{query} {accept}");
        }
    }

    #[test]
    fn what_is_printed_reads_the_same() {
        let mut answers = vec![VIDEO, Answer::Video(VideoFormat { fps: Some(24), quality: Some(90) })];
        for transfer in [Transfer::Binary, Transfer::Base64, Transfer::Json] {
            answers.push(tensor(Values::Round8, DType::UInt8, transfer));
            for dtype in [DType::Float16, DType::BFloat16, DType::Float32] {
                answers.push(tensor(Values::Raw, dtype, transfer));
                answers.push(tensor(Values::Unit, dtype, transfer));
            }
        }
        for format in [
            ImageFormat::Png,
            ImageFormat::Jpeg { quality: None },
            ImageFormat::Jpeg { quality: Some(1) },
            ImageFormat::WebP { quality: None },
            ImageFormat::WebP { quality: Some(100) },
        ] {
            answers.push(Answer::Image(format));
            answers.push(Answer::Images(format, Packaging::Zip));
            answers.push(Answer::Images(format, Packaging::Multipart));
        }
        for answer in answers {
            let query: Vec<_> =
                answer.parameters().iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(read(&query.join("&"), answer.accept()), Ok(answer));
        }
    }
}
