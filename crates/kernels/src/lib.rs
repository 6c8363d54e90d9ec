//! CPU kernels of remote-vae: convolution, matrix product, normalisation and attention on plain slices.
//!
//! The only CPU crate with `unsafe`. It knows no model and no file format.
#![allow(
    clippy::needless_range_loop,
    reason = "matrices read better by their indices than by zipped iterators"
)]

mod arena;
mod attention;
mod context;
mod conv;
mod direct;
mod features;
mod gemm;
mod memory;
mod norm;
mod plan;
mod pointwise;
mod pool;
pub mod reference;
mod simd;
mod sink;
mod source;
mod weights;
mod winograd;

pub use arena::{Arena, Buffer, OutOfMemory};
pub use attention::Attention;
pub use context::{Context, Numerics};
pub use conv::{Conv2d, Pre};
pub use features::{ChannelStats, Features, Storage};
pub use memory::Bytes;
pub use norm::GroupNorm;
pub use plan::{Algorithm, Plan};
pub use pool::Pool;
pub use simd::Isa;
pub use weights::{DType, WeightView};
