//! Tensors as base64 in JSON: bodies of requests and answers.

use ::base64::Engine as _;
use ::base64::alphabet::STANDARD;
use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::{Metadata, Tensor, WireError};

/// Bytes of the parameters of a JSON body.
const MAX_PARAMETERS: usize = 64 << 10;

/// Writes padding and reads with or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A tensor as base64, in a request.
#[derive(Deserialize, JsonSchema)]
pub struct JsonBody {
    /// The bytes of the tensor, or of a picture file, as base64; a data URL and line breaks are fine.
    inputs: String,
    /// `shape`, `dtype` and every other parameter of the query. What is here goes before the query, and the query says
    /// what is not here.
    #[schemars(with = "Option<Map<String, Value>>")]
    parameters: Option<Box<RawValue>>,
}

impl JsonBody {
    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        serde_json::from_slice(body).map_err(|error| {
            WireError::Body(format!("the body must be a JSON object with `inputs`, a base64 text: {error}"))
        })
    }

    /// What stands in `parameters`. They are read once their length is known, because JSON takes many times its length
    /// in memory.
    pub(crate) fn metadata(&self) -> Result<Metadata, WireError> {
        let Some(parameters) = &self.parameters else { return Ok(Metadata::default()) };
        let length = parameters.get().len();
        if length > MAX_PARAMETERS {
            return Err(WireError::TooLarge(format!(
                "`parameters` has {length} bytes, but may have {MAX_PARAMETERS} at most"
            )));
        }
        let parameters = serde_json::from_str(parameters.get())
            .map_err(|error| WireError::Body(format!("`parameters` must be a JSON object: {error}")))?;
        Ok(Metadata::from_json(&parameters))
    }

    /// The bytes in `inputs`.
    pub(crate) fn bytes(&self) -> Result<Bytes, WireError> {
        Ok(decode(&self.inputs)?.into())
    }
}

/// Reads base64 as encoders write it: also as a data URL (`FileReader.readAsDataURL`), in lines (Python's
/// `encodebytes`, MIME) and in the alphabet for URLs, which cannot be taken for the other one.
fn decode(text: &str) -> Result<Vec<u8>, WireError> {
    let data_url = text.strip_prefix("data:").and_then(|url| url.split_once(";base64,"));
    let text = data_url.map_or(text, |(_, data)| data);
    let plain = match BASE64.decode(text) {
        Ok(bytes) => return Ok(bytes),
        Err(_) => text.bytes().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        }),
    };
    let plain: Vec<u8> = plain.collect();
    BASE64.decode(plain).map_err(|error| WireError::Body(format!("`inputs` is not base64: {error}")))
}

/// A tensor as base64, in an answer.
#[derive(Deserialize, JsonSchema)]
pub struct JsonAnswer {
    /// The bytes of the tensor as base64: little-endian, in C order.
    inputs: String,
    /// What tensor it is.
    parameters: JsonAnswerHead,
}

/// What tensor an answer is.
#[derive(Deserialize, JsonSchema)]
struct JsonAnswerHead {
    shape: Vec<usize>,
    /// `float16`, `bfloat16`, `float32` or `uint8`.
    dtype: String,
}

/// The body of an answer: `{"inputs": base64, "parameters": {"shape": [...], "dtype": "..."}}`.
pub fn write_base64_answer(tensor: &Tensor) -> String {
    json!({
        "inputs": BASE64.encode(&tensor.bytes),
        "parameters": {"shape": tensor.head.shape, "dtype": tensor.head.dtype.name()},
    })
    .to_string()
}

/// What [`write_base64_answer`] wrote.
///
/// # Errors
/// [`WireError::Answer`] when it is something else.
pub fn read_base64_answer(body: &[u8]) -> Result<Tensor, WireError> {
    let wrong =
        |error: &dyn std::fmt::Display| WireError::Answer(format!("the answer is no tensor: {error}"));
    let body: JsonAnswer = serde_json::from_slice(body).map_err(|error| wrong(&error))?;
    let read =
        || Tensor::new(body.parameters.dtype.parse()?, body.parameters.shape, decode(&body.inputs)?.into());
    read().map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn an_answer_survives_the_wire() {
        let tensor = Tensor::new(DType::UInt8, vec![1, 2, 2], vec![0, 127, 128, 255].into()).unwrap();
        let json = write_base64_answer(&tensor);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value,
            json!({"inputs": "AH+A/w==", "parameters": {"shape": [1, 2, 2], "dtype": "uint8"}})
        );
        assert_eq!(read_base64_answer(json.as_bytes()), Ok(tensor));
    }

    #[test]
    fn base64_in_every_spelling() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = BASE64.encode(&bytes);
        let lines: Vec<_> = text.as_bytes().chunks(76).map(|line| str::from_utf8(line).unwrap()).collect();
        for spelled in [
            text.clone(),
            text.trim_end_matches('=').to_owned(),
            format!("{}\n", lines.join("\n")),
            lines.join("\r\n"),
            format!("data:application/octet-stream;base64,{text}"),
            format!("data:;base64,{}", lines.join("\n")),
            text.replace('+', "-").replace('/', "_"),
        ] {
            assert_eq!(decode(&spelled).unwrap(), bytes, "{spelled}");
        }
        for wrong in ["data:text/plain,AAAA", "AA.A", "A", "AA=A", "data:;base64,!"] {
            assert!(matches!(decode(wrong), Err(WireError::Body(_))), "{wrong}");
        }
        assert_eq!(
            decode("!!!!").unwrap_err().to_string(),
            "`inputs` is not base64: Invalid symbol 33, offset 0."
        );
    }

    #[test]
    fn other_answers_are_refused() {
        for body in [
            "",
            "{}",
            r#"{"inputs": "AA==", "parameters": {"shape": [2], "dtype": "uint8"}}"#,
            r#"{"inputs": "A!==", "parameters": {"shape": [1], "dtype": "uint8"}}"#,
            r#"{"inputs": "AA==", "parameters": {"shape": [1], "dtype": "bool"}}"#,
        ] {
            assert!(matches!(read_base64_answer(body.as_bytes()), Err(WireError::Answer(_))), "{body}");
        }
    }
}
