//! Tensors as they travel: element type, shape, bytes.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::WireError;

/// The most axes a tensor may have. Video latents have five.
const MAX_AXES: usize = 8;

/// Element types that travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DType {
    /// IEEE half precision.
    #[default]
    Float16,
    /// The upper half of a float32.
    BFloat16,
    /// IEEE single precision.
    Float32,
    /// IEEE double precision, which requests may send and no answer has.
    Float64,
    /// Bytes.
    UInt8,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Float16, Self::BFloat16, Self::Float32, Self::Float64, Self::UInt8];

    /// Its name on the wire, which is PyTorch's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float16 => "float16",
            Self::BFloat16 => "bfloat16",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::UInt8 => "uint8",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Float16 | Self::BFloat16 => 2,
            Self::Float32 => 4,
            Self::Float64 => 8,
            Self::UInt8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = WireError;

    /// The name, also as PyTorch prints it: `torch.float16`.
    fn from_str(text: &str) -> Result<Self, WireError> {
        let name = text.strip_prefix("torch.").unwrap_or(text);
        Self::ALL.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| {
            WireError::Parameter(format!(
                "dtype {text:?} is not one of float16, bfloat16, float32, float64 and uint8"
            ))
        })
    }
}

/// What a tensor is, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorHead {
    /// Element type.
    pub dtype: DType,
    /// The length of each axis, none of them 0.
    pub shape: Vec<usize>,
    byte_len: usize,
}

impl TensorHead {
    /// A tensor of this type and shape.
    ///
    /// # Errors
    /// No axis, more than eight, an axis of length 0, or more bytes than can be counted.
    pub fn new(dtype: DType, shape: Vec<usize>) -> Result<Self, WireError> {
        let wrong = |what: &str| WireError::Parameter(format!("shape {shape:?} {what}"));
        if shape.is_empty() || shape.len() > MAX_AXES {
            return Err(WireError::Parameter(format!(
                "`shape` has {} axes, but must have 1 to {MAX_AXES}",
                shape.len()
            )));
        }
        if shape.contains(&0) {
            return Err(wrong("has an axis of length 0, so there is nothing in it"));
        }
        let byte_len = shape
            .iter()
            .try_fold(dtype.size(), |bytes, &axis| bytes.checked_mul(axis))
            .ok_or_else(|| wrong("is larger than any tensor can be"))?;
        Ok(Self { dtype, shape, byte_len })
    }

    /// Bytes that a tensor of this type and shape has.
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// Checks that a body of `length` bytes can be such a tensor.
    ///
    /// # Errors
    /// [`WireError::Body`] with both numbers.
    pub fn check_length(&self, length: usize) -> Result<(), WireError> {
        if length == self.byte_len {
            return Ok(());
        }
        Err(WireError::Body(format!(
            "the body has {length} bytes, but a tensor of {self} has {}",
            self.byte_len
        )))
    }

    /// The value of the `shape` header: a JSON list written as Python writes it, `[1, 3, 512, 512]`.
    pub fn shape_header(&self) -> String {
        format!("{:?}", self.shape)
    }

    /// What the `shape` and `dtype` headers of an answer say.
    ///
    /// # Errors
    /// [`WireError::Answer`] when one is missing or cannot be read.
    pub fn from_headers(shape: Option<&str>, dtype: Option<&str>) -> Result<Self, WireError> {
        let (Some(shape), Some(dtype)) = (shape, dtype) else {
            return Err(WireError::Answer("the answer has no `shape` and `dtype` headers".to_owned()));
        };
        let axes = serde_json::from_str(shape).map_err(|_| {
            WireError::Answer(format!("the answer's `shape` header is no JSON list: {shape:?}"))
        })?;
        let read = || Self::new(dtype.parse()?, axes);
        read().map_err(|error| WireError::Answer(format!("the answer's headers are wrong: {error}")))
    }
}

impl fmt::Display for TensorHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// A tensor: little-endian values in C order.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Type and shape.
    pub head: TensorHead,
    /// As many bytes as the head says.
    pub bytes: Bytes,
}

impl Tensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// As for [`TensorHead::new`], and when the number of bytes is another one than the shape asks for.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, WireError> {
        Self::from_head(TensorHead::new(dtype, shape)?, bytes)
    }

    /// A tensor from its head and its bytes.
    ///
    /// # Errors
    /// When the number of bytes is another one than the head says.
    pub fn from_head(head: TensorHead, bytes: Bytes) -> Result<Self, WireError> {
        head.check_length(bytes.len())?;
        Ok(Self { head, bytes })
    }
}

impl fmt::Debug for Tensor {
    /// Without the content: a person's picture has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({})", self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_header_is_what_python_prints() {
        let head = TensorHead::new(DType::Float16, vec![1, 3, 512, 512]).unwrap();
        assert_eq!(head.shape_header(), "[1, 3, 512, 512]");
        assert_eq!(TensorHead::from_headers(Some("[1,3,512,512]"), Some("float16")), Ok(head));
    }

    #[test]
    fn types_have_the_names_of_pytorch() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
            assert_eq!(format!("torch.{dtype}").parse(), Ok(dtype), "as `str(tensor.dtype)` prints it");
        }
        for text in ["", "torch.", "torch", "float", "torch.torch.float16", "int64"] {
            assert!(text.parse::<DType>().is_err(), "{text}");
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for shape in [vec![], vec![1, 0], vec![1; 9], vec![usize::MAX, 2], vec![usize::MAX / 3]] {
            let error = TensorHead::new(DType::Float32, shape.clone()).unwrap_err();
            assert!(matches!(error, WireError::Parameter(_)), "{shape:?}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_the_servers_fault() {
        for (shape, dtype) in [
            (None, Some("uint8")),
            (Some("[1]"), None),
            (Some("1"), Some("uint8")),
            (Some("[-1]"), Some("uint8")),
            (Some("[1.5]"), Some("uint8")),
            (Some("[0]"), Some("uint8")),
            (Some("[1]"), Some("int64")),
        ] {
            let error = TensorHead::from_headers(shape, dtype).unwrap_err();
            assert!(matches!(error, WireError::Answer(_)), "{shape:?} {dtype:?}");
        }
    }

    #[test]
    fn bytes_must_fit_the_shape() {
        let error = Tensor::new(DType::Float16, vec![1, 4, 2, 2], vec![0; 31].into()).unwrap_err();
        assert_eq!(error.to_string(), "the body has 31 bytes, but a tensor of float16 [1, 4, 2, 2] has 32");
    }
}
