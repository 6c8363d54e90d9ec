//! The `config.json` in the folder of a file, which may be that of another model: UIs keep many files in one folder.

use std::path::Path;

use super::shapes::Shapes;
use crate::config::Config;
use crate::files::has_config_beside;

/// What it is to the file.
pub(super) enum Beside {
    /// There is none of an autoencoder.
    Nothing,
    /// It is the file's own.
    Own(Config),
    /// It fits the tensors, but belongs to files of other names: what it says of the architecture can be taken, the factors
    /// can be those of another model.
    Fits(Config),
    /// It is of another model, for this reason.
    Other(String),
}

impl Beside {
    /// Looks into the folder of the file at `path`. `one_model` says that the folder is of one model only.
    pub(super) fn find(path: &Path, one_model: bool, shapes: &Shapes) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let owns = one_model || has_config_beside(name);
        // In the folder of a pipeline or of another model there may be one that means something else.
        let Ok(config) = Config::read(&path.with_file_name("config.json")) else { return Self::Nothing };
        let Ok(class) = config.class_name() else { return Self::Nothing };
        if !["Autoencoder", "VAE", "VQ"].iter().any(|part| class.contains(part)) {
            return Self::Nothing;
        }
        match shapes.difference(&config) {
            None if owns => Self::Own(config),
            None => Self::Fits(config),
            Some(difference) => Self::Other(difference),
        }
    }
}
