//! Models by a short name: the checkpoints that diffusers' Remote VAEs served.

use super::HubPath;

/// A checkpoint on the hub, and what is known of it before it is loaded.
#[derive(Debug, PartialEq)]
pub(crate) struct Preset {
    pub(crate) name: &'static str,
    pub(crate) repo: &'static str,
    pub(crate) path: &'static str,
    /// As in diffusers.
    pub(crate) class_name: &'static str,
    pub(crate) latent_channels: usize,
    /// Whether it is a model of videos.
    pub(crate) is_video: bool,
    /// The factors are said here too: not every configuration in these repositories states them.
    pub(crate) scaling_factor: f32,
    pub(crate) shift_factor: Option<f32>,
    /// The licence that the repository states for its weights.
    pub(crate) license: &'static str,
}

/// All of them, whether or not this build can run them.
const PRESETS: [Preset; 4] = [
    Preset {
        name: "sd-v1",
        repo: "stabilityai/sd-vae-ft-mse",
        path: "",
        class_name: "AutoencoderKL",
        latent_channels: 4,
        is_video: false,
        scaling_factor: 0.18215,
        shift_factor: None,
        license: "MIT",
    },
    Preset {
        name: "sdxl",
        repo: "madebyollin/sdxl-vae-fp16-fix",
        path: "",
        class_name: "AutoencoderKL",
        latent_channels: 4,
        is_video: false,
        scaling_factor: 0.13025,
        shift_factor: None,
        license: "MIT",
    },
    Preset {
        name: "flux",
        repo: "black-forest-labs/FLUX.1-schnell",
        path: "vae",
        class_name: "AutoencoderKL",
        latent_channels: 16,
        is_video: false,
        scaling_factor: 0.3611,
        shift_factor: Some(0.1159),
        license: "Apache-2.0",
    },
    Preset {
        name: "hunyuan-video",
        repo: "hunyuanvideo-community/HunyuanVideo",
        path: "vae",
        class_name: "AutoencoderKLHunyuanVideo",
        latent_channels: 16,
        is_video: true,
        scaling_factor: 0.476986,
        shift_factor: None,
        license: "tencent-hunyuan-community",
    },
];

impl Preset {
    /// Those whose family this build has.
    pub(crate) fn all() -> impl Iterator<Item = &'static Self> {
        PRESETS.iter().filter(|preset| vae::CLASS_NAMES.contains(&preset.class_name))
    }

    /// The preset `name`.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        Self::all().find(|preset| preset.name == name)
    }

    /// Those whose latents have this shape: `[B, C, h, w]`, for videos `[B, C, f, h, w]`. None for other shapes.
    pub(crate) fn of_latents(shape: &[usize]) -> impl Iterator<Item = &'static Self> {
        let (channels, video) = match *shape {
            [_, channels, _, _] => (channels, false),
            [_, channels, _, _, _] => (channels, true),
            _ => (0, false),
        };
        Self::all().filter(move |preset| preset.latent_channels == channels && preset.is_video == video)
    }

    /// Where its files are.
    pub(crate) fn place(&self) -> HubPath {
        HubPath { repo: self.repo.to_owned(), path: self.path.to_owned(), revision: None }
    }

    /// The factors of its model.
    pub(crate) fn factors(&self) -> vae::Factors {
        vae::Factors {
            scaling_factor: Some(self.scaling_factor),
            shift_factor: self.shift_factor,
            pipeline: None,
        }
    }
}
