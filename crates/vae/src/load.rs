//! From a folder or embedded bytes to a model.

use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::VideoEngine;
use crate::{LoadError, Vae, families, single_file};

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder as diffusers saves it: of an autoencoder, or of a whole pipeline that has one in `vae/`.
    Folder(PathBuf),
    /// A `.safetensors` file: an autoencoder in diffusers' layout or in the original one, alone or inside of a full
    /// checkpoint. A `config.json` beside it that is an autoencoder's is used; else the tensors tell.
    File(PathBuf),
    /// A model that is part of the program.
    Embedded {
        /// The content of `config.json`.
        config: &'static str,
        /// The content of `diffusion_pytorch_model.safetensors`.
        weights: &'static [u8],
    },
}

/// The factors of a model's configuration, where its user knows better.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// In the place of `scaling_factor`.
    pub scaling_factor: Option<f32>,
    /// In the place of `shift_factor`.
    pub shift_factor: Option<f32>,
}

/// Loads a model and prepares its weights for `engine`.
///
/// # Errors
/// A [`LoadError`] that names the file and the key or tensor, what was found and what was expected.
pub fn load(source: Source, engine: impl VideoEngine) -> Result<Box<dyn Vae>, LoadError> {
    load_with(source, Factors::default(), engine)
}

/// [`load`] with other factors than those of the configuration.
///
/// # Errors
/// Those of [`load`].
pub fn load_with(
    source: Source,
    factors: Factors,
    engine: impl VideoEngine,
) -> Result<Box<dyn Vae>, LoadError> {
    let (mut config, checkpoint) = match source {
        Source::File(path) => single_file::open(&path, factors)?,
        Source::Folder(folder) => {
            let folder = autoencoder_folder(&folder)?;
            (Config::read(&folder.join("config.json"))?, Checkpoint::open(&folder)?)
        }
        Source::Embedded { config, weights } => (
            Config::parse("embedded/config.json", config)?,
            Checkpoint::embedded(Path::new("embedded/diffusion_pytorch_model.safetensors"), weights)?,
        ),
    };
    let Factors { scaling_factor, shift_factor } = factors;
    for (key, factor) in [("scaling_factor", scaling_factor), ("shift_factor", shift_factor)] {
        if let Some(factor) = factor {
            config.set(key, factor);
        }
    }
    families::load(&config, &checkpoint, engine)
}

/// The folder that holds the autoencoder. A pipeline's own folder may have a `config.json` too, so `vae/` goes first.
fn autoencoder_folder(folder: &Path) -> Result<PathBuf, LoadError> {
    let inside = folder.join("vae");
    if inside.join("config.json").is_file() {
        return Ok(inside);
    }
    if folder.join("config.json").is_file() {
        return Ok(folder.to_path_buf());
    }
    // Whether the folder can be read at all is the first question.
    std::fs::read_dir(folder).map_err(|source| LoadError::Io { path: folder.to_path_buf(), source })?;
    Err(LoadError::Config {
        path: folder.to_path_buf(),
        message:
            "no config.json here nor in vae/, expected the folder of a diffusers autoencoder or pipeline"
                .into(),
    })
}
