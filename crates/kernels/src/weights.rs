//! Weights in the types that checkpoints store.

use half::{bf16, f16};

/// Element types of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Values as they lie in a file: little-endian, C order, of any alignment.
#[derive(Clone, Copy)]
pub struct WeightView<'a> {
    dtype: DType,
    bytes: &'a [u8],
}

impl<'a> WeightView<'a> {
    /// A view of `bytes`, whose length is a multiple of the element size.
    pub fn new(dtype: DType, bytes: &'a [u8]) -> Self {
        assert!(bytes.len().is_multiple_of(dtype.size()));
        Self { dtype, bytes }
    }

    /// Some of its values.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        let size = self.dtype.size();
        Self { dtype: self.dtype, bytes: &self.bytes[range.start * size..range.end * size] }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.read(0, &mut out);
        out
    }

    /// Converts `out.len()` values from index `start` on.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        match self.dtype {
            DType::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            DType::F16 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *o = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            DType::Bf16 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *o = bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
        }
    }
}
