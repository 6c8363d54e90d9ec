//! Tensors to picture files: the arithmetic that turns a decoded tensor into bytes, and the file formats.
//!
//! Everything is a plain function on slices, so that the server, the command line and the tests get the same
//! bytes from the same values.
#![forbid(unsafe_code)]

mod error;
mod jpeg;
mod mp4;
mod pixels;
mod png;

pub use error::MediaError;
pub use jpeg::{DEFAULT_QUALITY, encode_jpeg};
pub use mp4::{DEFAULT_FPS, MP4_MAX_SIZE, Mp4Options, encode_mp4};
pub use pixels::{f16_bytes, rgb_from_planes, round8, unit_range};
pub use png::encode_png;
