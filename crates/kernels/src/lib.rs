//! CPU kernels of remote-vae: convolution, matrix product, normalisation and attention on plain slices.
//!
//! The only CPU crate with `unsafe`. It knows no model and no file format.
#![allow(
    clippy::needless_range_loop,
    reason = "matrices read better by their indices than by zipped iterators"
)]

mod arena;
mod attention;
mod clip;
mod column;
mod context;
mod conv;
mod conv3d;
mod direct;
mod elementwise;
mod features;
mod few_outputs;
mod gather;
mod gemm;
mod heap;
mod memory;
mod norm;
mod peak;
mod plan;
mod pointwise;
mod pool;
mod rearrange;
pub mod reference;
mod schedule;
mod simd;
mod sink;
mod source;
mod tiles;
mod watch;
mod weights;
mod winograd;

pub use arena::{Arena, Buffer, OutOfMemory};
pub use attention::Attention;
pub use clip::Clip;
pub use context::{Context, Numerics};
pub use conv::{Conv2d, Pre};
pub use conv3d::{CausalConv3d, Conv3d, Padding3d, Stride, Upsampling};
pub use features::{ChannelStats, Features, Storage};
pub use gather::Gather;
pub use heap::{settle_heap, trim_heap};
pub use memory::Bytes;
pub use norm::{ChannelNorm, ChannelNormKind, GroupNorm, Norm};
pub use plan::{Algorithm, Plan};
pub use pool::Pool;
pub use rearrange::{Axis, Shuffle};
pub use simd::Isa;
pub use source::{Activation, PaddingMode};
pub use watch::{Stopped, Watched};
pub use weights::{DType, WeightView};
