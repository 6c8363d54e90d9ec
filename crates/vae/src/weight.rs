//! Weights as they lie in a checkpoint: raw bytes with a type and a shape, shared and never copied.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use kernels::DType;

/// One tensor of a checkpoint. Cheap to clone: the bytes are shared.
#[derive(Clone)]
pub struct Weight {
    /// The name it has in the file, for messages.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Axis lengths in PyTorch's order, for example `[out, in, 3, 3]`.
    pub shape: Vec<usize>,
    bytes: WeightBytes,
}

/// Where the bytes of a weight are.
#[derive(Clone)]
pub(crate) enum WeightBytes {
    /// Part of a mapped file that all its tensors share.
    Mapped(Arc<kernels::Bytes>, Range<usize>),
    /// Memory of its own.
    Owned(Arc<[u8]>),
}

impl WeightBytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(file, range) => &file.as_slice()[range.clone()],
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Weight {
    /// A tensor of these bytes, little-endian and in C order.
    ///
    /// # Panics
    /// When there are more or fewer bytes than `dtype` and `shape` ask for; loaders check this first.
    pub(crate) fn new(name: impl Into<String>, dtype: DType, shape: Vec<usize>, bytes: WeightBytes) -> Self {
        assert_eq!(
            bytes.as_slice().len(),
            shape.iter().product::<usize>() * dtype.size(),
            "the bytes do not fit the shape"
        );
        Self { name: name.into(), dtype, shape, bytes }
    }

    /// The values for the kernels.
    pub fn view(&self) -> kernels::WeightView<'_> {
        kernels::WeightView::new(self.dtype, self.bytes.as_slice())
    }

    /// The values as f32, in C order.
    pub fn to_f32(&self) -> Vec<f32> {
        self.view().to_f32()
    }

    /// Tells the system that the pages of this tensor will not be needed soon. Reading them again is allowed.
    pub fn release_pages(&self) {
        // What is in memory of its own stays there: there is no file to read it from again.
        if let WeightBytes::Mapped(file, range) = &self.bytes {
            file.release(range.clone());
        }
    }

    /// Of the weight `[out, in, taps, ...]` of a convolution in time, what belongs to the last tap, `[out, in, ...]`, under this
    /// name. It is copied unless it is all there is, in the type of the file.
    ///
    /// # Panics
    /// When the weight has no third axis.
    pub(crate) fn last_tap(self, name: &str) -> Self {
        let taps = self.shape[2];
        let mut shape = self.shape.clone();
        shape.remove(2);
        let bytes = match taps {
            1 => self.bytes,
            _ => {
                let size = shape[2..].iter().product::<usize>() * self.dtype.size();
                let all = self.bytes.as_slice().chunks_exact(taps * size);
                WeightBytes::Owned(all.flat_map(|taps| &taps[taps.len() - size..]).copied().collect())
            }
        };
        Self { name: name.to_owned(), dtype: self.dtype, shape, bytes }
    }

    /// Where its bytes lie, how many there are, and whether they have memory of their own and are no part of a mapped file.
    pub(crate) fn memory(&self) -> (*const u8, usize, bool) {
        let bytes = self.bytes.as_slice();
        (bytes.as_ptr(), bytes.len(), matches!(self.bytes, WeightBytes::Owned(_)))
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
