//! One module a family of autoencoders, named by what `_class_name` says.

mod batch;
mod kl;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::Engine;
use crate::{LoadError, Vae};

/// Builds the model that `config` names from the tensors of `checkpoint`.
pub(crate) fn load<E: Engine>(
    config: &Config,
    checkpoint: &Checkpoint,
    engine: E,
) -> Result<Box<dyn Vae>, LoadError> {
    match config.class_name()? {
        kl::CLASS_NAME => Ok(Box::new(kl::AutoencoderKL::load(config, checkpoint, engine)?)),
        _ => Err(config.refuse("_class_name", &format!("a model that can be served: {}", kl::CLASS_NAME))),
    }
}
