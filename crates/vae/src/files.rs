//! Which files an autoencoder is made of, under diffusers' names.

use std::path::{Path, PathBuf};

use crate::LoadError;

/// Where diffusers puts weights, in the order of preference: full precision, half precision, and either in shards.
pub(crate) const SINGLE_FILES: [&str; 2] =
    ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];
pub(crate) const INDEX_FILES: [&str; 2] =
    ["diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.fp16.json"];

/// The same as a pickle, as older repositories have it. Nothing in it is run, but the others go first.
pub(crate) const PICKLE: &str = "diffusion_pytorch_model.bin";

/// What is in the names of files that say which shard holds which tensor.
pub(crate) const INDEX_ENDING: &str = ".safetensors.index.";

/// Endings of files that weights may be in.
const ENDINGS: [&str; 6] = ["safetensors", "sft", "ckpt", "pt", "pth", "bin"];

/// Whether a file may hold weights, or is the index of shards, by its name.
pub fn is_weights_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
        || name.contains(INDEX_ENDING) && name.ends_with(".json")
}

/// Names of files in a message; of very many only the first.
pub(crate) const SHOWN: usize = 8;

/// The files in a folder that may hold weights, sorted.
pub(crate) fn weights_in(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |source| LoadError::Io { path: folder.to_path_buf(), source };
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = file.map_err(unreadable)?.path();
        if is_weights_file(&path) && path.is_file() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether `config.json` belongs to a file of this name where both lie in one folder: the names under which diffusers and
/// transformers save weights. Others may lie beside the configuration of another model.
pub(crate) fn has_config_beside(name: &str) -> bool {
    let stem = |stem: &str| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(['.', '-']));
    stem("diffusion_pytorch_model") || stem("pytorch_model") || stem("model")
}

/// Of how many shards the file `name` is one: `NAME-00001-of-00002.safetensors`.
pub(crate) fn shard_of(name: &str) -> Option<usize> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (_, index) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(index) && digits(count)).then(|| count.parse().ok()).flatten()
}

/// Those of `files`, paths in a repository, that belong to the one at `path`: the shards that an index may name, and the
/// configuration beside it.
pub fn companions<'a>(files: &[&'a str], path: &str) -> Vec<&'a str> {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let shards = name.split_once(INDEX_ENDING).map(|(stem, _)| format!("{stem}-"));
    let belongs = |file: &str| {
        let (here, other) = file.rsplit_once('/').map_or(("", file), |(folder, name)| (folder, name));
        let shard = shards.as_ref().is_some_and(|stem| other.starts_with(stem) && shard_of(other).is_some());
        here == folder && (other == "config.json" || shard)
    };
    files.iter().copied().filter(|file| belongs(file)).collect()
}

/// Whether a file has weights of some variant: `diffusion_pytorch_model.<variant>.safetensors`.
pub(crate) fn is_variant(name: &str) -> bool {
    name.strip_prefix("diffusion_pytorch_model.").is_some_and(|rest| rest.ends_with(".safetensors"))
}

/// Those of `files`, paths in a repository such as `vae/config.json`, that are needed to load the autoencoder in
/// `folder` (the repository itself when empty) or in `vae/` below it; `None` when it is not there, or not all of it.
///
/// What is chosen is what [`load`](crate::load()) takes when it is given the folder.
pub fn model_files<'a>(files: &[&'a str], folder: &str) -> Option<Vec<&'a str>> {
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    [format!("{folder}vae/"), folder].iter().find_map(|folder| {
        let here: Vec<(&str, &'a str)> = files
            .iter()
            .filter_map(|path| Some((path.strip_prefix(folder.as_str())?, *path)))
            .filter(|(name, _)| !name.contains('/'))
            .collect();
        let find = |wanted: &str| here.iter().find(|(name, _)| *name == wanted).map(|(_, path)| *path);
        let config = find("config.json")?;
        if let Some(weights) = SINGLE_FILES.iter().find_map(|name| find(name)) {
            return Some(vec![config, weights]);
        }
        if let Some(index) = INDEX_FILES.iter().find_map(|name| find(name)) {
            let fp16 = index.ends_with(".fp16.json");
            let shards: Vec<_> =
                here.iter().filter_map(|(name, path)| Some((shards(name, fp16)?, *path))).collect();
            let all = shards.first().is_some_and(|(count, _)| *count == shards.len());
            return all
                .then(|| [config, index].into_iter().chain(shards.iter().map(|(_, path)| *path)).collect());
        }
        match here.iter().filter(|(name, _)| is_variant(name)).collect::<Vec<_>>()[..] {
            [(_, weights)] => Some(vec![config, weights]),
            [] => find(PICKLE).map(|weights| vec![config, weights]),
            _ => None,
        }
    })
}

/// Of how many shards `name` is one.
fn shards(name: &str, fp16: bool) -> Option<usize> {
    let prefix = if fp16 { "diffusion_pytorch_model.fp16-" } else { "diffusion_pytorch_model-" };
    name.strip_prefix(prefix)?.strip_suffix(".safetensors")?.split_once("-of-")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "config.json";
    const FULL: &str = "diffusion_pytorch_model.safetensors";
    const HALF: &str = "diffusion_pytorch_model.fp16.safetensors";

    #[test]
    fn one_file_of_weights_is_enough() {
        assert_eq!(model_files(&[HALF, FULL, CONFIG, "README.md"], ""), Some(vec![CONFIG, FULL]));
        assert_eq!(model_files(&[HALF, CONFIG], ""), Some(vec![CONFIG, HALF]));
        let other = "diffusion_pytorch_model.bf16.safetensors";
        assert_eq!(model_files(&[other, CONFIG], ""), Some(vec![CONFIG, other]));
        assert_eq!(model_files(&[PICKLE, CONFIG], ""), Some(vec![CONFIG, PICKLE]));
        assert_eq!(model_files(&[PICKLE, FULL, CONFIG], ""), Some(vec![CONFIG, FULL]));
        for missing in [&[CONFIG][..], &[FULL], &[], &[CONFIG, "model.onnx"]] {
            assert_eq!(model_files(missing, ""), None, "{missing:?}");
        }
    }

    #[test]
    fn a_pipeline_has_it_in_vae() {
        let files =
            ["vae/config.json", CONFIG, "vae/diffusion_pytorch_model.safetensors", "unet/config.json"];
        let expected = Some(vec![files[0], files[2]]);
        assert_eq!(model_files(&files, ""), expected);
        assert_eq!(model_files(&files, "vae"), expected);
        assert_eq!(model_files(&files, "unet"), None);
        let deeper = ["a/b/vae/config.json", "a/b/vae/diffusion_pytorch_model.fp16.safetensors"];
        assert_eq!(model_files(&deeper, "a/b"), Some(deeper.to_vec()));
        assert_eq!(model_files(&deeper, "a"), None);
    }

    #[test]
    fn a_configuration_belongs_to_the_names_that_diffusers_writes() {
        for name in [
            FULL,
            HALF,
            PICKLE,
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
        ] {
            assert!(has_config_beside(name), "{name}");
        }
        for name in
            ["ae.safetensors", "my-sd-vae.safetensors", "models.safetensors", "modelv2.ckpt", "my_model.pt"]
        {
            assert!(!has_config_beside(name), "{name}");
        }
    }

    #[test]
    fn an_index_has_its_shards_and_a_file_its_configuration() {
        let index = "vae/x.safetensors.index.json";
        let files = [
            "vae/x-00001-of-00002.safetensors",
            "vae/x-00002-of-00002.safetensors",
            "vae/y-00001-of-00002.safetensors",
            "vae/config.json",
            "config.json",
            index,
        ];
        assert_eq!(companions(&files, index), [files[0], files[1], files[3]]);
        assert_eq!(companions(&files, "ae.safetensors"), ["config.json"]);
        assert_eq!(shard_of("x-00001-of-00012.safetensors"), Some(12));
        for name in ["x.safetensors", "one-of-two.safetensors", "x-1-of-2.bin", "-of-.safetensors"] {
            assert_eq!(shard_of(name), None, "{name}");
        }
        for name in ["a.sft", "B.CKPT", index, "x/y.bin"] {
            assert!(is_weights_file(Path::new(name)), "{name}");
        }
        for name in ["a.onnx", "config.json", "safetensors", "a.gguf"] {
            assert!(!is_weights_file(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn shards_come_together_or_not_at_all() {
        let index = "diffusion_pytorch_model.safetensors.index.json";
        let shard = [
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
        ];
        let files = [CONFIG, index, shard[0], shard[1]];
        assert_eq!(model_files(&files, ""), Some(files.to_vec()));
        assert_eq!(model_files(&files[..3], ""), None);
        assert_eq!(model_files(&files[..2], ""), None);
    }
}
