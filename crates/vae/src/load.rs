//! From a folder, a file or embedded bytes to a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::device::Device;
use crate::files::{SHOWN, weights_in};
use crate::graph::Graph;
use crate::latents::Pipeline;
use crate::{LoadError, Vae, families, single_file};

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder as diffusers saves it: of an autoencoder, or of a whole pipeline that has one in `vae/`. A folder with one
    /// file of weights and no configuration is that file.
    Folder(PathBuf),
    /// A file of weights: an autoencoder in diffusers' layout or in the original one, alone or inside of a full checkpoint;
    /// `.safetensors`, what `torch.save` writes, or the index of shards. Its bytes tell which, not its name. A `config.json`
    /// beside it counts if it is the file's own ([`LoadOptions::one_model`]); else the tensors tell.
    File(PathBuf),
    /// A model that is part of the program.
    Embedded {
        /// The content of `config.json`.
        config: &'static str,
        /// The content of `diffusion_pytorch_model.safetensors`.
        weights: &'static [u8],
    },
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Factors in the place of the configuration's.
    pub factors: Factors,
    /// Where weights are kept.
    pub mode: LoadMode,
    /// The folder of a file is of one model, as a repository on the hub is: a `config.json` in it belongs to the file
    /// whatever the file's name is. Elsewhere it belongs to files that are named as diffusers names them.
    pub one_model: bool,
}

/// Where weights are kept while a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Files that this process cannot write to are mapped, others copied.
    #[default]
    Auto,
    /// In the files, which are mapped: the system reads what is needed, and takes the memory back where it is short of it.
    /// A file that is cut short meanwhile ends the process.
    Map,
    /// In memory: nothing that happens to the files matters any more.
    Copy,
}

/// What the user of a model knows of its latents better than its files.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// In the place of `scaling_factor`.
    pub scaling_factor: Option<f32>,
    /// In the place of `shift_factor`.
    pub shift_factor: Option<f32>,
    /// The pipeline whose latents it decodes, where other pipelines hand them over in another way.
    pub pipeline: Option<Pipeline>,
}

/// Loads a model and prepares it on a device.
///
/// # Errors
/// A [`LoadError`] that names the file and the key or tensor, what was found and what was expected.
pub fn load(source: Source, device: impl Device + 'static) -> Result<Box<dyn Vae>, LoadError> {
    load_with(source, &LoadOptions::default(), device)
}

/// [`load`] with options.
///
/// # Errors
/// Those of [`load`].
pub fn load_with(
    source: Source,
    options: &LoadOptions,
    device: impl Device + 'static,
) -> Result<Box<dyn Vae>, LoadError> {
    let (config, mut checkpoint) = open(source, options)?;
    checkpoint.settle(options.mode)?;
    families::load(&config, &checkpoint, options, Arc::new(device))
}

/// What a model computes, for people.
#[derive(Clone, Debug)]
pub struct Graphs {
    /// `_class_name` of its configuration.
    pub class_name: String,
    /// Pixels for a latent along a side, and frames for a latent frame (1 for models of pictures).
    pub factors: [usize; 2],
    /// From latents, normalised for the model, to pictures.
    pub decoder: Graph,
    /// The same for a single frame, for models of videos that do less to it.
    pub still_decoder: Option<Graph>,
    /// From pictures to the moments of latents, for checkpoints that hold an encoder.
    pub encoder: Option<Graph>,
    /// The same for a single frame.
    pub still_encoder: Option<Graph>,
}

/// The graphs of a model, without preparing it on a device.
///
/// # Errors
/// Those of [`load`], but for tensors that are missing.
pub fn graphs(source: Source, options: &LoadOptions) -> Result<Graphs, LoadError> {
    let (config, checkpoint) = open(source, options)?;
    let description = families::describe(&config)?;
    let can_encode = families::has_encoder(&description, &checkpoint);
    Ok(Graphs {
        factors: [description.info.spatial_factor, description.info.temporal_factor.unwrap_or(1)],
        class_name: description.info.class_name,
        decoder: description.decoder.graph,
        still_decoder: description.decoder.still,
        encoder: can_encode.then_some(description.encoder.graph),
        still_encoder: description.encoder.still.filter(|_| can_encode),
    })
}

/// The configuration and the tensors of a model.
fn open(source: Source, options: &LoadOptions) -> Result<(Config, Checkpoint), LoadError> {
    let (mut config, checkpoint) = match source {
        Source::File(path) => single_file::open(&path, options)?,
        Source::Folder(folder) => match look_into(&folder)? {
            Found::Autoencoder(folder) => {
                let config = Config::read(&folder.join("config.json"))?;
                let mut checkpoint = Checkpoint::open(&folder)?;
                single_file::normalise(&mut checkpoint)?;
                (config, checkpoint)
            }
            Found::File(path) => single_file::open(&path, options)?,
        },
        Source::Embedded { config, weights } => (
            Config::parse("embedded/config.json", config)?,
            Checkpoint::embedded(Path::new("embedded/diffusion_pytorch_model.safetensors"), weights)?,
        ),
    };
    let Factors { scaling_factor, shift_factor, .. } = options.factors;
    for (key, factor) in [("scaling_factor", scaling_factor), ("shift_factor", shift_factor)] {
        if let Some(factor) = factor {
            config.set(key, factor);
        }
    }
    Ok((config, checkpoint))
}

/// What is in a folder.
enum Found {
    /// This folder has a configuration.
    Autoencoder(PathBuf),
    /// There is no configuration, but one file of weights.
    File(PathBuf),
}

/// Looks for the autoencoder. A pipeline's own folder may have a `config.json` too, so `vae/` goes first.
fn look_into(folder: &Path) -> Result<Found, LoadError> {
    let inside = folder.join("vae");
    for folder in [&inside, folder] {
        if folder.join("config.json").is_file() {
            return Ok(Found::Autoencoder(folder.to_path_buf()));
        }
    }
    let wrong = |message: String| LoadError::Config { path: folder.to_path_buf(), message };
    let mut files = weights_in(folder)?;
    if files.is_empty() && inside.is_dir() {
        files = weights_in(&inside)?;
    }
    // Shards are one model, which their index names.
    if let Some(index) = files.iter().find(|file| file.extension().is_some_and(|ending| ending == "json")) {
        return Ok(Found::File(index.clone()));
    }
    match files.as_slice() {
        [file] => Ok(Found::File(file.clone())),
        [] if folder.join("model_index.json").is_file() => Err(wrong(
            "the folder of a diffusers pipeline without its autoencoder: there is no vae/config.json; download the folder \
             vae/ too"
                .to_owned(),
        )),
        [] => Err(wrong(
            "no config.json here nor in vae/, and no file of weights; expected the folder of a diffusers autoencoder or \
             pipeline, or a file"
                .to_owned(),
        )),
        files => {
            let names = files.iter().filter_map(|file| file.file_name());
            let names: Vec<_> = names.take(SHOWN).map(|name| format!("{name:?}")).collect();
            let more = if files.len() > SHOWN { ", ..." } else { "" };
            Err(wrong(format!(
                "no config.json here nor in vae/, and {} files of weights: name one of them, {}{more}",
                files.len(),
                names.join(", ")
            )))
        }
    }
}
