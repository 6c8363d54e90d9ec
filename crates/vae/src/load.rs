//! From a folder or embedded bytes to a model.

use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::VideoEngine;
use crate::{LoadError, Vae, families};

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder as diffusers saves it: of an autoencoder, or of a whole pipeline that has one in `vae/`.
    Folder(PathBuf),
    /// A model that is part of the program.
    Embedded {
        /// The content of `config.json`.
        config: &'static str,
        /// The content of `diffusion_pytorch_model.safetensors`.
        weights: &'static [u8],
    },
}

/// Loads a model and prepares its weights for `engine`.
///
/// # Errors
/// A [`LoadError`] that names the file and the key or tensor, what was found and what was expected.
pub fn load(source: Source, engine: impl VideoEngine) -> Result<Box<dyn Vae>, LoadError> {
    let (config, checkpoint) = match source {
        Source::Folder(folder) => {
            let folder = autoencoder_folder(&folder)?;
            (Config::read(&folder.join("config.json"))?, Checkpoint::open(&folder)?)
        }
        Source::Embedded { config, weights } => (
            Config::parse("embedded/config.json", config)?,
            Checkpoint::embedded(Path::new("embedded/diffusion_pytorch_model.safetensors"), weights)?,
        ),
    };
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
