//! Tensors to picture files and back: the arithmetic between a model's values and bytes, and the file formats.
//!
//! Everything is a plain function on slices, so that the server, the command line and the tests get the same
//! bytes from the same values.
#![forbid(unsafe_code)]

mod error;
mod guard;
mod image;
mod jpeg;
mod mp4;
mod pixels;
mod png;
mod resize;
mod watch;
mod webp;

pub use error::MediaError;
pub use image::{Channels, Image, ImageFile};
pub use jpeg::{DEFAULT_QUALITY, JPEG_MAX_SIDE, encode_jpeg};
pub use mp4::{DEFAULT_FPS, MP4_MAX_SIZE, Mp4Options, encode_mp4};
pub use pixels::{f16_bytes, model_range, pixels_from_planes, planes_from_pixels, round8, unit_range};
pub use png::{PNG_MAX_SIDE, encode_png};
pub use resize::{resize_lanczos, resize_nearest};
pub use watch::IsWanted;
pub use webp::{DEFAULT_WEBP_QUALITY, WEBP_MAX_SIDE, encode_webp};
