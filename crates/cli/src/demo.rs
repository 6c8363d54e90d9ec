//! The embedded demonstration model, and latents to decode with it. `tools/train_demo_vae.py` made both.

use serde::Deserialize;

/// Name of the photograph whose latents are embedded.
pub(crate) const PHOTO: &str = "astronaut";

/// Its latents as the encoder gives them times `scaling_factor`: float16 `[1, 16, 64, 64]`, a picture of 512 x 512.
pub(crate) const LATENTS: &[u8] = include_bytes!("../../../assets/demo-latents/astronaut.safetensors");

/// Under which licence its weights are.
pub(crate) const LICENSE: &str = "Apache-2.0";

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
