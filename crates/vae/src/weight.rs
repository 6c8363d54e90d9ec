//! Weights as they lie in a checkpoint: raw bytes with a type and a shape, shared and never copied.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use kernels::DType;

/// One tensor of a checkpoint. Cheap to clone: the bytes belong to the file that all its tensors share.
#[derive(Clone)]
pub struct Weight {
    /// The name it has in the file, for messages.
    pub name: String,
    /// Element type in the file.
    pub dtype: DType,
    /// Axis lengths in PyTorch's order, for example `[out, in, 3, 3]`.
    pub shape: Vec<usize>,
    file: Arc<kernels::Bytes>,
    range: Range<usize>,
}

impl Weight {
    /// A tensor that lies at `range` of `file`, little-endian and in C order.
    ///
    /// # Panics
    /// When `range` has not the length that `dtype` and `shape` ask for; loaders check this first.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<usize>,
        file: Arc<kernels::Bytes>,
        range: Range<usize>,
    ) -> Self {
        assert_eq!(
            range.len(),
            shape.iter().product::<usize>() * dtype.size(),
            "range does not fit the shape"
        );
        Self { name: name.into(), dtype, shape, file, range }
    }

    /// The values for the kernels.
    pub fn view(&self) -> kernels::WeightView<'_> {
        kernels::WeightView::new(self.dtype, &self.file.as_slice()[self.range.clone()])
    }

    /// The values as f32, in C order.
    pub fn to_f32(&self) -> Vec<f32> {
        self.view().to_f32()
    }

    /// Tells the system that the pages of this tensor will not be needed soon. Reading them again is allowed.
    pub fn release_pages(&self) {
        self.file.release(self.range.clone());
    }

    /// The same values under another shape of the same size, such as a linear layer read from a 1×1 convolution.
    pub fn reshaped(mut self, shape: Vec<usize>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), self.shape.iter().product::<usize>());
        self.shape = shape;
        self
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dtype, self.shape)
    }
}
