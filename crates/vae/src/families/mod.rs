//! The families of autoencoders, in one table. A family is data: it makes two graphs of a configuration.

mod blocks;
mod flux2;
mod hunyuan_video;
mod kl;
mod tiny;

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::device::{Device, Weights};
use crate::graph::{Graph, GraphError};
use crate::latents::LatentFormat;
use crate::model::{Description, Loaded, Model};
use crate::single_file::{kinds, layout};
use crate::{LoadError, LoadOptions, Vae};

/// What there is to know of a family.
pub(crate) struct Family {
    /// Its name in `config.json`.
    pub(crate) class_name: &'static str,
    /// Reads and checks a configuration.
    pub(crate) describe: fn(&Config) -> Result<Description, LoadError>,
    /// Reads what its weights say of latents, for a family that has such.
    pub(crate) read_latents: Option<ReadLatents>,
}

/// Completes a format of latents by what a checkpoint holds.
type ReadLatents = fn(&Config, &Checkpoint, &mut LatentFormat) -> Result<(), LoadError>;

/// All of them.
const FAMILIES: [Family; 4] = [kl::FAMILY, flux2::FAMILY, hunyuan_video::FAMILY, tiny::FAMILY];

/// The values of `_class_name` for which there is a family.
pub const CLASS_NAMES: &[&str] = &class_names();

const fn class_names() -> [&'static str; FAMILIES.len()] {
    let mut names = [""; FAMILIES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = FAMILIES[index].class_name;
        index += 1;
    }
    names
}

/// The model that a configuration describes.
///
/// # Errors
/// A class that is none of these, or settings that cannot be.
pub(crate) fn describe(config: &Config) -> Result<Description, LoadError> {
    let class_name = config.class_name()?;
    let Some(family) = FAMILIES.iter().find(|family| family.class_name == class_name) else {
        let known = CLASS_NAMES.join(" or ");
        return Err(config.refuse("_class_name", &format!("a model that can be served: {known}")));
    };
    let mut description = (family.describe)(config)?;
    description.info.concluded = config.concluded().map(str::to_owned);
    Ok(description)
}

/// Builds the model that `config` describes from the tensors of `checkpoint`.
pub(crate) fn load(
    config: &Config,
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    device: Arc<dyn Device>,
) -> Result<Box<dyn Vae>, LoadError> {
    let mut description = describe(config)?;
    let mut build = || {
        let mut weights = Weights::default();
        take(&description.decoder.graph, checkpoint, &mut weights)?;
        let can_encode = has_encoder(&description, checkpoint);
        if can_encode {
            take(&description.encoder.graph, checkpoint, &mut weights)?;
        }
        let family = FAMILIES.iter().find(|family| family.class_name == description.info.class_name);
        if let Some(read) = family.and_then(|family| family.read_latents) {
            read(config, checkpoint, &mut description.info.latents)?;
        }
        layout::refuse_unused(&description.info.class_name, checkpoint)?;
        Ok((weights, can_encode))
    };
    let (weights, can_encode) = build().map_err(|error| kinds::explained(error, checkpoint))?;
    if let Some(pipeline) = options.factors.pipeline {
        description.info.latents.set_pipeline(pipeline).map_err(|error| config.wrong(error))?;
    }
    let bytes = [checkpoint.bytes(), checkpoint.copied_bytes()];
    let model = Model::new(description, device, &weights, can_encode, bytes)?;
    Ok(Box::new(Loaded(Arc::new(model))))
}

/// Whether a checkpoint holds the model's encoder: it may hold a decoder only.
pub(crate) fn has_encoder(description: &Description, checkpoint: &Checkpoint) -> bool {
    let encoder = &description.encoder.graph;
    let first = (0..encoder.nodes().len()).find_map(|id| encoder.tensors(id).into_iter().next());
    first.is_some_and(|tensor| checkpoint.contains(&tensor.name))
}

/// Takes the tensors of a graph from a checkpoint.
fn take(graph: &Graph, checkpoint: &Checkpoint, weights: &mut Weights) -> Result<(), LoadError> {
    for expected in (0..graph.nodes().len()).flat_map(|id| graph.tensors(id)) {
        weights.insert(checkpoint.tensor(&expected)?);
    }
    Ok(())
}

/// The error for a configuration of which no graph can be made.
fn refused(config: &Config) -> impl Fn(GraphError) -> LoadError {
    move |error| config.wrong(error.to_string())
}
