//! Where in a file the autoencoder is, and what is beside it.

use super::original;
use crate::LoadError;
use crate::checkpoint::Checkpoint;

/// Where autoencoders are in full checkpoints: those of the original code bases, and those of newer models.
const PREFIXES: [&str; 3] = ["", "first_stage_model.", "vae."];

/// The first layer of every decoder of pictures that we know.
pub(super) const FIRST_LAYER: &str = "decoder.conv_in.weight";

/// The same of HunyuanVideo's, whose own files have diffusers' names too.
pub(super) const FIRST_VIDEO_LAYER: &str = "decoder.conv_in.conv.weight";

/// What training programs put before all names: Lightning, `DataParallel`, `torch.compile`.
const WRAPPERS: [&str; 4] = ["state_dict.", "model_state_dict.", "module.", COMPILED];

/// What `torch.compile` also puts between names.
const COMPILED: &str = "_orig_mod.";

/// First parts of names that may be beside an autoencoder's: what its training leaves, and other parts of a full checkpoint.
const LEFTOVERS: [&str; 14] = [
    // Discriminator and perceptual loss of latent diffusion's training.
    "loss",
    "discriminator",
    // Averaged weights, under names without dots.
    "model_ema",
    "model",
    "cond_stage_model",
    "conditioner",
    "text_encoder",
    "text_encoders",
    "text_encoder_2",
    "unet",
    "transformer",
    "optimizer",
    "optimizer_states",
    "lr_schedulers",
];

/// Takes off what training programs put before names. If there is a `state_dict`, the rest of the file is no part of it.
pub(super) fn unwrap(checkpoint: &mut Checkpoint) -> Result<(), LoadError> {
    let wrapped = checkpoint
        .names()
        .any(|name| name.contains(COMPILED) || WRAPPERS.iter().any(|wrapper| name.starts_with(wrapper)));
    if !wrapped {
        return Ok(());
    }
    let inner = WRAPPERS[..2].iter().find(|dict| checkpoint.names().any(|name| name.starts_with(**dict)));
    checkpoint.rename(|name| {
        let mut name = match inner {
            Some(dict) => name.strip_prefix(dict)?,
            None => name,
        };
        while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
            name = rest;
        }
        Some(name.replace(&format!(".{COMPILED}"), "."))
    })
}

/// Leaves the autoencoder alone, under diffusers' names; gives whether there is one.
pub(super) fn extract(checkpoint: &mut Checkpoint) -> Result<bool, LoadError> {
    let first = |prefix: &&str| {
        [FIRST_LAYER, FIRST_VIDEO_LAYER].iter().any(|layer| checkpoint.contains(&format!("{prefix}{layer}")))
    };
    let Some(prefix) = PREFIXES.into_iter().find(first) else { return Ok(false) };
    checkpoint.rename(|name| {
        let name = name.strip_prefix(prefix)?;
        let first = name.split('.').next().unwrap_or_default();
        (!LEFTOVERS.contains(&first)).then(|| name.to_owned())
    })?;
    original::rename(checkpoint)?;
    checkpoint.rename(|name| Some(original::todays_name(name)))?;
    Ok(true)
}

/// Refuses tensors that no layer has asked for: the model would not be the one that the file is of. `class` is that of the
/// model; names that end in one of `known` are those of tensors that are not needed.
pub(crate) fn refuse_unused(class: &str, known: &[&str], checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let decoder_only = !checkpoint.names().any(|name| name.starts_with("encoder."));
    let mut unused = checkpoint.unused();
    // Of an encoder that was left out.
    unused.retain(|name| !(decoder_only && name.starts_with("quant_conv.")));
    unused.retain(|name| !known.iter().any(|end| name.ends_with(end)));
    let Some(first) = unused.first() else { return Ok(()) };
    let others = match unused.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    Err(checkpoint.wrong(format!(
        "tensor `{}`{others} is no part of an {class} with this configuration: without it, pictures would be wrong",
        first.escape_debug()
    )))
}
