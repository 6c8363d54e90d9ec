//! Files of programs that are known: how their latents are scaled. What each program does is in its source, see
//! docs/latents.md.

use std::path::Path;

use super::choose::Entry;

/// How the latents of a file are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FileScaling {
    /// As pipelines work with them: the model's own factors lead to what its decoder takes.
    Scaled,
    /// As the decoder takes them.
    Unscaled,
    /// Multiplied with this, whatever the model.
    By(f32),
    /// The file does not say.
    Unknown,
}

/// What is known of a file's latents by the program that wrote it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Its name.
    pub program: &'static str,
    /// What it does with the latents before it writes them.
    pub scaling: FileScaling,
    /// Whether it leaves out the batch axis.
    pub is_one_item: bool,
}

impl Layout {
    fn cache(program: &'static str, scaling: FileScaling) -> Option<Self> {
        Some(Self { program, scaling, is_one_item: true })
    }
}

/// What ComfyUI's `LoadLatent` divides by where a file is older than its marker.
const OLD_COMFYUI: f32 = 0.18215;

/// Of a safetensors file, by its metadata `said` and the names of its tensors.
pub(super) fn of_safetensors(
    path: &Path,
    entries: &[Entry],
    name: &str,
    said: impl Fn(&str) -> Option<String>,
) -> Option<Layout> {
    use FileScaling::{By, Scaled, Unscaled};
    if name == "latent_tensor" {
        let has_marker = entries.iter().any(|entry| entry.name == "latent_format_version_0");
        let scaling = if has_marker { Unscaled } else { By(OLD_COMFYUI) };
        return Some(Layout { program: "ComfyUI", scaling, is_one_item: false });
    }
    if let (true, Some(architecture)) = (name.starts_with("latents_"), said("architecture")) {
        let scaling = match architecture.as_str() {
            "hunyuan_video" | "hunyuan_video_1_5" | "z_image" => Unscaled,
            "wan" | "framepack" | "flux_kontext" | "kandinsky5" | "krea2" => Scaled,
            other if other.starts_with("flux_2") || other.starts_with("qwen_image") => Scaled,
            _ => FileScaling::Unknown,
        };
        return Layout::cache("musubi-tuner", scaling);
    }
    let in_its_folder = path.parent().is_some_and(|folder| folder.ends_with("_latent_cache"));
    if name == "latent" && (in_its_folder || said("latent_space_version").is_some()) {
        return Layout::cache("ai-toolkit", Scaled);
    }
    None
}

/// Of an .npz file: kohya's sd-scripts write sizes beside latents, and the model's name at the end of the file's.
pub(super) fn of_npz(path: &Path, entries: &[Entry], name: &str) -> Option<Layout> {
    use FileScaling::{Scaled, Unknown, Unscaled};
    let has = |start: &str| entries.iter().any(|entry| entry.name.starts_with(start));
    if !(name.starts_with("latents") && has("original_size") && has("crop_ltrb")) {
        return None;
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let scaling = match stem.rsplit_once('_').map(|(_, model)| model) {
        Some("sd" | "sdxl" | "sd3" | "hi") => Unscaled,
        Some("flux" | "lumina" | "anima") => Scaled,
        // Before file names bore the model, there were SD and SDXL.
        _ if name == "latents"
            && entries.iter().any(|entry| entry.name == name && entry.shape.first() == Some(&4)) =>
        {
            Unscaled
        }
        _ => Unknown,
    };
    Layout::cache("sd-scripts", scaling)
}

/// Of a .pt file: OneTrainer's cache of pictures.
pub(super) fn of_pt(name: &str) -> Option<Layout> {
    if name == "latent_image" { Layout::cache("OneTrainer", FileScaling::Unscaled) } else { None }
}
