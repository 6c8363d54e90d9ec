//! Every combination of parameters and `Accept`.

use super::*;
use crate::{Accept, Metadata, WireError};

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
        // What axios and Angular send with everything says nothing; a tensor is named.
        ("output_type=pil", "application/json, text/plain, */*", JPEG),
        ("", "application/json, text/plain, */*", JPEG),
        ("output_type=pil&image_format=png", "application/json, text/plain, */*", PNG),
        ("output_type=pil", "tensor/binary, application/json, */*", UNIT),
        ("output_type=pil", "application/json", tensor(Values::Unit, DType::Float16, Transfer::Json)),
        (
            "output_type=pt",
            "application/json, text/plain, */*",
            tensor(Values::Raw, DType::Float16, Transfer::Json),
        ),
        ("image_format=jpeg", "", JPEG),
        ("image_format=PNG", "", PNG),
        ("image_format=WebP", "", WEBP),
        (
            "output_type=pt&out_dtype=torch.bfloat16",
            "",
            tensor(Values::Raw, DType::BFloat16, Transfer::Binary),
        ),
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
        ("output_type=pt", "application/octet-stream", tensor(Values::Raw, DType::Float16, Transfer::Octets)),
        ("output_type=pil", "application/octet-stream", JPEG),
        ("image_format=png", "application/octet-stream, application/zip, image/jpeg", PNG),
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
    for transfer in [Transfer::Binary, Transfer::Octets, Transfer::Base64, Transfer::Json] {
        answers.push(tensor(Values::Round8, DType::UInt8, transfer));
        for dtype in [DType::Float16, DType::BFloat16, DType::Float32] {
            answers.push(tensor(Values::Raw, dtype, transfer));
            // With `pil` that name stands for bytes of any kind.
            if transfer != Transfer::Octets {
                answers.push(tensor(Values::Unit, dtype, transfer));
            }
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
        let query: Vec<_> = answer.parameters().iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(read(&query.join("&"), answer.accept()), Ok(answer));
    }
}
