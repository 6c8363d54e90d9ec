//! Models by a short name.

use super::HubPath;

/// A checkpoint on the hub, and what is known of it before it is loaded.
#[derive(Debug, PartialEq)]
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    /// What else people type.
    aliases: &'static [&'static str],
    repo: &'static str,
    path: &'static str,
    /// As in diffusers.
    pub(crate) class_name: &'static str,
    pub(crate) latent_channels: usize,
    /// Whether it is a model of videos.
    is_video: bool,
    /// Whether it is a small one for previews.
    is_tiny: bool,
    /// `scaling_factor` and `shift_factor`, for a model that has them. They are said here too: not every configuration in
    /// these repositories states them.
    pub(crate) factors: Option<(f32, Option<f32>)>,
    /// The licence that the repository states for its weights.
    pub(crate) license: &'static str,
}

impl Preset {
    const fn new(
        name: &'static str,
        [repo, path]: [&'static str; 2],
        class_name: &'static str,
        latent_channels: usize,
        license: &'static str,
    ) -> Self {
        Self {
            name,
            aliases: &[],
            repo,
            path,
            class_name,
            latent_channels,
            is_video: false,
            is_tiny: false,
            factors: None,
            license,
        }
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn factors(self, scaling_factor: f32, shift_factor: Option<f32>) -> Self {
        Self { factors: Some((scaling_factor, shift_factor)), ..self }
    }

    const fn of_videos(self) -> Self {
        Self { is_video: true, ..self }
    }

    const fn tiny(self) -> Self {
        Self { is_tiny: true, ..self }
    }
}

const KL: &str = "AutoencoderKL";
const FLUX2: &str = "AutoencoderKLFlux2";
const TINY: &str = "AutoencoderTiny";
const WAN: &str = "AutoencoderKLWan";

/// All of them, whether or not this build can run them. Repositories are those that diffusers' documentation and its conversion
/// scripts name.
const PRESETS: [Preset; 15] =
    [
        Preset::new("sd-v1", ["stabilityai/sd-vae-ft-mse", ""], KL, 4, "MIT")
            .factors(0.18215, None)
            .aliases(&["sd", "sd15", "sd1.5"]),
        Preset::new("sdxl", ["madebyollin/sdxl-vae-fp16-fix", ""], KL, 4, "MIT").factors(0.13025, None),
        Preset::new("flux", ["black-forest-labs/FLUX.1-schnell", "vae"], KL, 16, "Apache-2.0")
            .factors(0.3611, Some(0.1159))
            .aliases(&["flux1", "flux.1", "ae"]),
        Preset::new("z-image", ["Tongyi-MAI/Z-Image-Turbo", "vae"], KL, 16, "Apache-2.0")
            .factors(0.3611, Some(0.1159))
            .aliases(&["zimage", "z-image-turbo"]),
        Preset::new("flux2", ["black-forest-labs/FLUX.2-klein-4B", "vae"], FLUX2, 32, "Apache-2.0")
            .aliases(&["flux.2", "klein", "flux2-klein"]),
        Preset::new("flux2-small", ["black-forest-labs/FLUX.2-small-decoder", ""], FLUX2, 32, "Apache-2.0")
            .aliases(&["flux.2-small", "flux2-small-decoder"]),
        Preset::new("qwen-image", ["Qwen/Qwen-Image", "vae"], "AutoencoderKLQwenImage", 16, "Apache-2.0")
            .aliases(&["qwen", "qwenimage"]),
        Preset::new(
            "hunyuan-video",
            ["hunyuanvideo-community/HunyuanVideo", "vae"],
            "AutoencoderKLHunyuanVideo",
            16,
            "tencent-hunyuan-community",
        )
        .factors(0.476986, None)
        .of_videos()
        .aliases(&["hunyuanvideo"]),
        Preset::new("wan2.1", ["Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "vae"], WAN, 16, "Apache-2.0")
            .of_videos()
            .aliases(&["wan", "wan21", "wan2.2-14b"]),
        Preset::new("wan2.2-5b", ["Wan-AI/Wan2.2-TI2V-5B-Diffusers", "vae"], WAN, 48, "Apache-2.0")
            .of_videos()
            .aliases(&["wan22-5b", "wan2.2-ti2v-5b"]),
        Preset::new("taesd", ["madebyollin/taesd", ""], TINY, 4, "MIT").tiny(),
        Preset::new("taesdxl", ["madebyollin/taesdxl", ""], TINY, 4, "MIT").tiny(),
        Preset::new("taesd3", ["madebyollin/taesd3", ""], TINY, 16, "MIT").tiny(),
        Preset::new("taef1", ["madebyollin/taef1", ""], TINY, 16, "MIT").tiny(),
        Preset::new(
            "qwen-image-2.1",
            ["Qwen/Qwen-Image-2.1", "vae"],
            "AutoencoderKLQwenImage21",
            64,
            "see its repository",
        ),
    ];

impl Preset {
    /// Those whose family this build has.
    pub(crate) fn all() -> impl Iterator<Item = &'static Self> {
        PRESETS.iter().filter(|preset| vae::CLASS_NAMES.contains(&preset.class_name))
    }

    /// The preset `name`.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        Self::all().find(|preset| preset.name == name || preset.aliases.contains(&name))
    }

    /// Those whose latents have this shape: `[B, C, h, w]`, for videos `[B, C, f, h, w]`. None for other shapes.
    pub(crate) fn of_latents(shape: &[usize]) -> impl Iterator<Item = &'static Self> {
        let (channels, video) = match *shape {
            [_, channels, _, _] => (channels, false),
            [_, channels, _, _, _] => (channels, true),
            _ => (0, false),
        };
        Self::all().filter(move |preset| {
            preset.latent_channels == channels && preset.is_video == video && !preset.is_tiny
        })
    }

    /// Where its files are.
    pub(crate) fn place(&self) -> HubPath {
        HubPath { repo: self.repo.to_owned(), path: self.path.to_owned(), revision: None }
    }

    /// The factors of its model.
    pub(crate) fn known(&self) -> vae::Factors {
        let (scaling_factor, shift_factor) = self.factors.unzip();
        vae::Factors { scaling_factor, shift_factor: shift_factor.flatten(), pipeline: None }
    }
}
