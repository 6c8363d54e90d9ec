//! One module a family of autoencoders, named by what `_class_name` says.

mod batch;
mod hunyuan_video;
mod kl;
mod tiling;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::VideoEngine;
use crate::{LoadError, Vae, VaeError};

/// The values of `_class_name` for which there is a family.
pub const CLASS_NAMES: &[&str] = &[kl::CLASS_NAME, hunyuan_video::CLASS_NAME];

/// What a model without an encoder answers to an encode.
fn decoder_only() -> VaeError {
    VaeError::Input("this model cannot encode: its checkpoint holds a decoder only".to_owned())
}

/// Builds the model that `config` names from the tensors of `checkpoint`.
pub(crate) fn load<E: VideoEngine>(
    config: &Config,
    checkpoint: &Checkpoint,
    engine: E,
) -> Result<Box<dyn Vae>, LoadError> {
    match config.class_name()? {
        kl::CLASS_NAME => Ok(Box::new(kl::AutoencoderKL::load(config, checkpoint, engine)?)),
        hunyuan_video::CLASS_NAME => {
            Ok(Box::new(hunyuan_video::AutoencoderKLHunyuanVideo::load(config, checkpoint, engine)?))
        }
        _ => {
            let known = CLASS_NAMES.join(" or ");
            Err(config.refuse("_class_name", &format!("a model that can be served: {known}")))
        }
    }
}
