//! The layers of the autoencoders, named as in diffusers and written once for every engine.
//!
//! A layer is loaded from a [`VarBuilder`], whose scopes mirror the names in the checkpoint, and run in a [`Pass`],
//! which reports progress after each step of the engine.

mod attention;
mod builder;
mod decoder;
mod downsampling;
mod encoder;
mod pass;
mod resnet;
mod unet_2d_blocks;
mod upsampling;
mod workload;

pub(crate) use attention::Attention;
pub(crate) use builder::{Conv2d, VarBuilder};
pub(crate) use decoder::Decoder;
pub(crate) use downsampling::Downsample2D;
pub(crate) use encoder::Encoder;
pub(crate) use pass::Pass;
pub(crate) use resnet::ResnetBlock2D;
pub(crate) use unet_2d_blocks::{DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D};
pub(crate) use upsampling::Upsample2D;
pub(crate) use workload::{Cost, Workload};
