//! The embedded demonstration model, and latents to decode with it. `tools/train_demo_vae.py` made both.

use client::Tensor;
use serde::Deserialize;

use crate::source::Preset;

/// Name of the photograph whose latents are embedded.
pub(crate) const PHOTO: &str = "astronaut";

/// Its latents as the encoder gives them times `scaling_factor`: float16 `[1, 16, 64, 64]`, a picture of 512 x 512.
pub(crate) const LATENTS: &[u8] = include_bytes!("../../../assets/demo-latents/astronaut.safetensors");

/// Under which licence its weights are.
pub(crate) const LICENSE: &str = "Apache-2.0";

/// What is said of an encode for which nobody has named a model.
pub(crate) const NOTE_OF_ENCODE: &str = "`demo`, the embedded demonstration model, encodes, as neither --model nor \
    --endpoint is given: no other model can decode its latents; name one, such as --model sdxl (`remote-vae models` lists \
    names)";

/// What is said of a decode of latents of this shape for which nobody has named a model.
pub(crate) fn note_of_decode(shape: &[usize]) -> String {
    let fitting = Preset::of_latents(shape).next().map_or("sdxl", |preset| preset.name);
    format!(
        "`demo`, the embedded demonstration model, decodes, as neither --model nor --endpoint is given: latents of any other \
         model become noise; name theirs, such as --model {fitting} (`remote-vae models` lists names)"
    )
}

/// Whether these are its own latents.
pub(crate) fn is_example(latents: &Tensor) -> bool {
    latents::from_safetensors(LATENTS, None).is_ok_and(|own| own == *latents)
}

/// Its configuration.
const CONFIG: &str = include_str!("../../../assets/demo-vae/config.json");

/// What its configuration says, for a list.
#[derive(Deserialize)]
pub(crate) struct Facts {
    #[serde(rename = "_class_name")]
    pub(crate) class_name: String,
    pub(crate) latent_channels: usize,
    pub(crate) scaling_factor: f32,
    pub(crate) shift_factor: Option<f32>,
}

/// What the configuration says.
pub(crate) fn facts() -> anyhow::Result<Facts> {
    Ok(serde_json::from_str(CONFIG)?)
}

/// The demonstration model.
pub(crate) fn model() -> vae::Source {
    vae::Source::Embedded {
        config: CONFIG,
        weights: include_bytes!("../../../assets/demo-vae/diffusion_pytorch_model.safetensors"),
    }
}
