//! Tensors on the host, as they come from and go to a caller.

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
}
