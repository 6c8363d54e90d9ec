//! The embedded demonstration model, and latents to decode with it. `tools/train_demo_vae.py` made both.

/// Name of the photograph whose latents are embedded.
pub(crate) const PHOTO: &str = "astronaut";

/// Its latents as the encoder gives them times `scaling_factor`: float16 `[1, 16, 64, 64]`, a picture of 512 x 512.
pub(crate) const LATENTS: &[u8] = include_bytes!("../../../assets/demo-latents/astronaut.safetensors");

/// The demonstration model.
pub(crate) fn model() -> vae::Source {
    vae::Source::Embedded {
        config: include_str!("../../../assets/demo-vae/config.json"),
        weights: include_bytes!("../../../assets/demo-vae/diffusion_pytorch_model.safetensors"),
    }
}
