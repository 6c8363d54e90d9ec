//! What can stand in the query of a request, for whoever describes the protocol.
//!
//! A key that the parser reads and that is not here fails the tests of the server, and each description here is held to
//! what the parser takes and refuses: see the tests below and `Metadata::values`.

/// A key of the query.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// The key.
    pub name: &'static str,
    /// Which values it takes.
    pub kind: ParameterKind,
    /// What holds when it is not there, if that is one value.
    pub default: Option<&'static str>,
    /// What it does, for its reader.
    pub description: &'static str,
}

/// Which values a key takes.
#[derive(Clone, Copy, Debug)]
pub enum ParameterKind {
    /// Positive integers: repeated keys or a JSON list.
    Shape,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `True` or `False`, in any case.
    Flag,
    /// An integer from the first to the second.
    Integer(u64, u64),
    /// A finite number.
    Number,
    /// Any text.
    Text,
}

const fn parameter(name: &'static str, kind: ParameterKind, description: &'static str) -> Parameter {
    Parameter { name, kind, default: None, description }
}

const fn with_default(
    name: &'static str,
    kind: ParameterKind,
    default: &'static str,
    description: &'static str,
) -> Parameter {
    Parameter { name, kind, default: Some(default), description }
}

use ParameterKind::{Choice, Flag, Integer, Number, Shape, Text};

/// Every key that has a meaning; others are ignored.
pub const PARAMETERS: &[Parameter] = &[
    parameter(
        "shape",
        Shape,
        "Shape of the tensor in the body, as repeated keys or as a JSON list; `shape[]` and `1,4,64,64` are read too.",
    ),
    parameter(
        "dtype",
        Choice(&["float16", "bfloat16", "float32", "float64", "uint8"]),
        "Type of the values of the tensor in the body; `torch.float16` is read too.",
    ),
    parameter("model", Text, "Name of the model, where the path names none; otherwise the first one served."),
    parameter(
        "task",
        Choice(&["decode", "encode"]),
        "What to do, where the body leaves it open: a tensor without a content type may be latents or a picture.",
    ),
    parameter(
        "scaling_factor",
        Number,
        "Not 0. The latents become `latents / scaling_factor + shift_factor` before they are decoded.",
    ),
    parameter("shift_factor", Number, "See `scaling_factor`, without which it has no effect."),
    // Its default depends on the content type.
    parameter(
        "do_scaling",
        Flag,
        "Without a `scaling_factor`: `True` scales as the configuration of the model says, `False` not at all. When it is \
         not there, latents are not scaled, except in a body of `application/json`, where they are scaled as the \
         configuration says.",
    ),
    with_default(
        "output_type",
        Choice(&["pil", "pt", "mp4"]),
        "pil",
        "`pil`: a picture file, or values in [0, 1] when `Accept` is `tensor/binary`. `pt`: the values as the decoder \
         gives them. `mp4`: a video file.",
    ),
    with_default(
        "partial_postprocess",
        Flag,
        "False",
        "With `pt`: bytes `[B, H, W, 3]` that are ready to show, with alpha `[B, H, W, 4]`.",
    ),
    with_default(
        "image_format",
        Choice(&["jpg", "jpeg", "png", "webp"]),
        "jpg",
        "Format of a picture file, where `Accept` leaves it open. A JPEG has no alpha: of models whose `out_channels` are 4 \
         it must be png or webp.",
    ),
    parameter("quality", Integer(1, 100), "Of a JPEG or WebP file, or of an mp4 file."),
    with_default("fps", Integer(1, 240), "15", "Frames a second of an mp4 file."),
    parameter(
        "height",
        Integer(1, u16::MAX as u64),
        "Height of the picture in pixels. Packed latents need it; ignored with tensors of other than three axes.",
    ),
    parameter("width", Integer(1, u16::MAX as u64), "Width of the picture in pixels, as `height`."),
    with_default("tiling", Flag, "False", "Decode in tiles, as diffusers does after `enable_tiling()`."),
    with_default(
        "framewise",
        Flag,
        "True",
        "Of a video: a few frames at a time, as diffusers does; or all in one exact pass, in more memory.",
    ),
    parameter(
        "preview",
        Choice(&["tiny"]),
        "Answer twice, as `multipart/x-mixed-replace`: with what a tiny autoencoder makes of the latents, at once, and then \
         with the picture itself. For models that have a `preview` in the list of models.",
    ),
    // No default: with `partial_postprocess` it is uint8, and whoever sends float16 then is refused.
    parameter(
        "out_dtype",
        Choice(&["float16", "bfloat16", "float32"]),
        "Type of the values of a tensor answer; float16 unless said, and uint8 with `partial_postprocess`.",
    ),
    with_default(
        "sample_mode",
        Choice(&["sample", "argmax", "moments"]),
        "sample",
        "Of an encode: latents drawn from the distribution that the encoder finds, or its mean. `moments`: the distribution \
         itself, `[B, 2C, h, w]`, its mean and the logarithm of its variance, not scaled; the values of a tensor are then \
         those that the encoder takes, in [-1, 1].",
    ),
    parameter(
        "seed",
        Integer(0, u64::MAX),
        "Of sampled latents: the same seed gives the same ones. Without one, each request gets another.",
    ),
    parameter(
        "input_tensor_type",
        Text,
        "Sent by SD.Next, which reads one picture from an answer: a picture file of a batch is then its first picture, and \
         `x-warning` says so.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequestHead;

    /// Whether a request is understood in which the key has an effect and this value.
    fn is_read(name: &str, value: &str) -> Result<(), String> {
        let query = match name {
            "shape" => "dtype=uint8".to_owned(),
            "dtype" => "shape=[1,4,8,8]".to_owned(),
            // Only packed latents have a use for the size.
            "height" | "width" => "shape=[1,16,64]&dtype=uint8".to_owned(),
            "out_dtype" => "shape=[1,4,8,8]&dtype=uint8&output_type=pt".to_owned(),
            "fps" => "shape=[1,4,8,8]&dtype=uint8&output_type=mp4".to_owned(),
            "seed" | "sample_mode" => "shape=[1,3,8,8]&dtype=uint8&task=encode".to_owned(),
            _ => "shape=[1,4,8,8]&dtype=uint8".to_owned(),
        };
        let head = RequestHead::read(&format!("{query}&{name}={value}"), Some(crate::TENSOR_BINARY), None)
            .map_err(|error| error.to_string())?;
        head.model().and(head.params()).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_parser_takes_what_is_described_and_nothing_else() {
        assert!(!PARAMETERS.is_empty());
        for Parameter { name, kind, default, .. } in PARAMETERS {
            let (good, bad): (Vec<String>, Vec<String>) = match kind {
                Shape => (vec!["[1,4,8,8]".into()], vec!["[0]".into(), "x".into(), "[1.5]".into()]),
                Choice(words) => (words.iter().map(|&word| word.into()).collect(), vec!["nonsense".into()]),
                Flag => (["True", "False", "true", "false"].map(Into::into).into(), vec!["perhaps".into()]),
                Integer(from, to) => (
                    vec![from.to_string(), to.to_string()],
                    vec![
                        (i128::from(*from) - 1).to_string(),
                        (i128::from(*to) + 1).to_string(),
                        "1.5".into(),
                    ],
                ),
                Number => (vec!["0.5".into(), "1e-3".into()], vec!["nan".into(), "inf".into(), "x".into()]),
                // Any text may be the name of a model; only a second one is wrong.
                Text => (vec!["anything".into()], vec![format!("one&{name}=two")]),
            };
            for value in good.iter().map(String::as_str).chain(*default) {
                assert_eq!(is_read(name, value), Ok(()), "{name}={value}");
            }
            for value in bad {
                let error = is_read(name, &value).expect_err(&format!("{name}={value}"));
                // A type of values is refused in the same words wherever it stands.
                let said = name.strip_prefix("out_").unwrap_or(name);
                assert!(error.contains(said), "{name}={value}: {error}");
            }
        }
    }
}
