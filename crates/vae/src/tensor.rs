//! Tensors on the host, as they come from and go to a caller.

use crate::{DType, VaeError};

/// A dense f32 tensor in C order, axes as in diffusers: `[B, C, H, W]` for images, `[B, C, F, H, W]` for video.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values, the last axis fastest.
    pub data: Vec<f32>,
}

impl HostTensor {
    /// A tensor from its shape and values.
    ///
    /// # Panics
    /// When `data` does not hold exactly as many values as `shape` says: a bug of the caller, never of a request.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape {shape:?} does not fit the data");
        Self { shape, data }
    }

    /// A tensor from the bytes of a request: little-endian, C order.
    ///
    /// # Errors
    /// [`VaeError::Input`] when `bytes` has not the length that `shape` and `dtype` ask for.
    pub fn from_le_bytes(shape: Vec<usize>, dtype: DType, bytes: &[u8]) -> Result<Self, VaeError> {
        let size = shape.iter().try_fold(dtype.size(), |size, &axis| size.checked_mul(axis));
        if size != Some(bytes.len()) {
            return Err(VaeError::Input(format!(
                "a tensor of shape {shape:?} and type {dtype:?} does not have {} bytes",
                bytes.len()
            )));
        }
        let data = kernels::WeightView::new(dtype, bytes).to_f32();
        Ok(Self { shape, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_type_become_the_same_values() {
        let values = [1.0f32, -2.5, 0.0, 96.0];
        let f32s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16s: Vec<u8> = values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        for (dtype, bytes) in [(DType::F32, f32s), (DType::F16, f16s), (DType::Bf16, bf16s)] {
            let tensor = HostTensor::from_le_bytes(vec![2, 2], dtype, &bytes).unwrap();
            assert_eq!(tensor, HostTensor::new(vec![2, 2], values.to_vec()));
        }
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused() {
        for shape in [vec![2], vec![usize::MAX, usize::MAX], vec![0]] {
            let error = HostTensor::from_le_bytes(shape, DType::F32, &[0; 4]).unwrap_err();
            assert!(error.to_string().contains("4 bytes"), "{error}");
        }
    }
}
