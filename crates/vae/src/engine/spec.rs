//! What a layer is, in words that every engine understands.

/// A 2-D convolution with a square kernel, as PyTorch's `Conv2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dSpec {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel side: 1 or 3.
    pub kernel: usize,
    /// Step between outputs: 1 or 2.
    pub stride: usize,
    /// Zeros around the input, in the order top, bottom, left, right.
    pub padding: [usize; 4],
}

impl Conv2dSpec {
    /// A convolution that keeps the image's size: 1×1 without padding, or 3×3 with one zero on each side.
    pub fn same(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self { in_channels, out_channels, kernel, stride: 1, padding: [kernel / 2; 4] }
    }

    /// Height and width of the output for an input of `height` × `width`.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let [top, bottom, left, right] = self.padding;
        (
            (height + top + bottom - self.kernel) / self.stride + 1,
            (width + left + right - self.kernel) / self.stride + 1,
        )
    }
}

/// A group normalisation, as PyTorch's `GroupNorm` with an affine part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormSpec {
    /// Channels of the input.
    pub channels: usize,
    /// Groups; divides `channels`.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// What follows a norm, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `x * sigmoid(x)`; diffusers calls it `silu` or `swish`.
    Silu,
}

/// What an engine can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest single tensor, in bytes.
    pub max_tensor_bytes: usize,
}
