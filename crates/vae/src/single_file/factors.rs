//! By what latents are scaled, which no tensor says.

use super::shapes::Shapes;
use crate::checkpoint::Checkpoint;
use crate::{Factors, LoadError};

/// What `config.json` would say besides the architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known {
    /// Whose factors they are, for people.
    name: &'static str,
    latent_channels: usize,
    pub(super) scaling_factor: f32,
    pub(super) shift_factor: Option<f32>,
    /// Side of the pictures that the model was trained on; decides the size of tiles.
    pub(super) sample_size: usize,
}

/// As in the configurations of their repositories for diffusers.
const SD_V1: Known = Known::new("Stable Diffusion v1 and v2", 4, 0.18215, None, 512);
const SDXL: Known = Known::new("SDXL", 4, 0.13025, None, 1024);
const UPSCALER: Known = Known::new("the Stable Diffusion upscaler", 4, 0.08333, None, 256);
const SD3: Known = Known::new("Stable Diffusion 3", 16, 1.5305, Some(0.0609), 1024);
const HUNYUAN_VIDEO: Known = Known::new("HunyuanVideo", 16, 0.476_986, None, 256);
const FLUX2: Known = Known::new("FLUX.2", 32, 1.0, None, 1024);
const FLUX: Known = Known::new("Flux", 16, 0.3611, Some(0.1159), 1024);

impl Known {
    const fn new(
        name: &'static str,
        latent_channels: usize,
        scaling_factor: f32,
        shift_factor: Option<f32>,
        sample_size: usize,
    ) -> Self {
        Self { name, latent_channels, scaling_factor, shift_factor, sample_size }
    }

    /// For people: `scaling_factor 0.3611 and shift_factor 0.1159`.
    fn factors(&self) -> String {
        let shift = self.shift_factor.map(|shift| format!(" and shift_factor {shift}")).unwrap_or_default();
        format!("scaling_factor {}{shift}", self.scaling_factor)
    }

    /// What goes with [`Known::factors`] as a subject.
    fn verb(&self) -> &'static str {
        if self.shift_factor.is_some() { "are taken" } else { "is taken" }
    }
}

/// The model that the rest of a full checkpoint is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Model {
    Known(Known),
    /// Scales each channel by itself, with numbers that are in its pipeline's configuration.
    Playground,
    /// There is nothing but an autoencoder, or nothing that we know.
    Unknown,
}

impl Model {
    /// Looks for the tensors by which diffusers tells models apart (`CHECKPOINT_KEY_NAMES`), or, where only their parts
    /// matter, for the parts.
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let any = |part: &str| checkpoint.names().any(|name| name.contains(part));
        let unet = |name: &str| checkpoint.contains(&format!("model.diffusion_model.{name}"));
        // What SDXL and its refiner embed, sizes and crops among it; checkpoints without text encoders have only that.
        let sizes_and_crops = checkpoint
            .shape("model.diffusion_model.label_emb.0.0.weight")
            .is_some_and(|shape| matches!(shape, [_, 2816 | 2560]));
        if checkpoint.contains("edm_mean") {
            Self::Playground
        } else if any("conditioner.embedders.") || sizes_and_crops {
            Self::Known(SDXL)
        } else if unet("input_blocks.10.0.skip_connection.bias") {
            Self::Known(UPSCALER)
        } else if any("cond_stage_model.") || unet("output_blocks.11.0.skip_connection.weight") {
            Self::Known(SD_V1)
        } else if any("joint_blocks.0.") {
            Self::Known(SD3)
        } else if any("double_blocks.0.") || any("cap_embedder.") {
            // Flux and Chroma, Lumina 2 and Z-Image.
            Self::Known(FLUX)
        } else {
            Self::Unknown
        }
    }
}

/// By what latents are scaled, and how sure that is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) known: Known,
    /// What was concluded, in one sentence; `None` where the user has said it.
    pub(super) conclusion: Option<String>,
    /// Whether it may be wrong.
    pub(super) is_guess: bool,
}

/// The factors of the autoencoder with these `shapes` in a checkpoint of `model`. `beside` are those of a configuration that
/// may be of another model.
///
/// # Errors
/// Neither known nor given.
pub(super) fn find(
    model: Model,
    shapes: &Shapes,
    given: Factors,
    beside: Option<Factors>,
    checkpoint: &Checkpoint,
) -> Result<Found, LoadError> {
    if model == Model::Playground {
        return Err(checkpoint.wrong(
            "Playground v2.5 scales latents by numbers that are not in this file; load the folder of its diffusers \
             version instead"
                .to_owned(),
        ));
    }
    if shapes.has_statistics {
        // It has no factors.
        return Ok(Found { known: FLUX2, conclusion: None, is_guess: false });
    }
    let channels = shapes.latent_channels;
    let quantised = shapes.use_quant_conv == Some(true) || shapes.use_post_quant_conv;
    let likely = match model {
        _ if shapes.is_video => Some(HUNYUAN_VIDEO),
        // A newer model may have the tensors by which its predecessor is known, but not its latents.
        Model::Known(known) => Some(known).filter(|known| known.latent_channels == channels),
        _ if channels == 4 && quantised => Some(SD_V1),
        _ if channels == 16 && !quantised => Some(FLUX),
        _ => None,
    };
    if given.scaling_factor.is_some() {
        // The rest of what is known may stay: whoever needs another shift says so too.
        let known = likely.unwrap_or(Known::new("", channels, 1.0, None, 512));
        return Ok(Found { known, conclusion: None, is_guess: false });
    }
    let Some(known) = likely else {
        let Some(Factors { scaling_factor: Some(scaling_factor), shift_factor, .. }) = beside else {
            return Err(checkpoint.wrong(format!(
                "nothing in this file tells by which factor its {channels}-channel latents are scaled; give it after the \
                 file: FILE,scaling_factor=NUMBER (and ,shift_factor=NUMBER if there is one)"
            )));
        };
        let known = Known::new("the config.json beside it", channels, scaling_factor, shift_factor, 512);
        let conclusion = format!(
            "{} of the config.json beside it {}, which belongs to files of other names but fits",
            known.factors(),
            known.verb()
        );
        return Ok(Found { known, conclusion: Some(conclusion), is_guess: true });
    };
    let (name, factors) = (known.name, known.factors());
    let (conclusion, is_guess) = match model {
        _ if shapes.is_video => (format!("{factors} of {name}, whose tensors these are"), false),
        Model::Known(_) => (format!("{factors}: the checkpoint is of {name}"), false),
        _ if known == SD_V1 => (
            format!(
                "{factors} of {name} is assumed: this file may as well be of SDXL, whose autoencoder has the same shapes; \
                 for SDXL write FILE,scaling_factor={}",
                SDXL.scaling_factor
            ),
            true,
        ),
        _ => (
            format!(
                "{factors} of {name} are assumed; for Stable Diffusion 3, whose autoencoder has the same shapes, write \
                 FILE,scaling_factor={},shift_factor={}",
                SD3.scaling_factor,
                SD3.shift_factor.unwrap_or_default()
            ),
            true,
        ),
    };
    Ok(Found { known, conclusion: Some(conclusion), is_guess })
}
