//! Where models may lie, and what is said of those that cannot be loaded.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use common::{Case, case, error};
use remote_vae_vae::device::reference::Reference;
use remote_vae_vae::{DecodeOptions, LoadError, Silent, Source, load};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use tempfile::{TempDir, tempdir};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// The tensors of a checkpoint, to be changed and written again.
type Tensors = HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

fn write(tensors: &Tensors, path: &Path) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

/// A copy of a golden checkpoint that a test may change.
fn copy(case: &Case) -> TempDir {
    let folder = tempdir().unwrap();
    for name in ["config.json", WEIGHTS] {
        fs::copy(case.folder.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// Loads `folder` and checks that it decodes as the golden case does.
fn assert_decodes(folder: &Path, case: &Case) {
    let mut vae = load(Source::Folder(folder.to_path_buf()), Reference::default()).unwrap();
    let sample = vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap();
    assert!(error(&sample, &case.golden["sample"]) < 1e-4);
}

/// Checks that `folder` is refused with a message that has all these parts.
fn assert_refused(folder: &Path, parts: &[&str]) {
    let message =
        load(Source::Folder(folder.to_path_buf()), Reference::default()).map(drop).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// Checks what is said of the golden checkpoint `faint` after a change to its tensors.
fn assert_refused_after(change: impl FnOnce(&mut Tensors), parts: &[&str]) {
    let folder = copy(&case("faint"));
    let path = folder.path().join(WEIGHTS);
    let mut tensors = read(&path);
    change(&mut tensors);
    write(&tensors, &path);
    assert_refused(folder.path(), parts);
    assert_refused(folder.path(), &[path.to_str().unwrap()]);
}

#[test]
fn a_pipeline_folder_has_its_autoencoder_in_vae() {
    let case = case("faint");
    let vae = copy(&case);
    let pipeline = tempdir().unwrap();
    fs::rename(vae.path(), pipeline.path().join("vae")).unwrap();
    fs::write(pipeline.path().join("config.json"), r#"{"_class_name": "SomethingElse"}"#).unwrap();
    assert_decodes(pipeline.path(), &case);
}

#[test]
fn weights_are_found_under_every_name_that_diffusers_gives_them() {
    let case = case("faint");
    for name in ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16.safetensors"] {
        let folder = copy(&case);
        fs::rename(folder.path().join(WEIGHTS), folder.path().join(name)).unwrap();
        assert_decodes(folder.path(), &case);
    }
    // The full precision goes first: the other file here is no model at all.
    let folder = copy(&case);
    fs::write(folder.path().join("diffusion_pytorch_model.fp16.safetensors"), "").unwrap();
    assert_decodes(folder.path(), &case);
}

#[test]
fn sharded_weights_are_put_together() {
    let case = case("faint");
    let folder = copy(&case);
    let path = folder.path().join(WEIGHTS);
    let tensors = read(&path);
    fs::remove_file(&path).unwrap();
    let shard = |name: &str| if name.contains("bias") { "b.safetensors" } else { "a.safetensors" };
    for file in ["a.safetensors", "b.safetensors"] {
        let part = tensors.iter().filter(|(name, _)| shard(name) == file);
        write(
            &part.map(|(name, tensor)| (name.clone(), tensor.clone())).collect(),
            &folder.path().join(file),
        );
    }
    let index = folder.path().join("diffusion_pytorch_model.safetensors.index.json");
    let map: HashMap<_, _> = tensors.keys().map(|name| (name, shard(name))).collect();
    fs::write(&index, serde_json::json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    assert_decodes(folder.path(), &case);

    fs::write(&index, r#"{"weight_map": {"x": "../a.safetensors"}}"#).unwrap();
    assert_refused(folder.path(), &["index.json", "../a.safetensors", "not the name of a file"]);
    fs::write(&index, r#"{"weight_map": {"x": "c.safetensors"}}"#).unwrap();
    assert_refused(folder.path(), &["cannot read", "c.safetensors"]);
    fs::write(&index, "[]").unwrap();
    assert_refused(folder.path(), &["index.json", "not an index"]);
}

#[test]
fn an_embedded_model_needs_no_file() {
    let case = case("flux-like");
    let leak = |name: &str| -> &'static [u8] { fs::read(case.folder.join(name)).unwrap().leak() };
    let config = str::from_utf8(leak("config.json")).unwrap();
    let weights = leak("diffusion_pytorch_model.fp16.safetensors");
    let mut vae = load(Source::Embedded { config, weights }, Reference::default()).unwrap();
    let sample = vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap();
    assert!(error(&sample, &case.golden["sample"]) < 1e-4);

    let result =
        load(Source::Embedded { config, weights: &weights[..weights.len() - 1] }, Reference::default());
    assert!(result.map(drop).unwrap_err().to_string().contains("embedded/"));
}

#[test]
fn folders_without_a_model_say_what_is_missing() {
    let empty = tempdir().unwrap();
    assert_refused(empty.path(), &["no config.json", "vae/", empty.path().to_str().unwrap()]);
    assert_refused(&empty.path().join("nowhere"), &["cannot read", "nowhere"]);

    let folder = copy(&case("faint"));
    let path = folder.path().join(WEIGHTS);
    fs::remove_file(&path).unwrap();
    assert_refused(folder.path(), &["no weights here", WEIGHTS, "fp16"]);
    fs::write(folder.path().join("diffusion_pytorch_model.bin"), "").unwrap();
    assert_refused(folder.path(), &["diffusion_pytorch_model.bin", "it is empty"]);
    for variant in ["a", "b"] {
        fs::write(folder.path().join(format!("diffusion_pytorch_model.{variant}.safetensors")), "").unwrap();
    }
    assert_refused(folder.path(), &["2 variants", WEIGHTS]);
}

#[test]
fn other_classes_are_refused_by_name() {
    let folder = copy(&case("faint"));
    let path = folder.path().join("config.json");
    fs::write(&path, r#"{"_class_name": "AutoencoderKLCogVideoX"}"#).unwrap();
    assert_refused(
        folder.path(),
        &["config.json", "`_class_name` is \"AutoencoderKLCogVideoX\"", "AutoencoderKL"],
    );
    fs::write(&path, "{}").unwrap();
    assert_refused(folder.path(), &["config.json", "`_class_name` is missing"]);
}

#[test]
fn files_that_are_cut_or_no_safetensors_are_refused() {
    let folder = copy(&case("faint"));
    let path = folder.path().join(WEIGHTS);
    let whole = fs::read(&path).unwrap();
    for bytes in [&whole[..whole.len() - 4], &whole[..100], &whole[..4], b"", b"<!DOCTYPE html>"] {
        fs::write(&path, bytes).unwrap();
        assert_refused(folder.path(), &[path.to_str().unwrap()]);
        let result = load(Source::Folder(folder.path().to_path_buf()), Reference::default()).map(drop);
        assert!(matches!(result, Err(LoadError::Weights { .. })), "{result:?}");
    }
}

#[test]
fn a_missing_tensor_is_named_with_its_nearest_kin() {
    let name = "post_quant_conv.weight";
    for near in ["first_stage_model.post_quant_conv.weight", "postquant_conv.weight"] {
        assert_refused_after(
            |tensors| {
                let tensor = tensors.remove(name).unwrap();
                tensors.insert(near.to_owned(), tensor);
            },
            &[name, "[4, 4, 1, 1]", "missing", &format!("`{near}`")],
        );
    }
    assert_refused_after(
        |tensors| {
            let tensor = tensors.remove("decoder.conv_in.weight").unwrap();
            tensors.clear();
            tensors.insert("something else entirely".to_owned(), tensor);
        },
        &["post_quant_conv.weight", "missing", "none of its 1 tensors"],
    );
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    assert_refused_after(
        |tensors| tensors.get_mut("decoder.conv_in.weight").unwrap().1 = vec![16, 4, 9, 1],
        &["`decoder.conv_in.weight` has shape [16, 4, 9, 1]", "expected [16, 4, 3, 3]"],
    );
    assert_refused_after(
        |tensors| tensors.get_mut("decoder.mid_block.attentions.0.to_q.weight").unwrap().1 = vec![16, 4, 4],
        &["`decoder.mid_block.attentions.0.to_q.weight` has shape [16, 4, 4]", "expected [16, 16]"],
    );
    assert_refused_after(
        |tensors| tensors.get_mut("decoder.conv_norm_out.bias").unwrap().1 = vec![8, 1],
        &["`decoder.conv_norm_out.bias` has shape [8, 1]", "expected [8]"],
    );
}

#[test]
fn a_tensor_of_another_type_is_named_with_its_type() {
    assert_refused_after(
        |tensors| tensors.get_mut("decoder.conv_out.bias").unwrap().0 = Dtype::I32,
        &["`decoder.conv_out.bias` has type I32", "F32, F16, BF16, F64, F8_E4M3 or F8_E5M2"],
    );
}
