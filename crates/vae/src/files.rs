//! Which files an autoencoder is made of, under diffusers' names.

/// Where diffusers puts weights, in the order of preference: full precision, half precision, and either in shards.
pub(crate) const SINGLE_FILES: [&str; 2] =
    ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];
pub(crate) const INDEX_FILES: [&str; 2] =
    ["diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.fp16.json"];

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
        for missing in [&[CONFIG][..], &[FULL], &[], &[CONFIG, "diffusion_pytorch_model.bin"]] {
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
