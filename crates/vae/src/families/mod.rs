//! One module a family of autoencoders, named by what `_class_name` says.

mod batch;
mod hunyuan_video;
mod kl;
mod tiling;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::{Engine, VideoEngine};
use crate::forecast::{Foreseen, Rehearse};
use crate::single_file::{kinds, layout};
use crate::{HostTensor, LoadError, Vae, VaeError};

/// The values of `_class_name` for which there is a family.
pub const CLASS_NAMES: &[&str] = &[kl::CLASS_NAME, hunyuan_video::CLASS_NAME];

/// What a model without an encoder answers to an encode.
fn decoder_only() -> VaeError {
    VaeError::Input("this model cannot encode: its checkpoint holds a decoder only".to_owned())
}

/// Builds the model that `config` names from the tensors of `checkpoint`, and its rehearsal if the engine can rehearse.
pub(crate) fn load<E: VideoEngine>(
    config: &Config,
    checkpoint: &Checkpoint,
    engine: E,
) -> Result<Box<dyn Vae>, LoadError> {
    let build_both = || {
        let rehearsal = engine.rehearsal().map(|engine| build(config, checkpoint, engine)).transpose()?;
        let vae: Box<dyn Vae> = build(config, checkpoint, engine)?;
        layout::refuse_unused(&vae.info().class_name, checkpoint)?;
        Ok((vae, rehearsal))
    };
    let (vae, rehearsal) = build_both().map_err(|error| kinds::explained(error, checkpoint))?;
    Ok(match rehearsal {
        Some(rehearsal) => {
            let weights = [checkpoint.bytes(), checkpoint.copied_bytes()];
            Box::new(Foreseen::new(vae, rehearsal, weights))
        }
        None => vae,
    })
}

fn build<E: VideoEngine>(
    config: &Config,
    checkpoint: &Checkpoint,
    engine: E,
) -> Result<Box<dyn Rehearse>, LoadError> {
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

/// The most memory that the engine, which rehearses, would use for any of `inputs`, given by their shapes, each run by
/// itself.
fn rehearse<E: Engine>(
    engine: &E,
    inputs: impl IntoIterator<Item = Vec<usize>>,
    mut run: impl FnMut(HostTensor) -> Result<HostTensor, VaeError>,
) -> Result<usize, VaeError> {
    engine.release();
    engine.begin_peak();
    let mut seen = std::collections::HashSet::new();
    for shape in inputs {
        if seen.insert(shape.clone()) {
            // Zeros that nobody looks at take no memory.
            let values = vec![0.0; shape.iter().product()];
            run(HostTensor::new(shape, values))?;
        }
    }
    Ok(engine.peak_memory())
}

/// Whether an engine that rehearses keeps values in 16 bits: it cannot be leaner then.
fn is_lean<E: Engine>(engine: &E) -> bool {
    engine.lean().is_none()
}

/// Bytes of f32 values of this shape.
fn bytes_of(shape: &[usize]) -> usize {
    shape.iter().fold(size_of::<f32>(), |bytes, &axis| bytes.saturating_mul(axis))
}
