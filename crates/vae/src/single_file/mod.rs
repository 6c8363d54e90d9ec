//! Autoencoders that come as one file, without a configuration of their own.
//!
//! Three things are found out from names and shapes, before any tensor is read: where in the file the autoencoder is
//! (`first_stage_model.` or `vae.` in a full checkpoint), whether its layers have diffusers' names or the original ones,
//! and its configuration. The shapes tell all of the architecture but the groups of its norms. They do not tell the factors
//! by which latents are scaled: those are known for the model that the rest of a full checkpoint belongs to, and otherwise
//! assumed, which is said in the log and of the loaded model.

mod beside;
mod factors;
pub(crate) mod kinds;
pub(crate) mod layout;
mod original;
mod shapes;

use std::path::Path;

use tracing::{info, warn};

use self::beside::Beside;
use self::factors::{Found, Model};
use self::layout::FIRST_LAYER;
use self::shapes::Shapes;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::{Factors, LoadError, LoadOptions};

/// What a configuration says of factors.
const FACTOR_KEYS: [&str; 4] = ["scaling_factor", "shift_factor", "latents_mean", "latents_std"];

/// Opens the file at `path`.
pub(crate) fn open(path: &Path, options: &LoadOptions) -> Result<(Config, Checkpoint), LoadError> {
    let mut checkpoint = Checkpoint::open_file(path)?;
    layout::unwrap(&mut checkpoint)?;
    let model = Model::of(&checkpoint);
    if !layout::extract(&mut checkpoint)? {
        let error = checkpoint.wrong(format!(
            "no autoencoder that can be served: there is no tensor `{FIRST_LAYER}`, neither as it is nor after \
             `first_stage_model.` or `vae.`"
        ));
        return Err(kinds::explained(error, &checkpoint));
    }
    match configure(path, options, model, &checkpoint) {
        Ok(config) => Ok((config, checkpoint)),
        Err(error) => Err(kinds::explained(error, &checkpoint)),
    }
}

/// Takes wrappers, prefixes and original names away, as in a single file, in a checkpoint that comes with its configuration.
pub(crate) fn normalise(checkpoint: &mut Checkpoint) -> Result<(), LoadError> {
    layout::unwrap(checkpoint)?;
    layout::extract(checkpoint).map(drop)
}

/// The configuration of an autoencoder: that beside its file, if it is the file's own, else what its tensors tell.
fn configure(
    path: &Path,
    options: &LoadOptions,
    model: Model,
    checkpoint: &Checkpoint,
) -> Result<Config, LoadError> {
    let shapes = Shapes::of(checkpoint)?;
    let beside = Beside::find(path, options.one_model, &shapes);
    if let Beside::Own(config) = beside {
        info!("{}: config.json beside it is its configuration", path.display());
        return Ok(config);
    }
    let said = match &beside {
        Beside::Fits(config) => Some(Factors {
            // What diffusers takes where nothing is said.
            scaling_factor: config
                .number("scaling_factor", if shapes.is_video { 0.476_986 } else { 0.18215 })
                .ok(),
            shift_factor: config.optional_number("shift_factor").ok().flatten(),
            pipeline: None,
        }),
        _ => None,
    };
    let Found { known, conclusion, is_guess } =
        factors::find(model, &shapes, options.factors, said, checkpoint)?;
    let passed_over = match (&beside, said) {
        (Beside::Other(difference), _) => {
            format!(" (config.json beside it is not used: {difference})")
        }
        (_, Some(Factors { scaling_factor: Some(other), .. })) if other != known.scaling_factor => format!(
            " (config.json beside it says scaling_factor {other}, but belongs to files of other names; if it is of this \
             file, write FILE,scaling_factor={other})"
        ),
        _ => String::new(),
    };
    let mut config = match beside {
        // It fits, and says what no tensor tells, such as the groups of norms.
        Beside::Fits(mut config) => {
            FACTOR_KEYS.iter().for_each(|key| config.remove(key));
            config
        }
        // There is one model of this family, and its configuration is what diffusers takes where nothing is said.
        _ if shapes.is_video => Config::of_class(path, shapes.class_name()),
        _ => Config::of(path, shapes.config(&known)),
    };
    config.set("scaling_factor", known.scaling_factor);
    if let Some(shift) = known.shift_factor {
        config.set("shift_factor", shift);
    }
    if let Some(conclusion) = conclusion {
        let conclusion = format!("{conclusion}{passed_over}");
        if is_guess {
            warn!("{}: {conclusion}", path.display());
        } else {
            info!("{}: {conclusion}", path.display());
        }
        config.conclude(conclusion);
    }
    Ok(config)
}
