//! From the parameters and the `Accept` header of a request to the answer that it wants.

use super::{Answer, ImageFormat, Packaging, Transfer, Values, VideoFormat};
use crate::{Accept, DType, JSON, Metadata, OCTET_STREAM, WireError};

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
            // Bytes of any kind: generated clients name this type, and often all others behind it.
            "*/*" | "image/*" | OCTET_STREAM => Self::Any,
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
    [Transfer::Binary, Transfer::Octets, Transfer::Base64, Transfer::Json]
        .into_iter()
        .find(|t| t.media_type() == media_type)
}

impl VideoFormat {
    fn read(metadata: &Metadata) -> Result<Self, WireError> {
        Ok(Self { fps: metadata.number("fps", 1..=240)?, quality: metadata.number("quality", 1..=100)? })
    }
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
        // Clients such as axios send `application/json, text/plain, */*` with every request: beside `*/*`, JSON is no
        // wish for a tensor.
        let takes_all = accept.media_types().any(|name| name == "*/*");
        let wish = accept.media_types().filter(|&name| !(takes_all && name == JSON)).find_map(Wish::read);
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
        (Values::Raw | Values::Unit, Some(DType::Float64)) => {
            return Err(WireError::Parameter(
                "`out_dtype` is float64, but must be float16, bfloat16 or float32".to_owned(),
            ));
        }
        (Values::Raw | Values::Unit, asked) => asked.unwrap_or_default(),
    };
    Ok(Answer::Tensor { values, dtype, transfer })
}

fn image_format(metadata: &Metadata) -> Result<ImageFormat, WireError> {
    let Some(name) = metadata.text("image_format")? else { return jpeg(metadata) };
    // Pillow writes these names in capitals.
    match name.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => jpeg(metadata),
        "png" => Ok(ImageFormat::Png),
        "webp" => webp(metadata),
        _ => Err(WireError::Parameter(format!("`image_format` is {name:?}, but must be jpg, png or webp"))),
    }
}

fn webp(metadata: &Metadata) -> Result<ImageFormat, WireError> {
    Ok(ImageFormat::WebP { quality: metadata.number("quality", 1..=100)? })
}

fn jpeg(metadata: &Metadata) -> Result<ImageFormat, WireError> {
    Ok(ImageFormat::Jpeg { quality: metadata.number("quality", 1..=100)? })
}
