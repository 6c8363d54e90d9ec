//! Tensors as base64 in JSON: bodies of requests and answers.

use ::base64::Engine as _;
use ::base64::alphabet::STANDARD;
use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Tensor, WireError};

/// Writes padding and reads with or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A tensor as base64, in a request.
#[derive(Deserialize, JsonSchema)]
pub struct JsonBody {
    /// The bytes of the tensor as base64.
    inputs: String,
    /// With `application/json`: `shape`, `dtype` and what else stands in the query otherwise.
    #[serde(default)]
    pub(crate) parameters: Map<String, Value>,
}

impl JsonBody {
    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        serde_json::from_slice(body).map_err(|error| {
            WireError::Body(format!("the body must be a JSON object with `inputs`, a base64 text: {error}"))
        })
    }

    /// The bytes in `inputs`.
    pub(crate) fn bytes(self) -> Result<Bytes, WireError> {
        Ok(decode(&self.inputs)?.into())
    }
}

fn decode(text: &str) -> Result<Vec<u8>, WireError> {
    BASE64.decode(text).map_err(|error| WireError::Body(format!("`inputs` is not base64: {error}")))
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
