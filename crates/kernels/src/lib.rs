//! CPU kernels of remote-vae: convolution, matrix product, normalisation and attention on plain slices.
//!
//! The only CPU crate with `unsafe`. It knows no model and no file format.

mod memory;
mod weights;

pub use memory::Bytes;
pub use weights::{DType, WeightView};
