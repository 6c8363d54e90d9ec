//! The files that people have weights in: pickles, shards, other types, wrapped names, and what is no weights at all.

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::{Case, RawTensors, case, renamed, weights, write};
use remote_vae_vae::device::cpu::{Cpu, CpuOptions};
use remote_vae_vae::device::reference::Reference;
use remote_vae_vae::{
    DecodeOptions, HostTensor, LoadMode, LoadOptions, Silent, Source, Vae, load, load_with,
};
use safetensors::tensor::Dtype;
use tempfile::{TempDir, tempdir};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Files that PyTorch has written; see tools/make_checkpoint_fixtures.py.
fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/checkpoints").join(name)).unwrap()
}

/// A folder with the configuration of a case and a file `name` of these bytes.
fn folder_with(case: &Case, name: &str, bytes: &[u8]) -> TempDir {
    let folder = tempdir().unwrap();
    fs::copy(case.folder.join("config.json"), folder.path().join("config.json")).unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    folder
}

/// The same with tensors.
fn folder_of(case: &Case, tensors: &RawTensors) -> TempDir {
    let folder = folder_with(case, WEIGHTS, b"");
    write(tensors, &folder.path().join(WEIGHTS));
    folder
}

fn decode(mut vae: Box<dyn Vae>, case: &Case) -> HostTensor {
    vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap()
}

/// One engine for all tests.
fn engine() -> Cpu {
    static ENGINE: OnceLock<Cpu> = OnceLock::new();
    let new = || Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
    ENGINE.get_or_init(new).clone()
}

fn decoded(source: Source, case: &Case) -> HostTensor {
    decode(load(source, engine()).unwrap_or_else(|error| panic!("{error}")), case)
}

fn folder(path: &Path) -> Source {
    Source::Folder(path.to_path_buf())
}

fn refused(source: Source) -> String {
    load(source, Reference::default()).map(drop).unwrap_err().to_string()
}

#[test]
fn pickles_are_read_and_not_run() {
    let case = case("many-positions");
    let expected = decoded(case.source(), &case);
    // A Lightning checkpoint, as a file of any of the usual endings, and under the name that diffusers gave pickles.
    let bytes = fixture("lightning.ckpt");
    for name in ["model.ckpt", "model.pt", "model.pth", "model.bin", "diffusion_pytorch_model.bin"] {
        let here = folder_with(&case, name, &bytes);
        assert!(decoded(Source::File(here.path().join(name)), &case) == expected, "{name}");
    }
    let here = folder_with(&case, "diffusion_pytorch_model.bin", &bytes);
    assert!(decoded(folder(here.path()), &case) == expected);

    // What the fixtures of latents hold against readers of pickles.
    for (name, words) in [("command.pt", "no tensor"), ("legacy.pt", "before 1.6"), ("endless.pt", "")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/latents").join(name);
        let error = refused(Source::File(path));
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
    assert!(!Path::new("/tmp/a-pickle-was-run").exists());
}

#[test]
fn other_types_have_the_values_that_pytorch_makes_of_them() {
    let case = case("many-positions");
    for (name, file) in [("scaled", "scaled.safetensors"), ("float8", "float8.pt")] {
        let here = folder_with(&case, WEIGHTS, &fixture(file));
        let expected = folder_with(&case, WEIGHTS, &fixture(&format!("{name}.expected.safetensors")));
        assert!(decoded(folder(here.path()), &case) == decoded(folder(expected.path()), &case), "{name}");
    }

    let mut tensors = weights(&case);
    let scale = (Dtype::F32, vec![3], 1.5f32.to_le_bytes().repeat(3));
    tensors.insert("decoder.conv_in.scale_weight".to_owned(), scale);
    let error = refused(folder(folder_of(&case, &tensors).path()));
    assert!(error.contains("`decoder.conv_in.scale_weight` has shape [3]"), "{error}");
}

#[test]
fn names_are_unwrapped() {
    let case = case("sd-like");
    let expected = decoded(case.source(), &case);
    for before in
        ["_orig_mod.", "module.", "module._orig_mod.", "state_dict.", "state_dict.vae.", "first_stage_model."]
    {
        let tensors = renamed(weights(&case), |name| format!("{before}{name}"));
        assert!(decoded(folder(folder_of(&case, &tensors).path()), &case) == expected, "{before}");
    }
    // A part alone may have been compiled.
    let tensors = renamed(weights(&case), |name| name.replacen("decoder.", "decoder._orig_mod.", 1));
    assert!(decoded(folder(folder_of(&case, &tensors).path()), &case) == expected);

    let mut tensors = weights(&case);
    let twice = tensors["decoder.conv_in.bias"].clone();
    tensors.insert("module.decoder.conv_in.bias".to_owned(), twice);
    let error = refused(folder(folder_of(&case, &tensors).path()));
    assert!(
        error.contains("`decoder.conv_in.bias`") && error.contains("`module.decoder.conv_in.bias`"),
        "{error}"
    );
}

#[test]
fn a_folder_with_a_configuration_has_weights_of_any_one_name() {
    let case = case("sd-like");
    let here = folder_of(&case, &weights(&case));
    fs::rename(here.path().join(WEIGHTS), here.path().join("my-vae.safetensors")).unwrap();
    assert!(decoded(folder(here.path()), &case) == decoded(case.source(), &case));
    fs::write(here.path().join("other.ckpt"), "").unwrap();
    let error = refused(folder(here.path()));
    assert!(error.contains("2 files of other names: \"my-vae.safetensors\", \"other.ckpt\""), "{error}");
}

/// ComfyUI's repackaged file: the original names around `.conv.`, attention as convolutions over time.
fn comfy(tensors: RawTensors) -> RawTensors {
    let name = |name: &str| {
        let mut new = name.to_owned();
        for (from, to) in [
            ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
            ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
            ("mid_block.attentions.0.to_", "mid.attn_1."),
            ("mid_block.resnets.0", "mid.block_1"),
            ("mid_block.resnets.1", "mid.block_2"),
            ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"),
            (".downsamplers.0.", ".downsample."),
            (".upsamplers.0.", ".upsample."),
            ("down_blocks.", "down."),
        ] {
            new = new.replace(from, to);
        }
        for block in 0..4 {
            new = new.replace(&format!("up_blocks.{block}."), &format!("up.{}.", 3 - block));
        }
        new.replace(".resnets.", ".block.")
    };
    let five_axes = |name: &str| {
        ["q", "k", "v", "proj_out"].iter().any(|layer| name.ends_with(&format!("mid.attn_1.{layer}.weight")))
    };
    renamed(tensors, name)
        .into_iter()
        .map(|(name, (dtype, mut shape, data))| {
            if five_axes(&name) {
                shape.extend([1, 1, 1]);
            }
            (name, (dtype, shape, data))
        })
        .collect()
}

#[test]
fn hunyuan_video_as_uis_keep_it() {
    let case = case("video");
    let expected = decoded(case.source(), &case);
    let tensors = comfy(weights(&case));
    for name in [
        "decoder.mid.attn_1.q.weight",
        "decoder.up.3.block.0.conv1.conv.weight",
        "encoder.down.0.downsample.conv.conv.bias",
    ] {
        assert!(tensors.contains_key(name), "{name}");
    }
    assert_eq!(tensors["decoder.mid.attn_1.q.weight"].1, [16, 16, 1, 1, 1]);
    for before in ["", "vae."] {
        let here = folder_of(&case, &renamed(tensors.clone(), |name| format!("{before}{name}")));
        // In a folder of its own, and as a file of any name.
        assert!(decoded(folder(here.path()), &case) == expected);
        let file = here.path().join("hunyuan_video_vae_bf16.safetensors");
        fs::rename(here.path().join(WEIGHTS), &file).unwrap();
        assert!(decoded(Source::File(file), &case) == expected);
    }
}

#[test]
fn an_index_of_shards_is_a_model() {
    let case = case("sd-like");
    let expected = decoded(case.source(), &case);
    let here = folder_with(&case, "x", b"");
    let part = |name: &str| if name.starts_with("decoder.") { 1 } else { 2 };
    let shard = |number: usize| format!("model-{number:05}-of-00002.safetensors");
    for number in [1, 2] {
        let mut tensors = weights(&case);
        tensors.retain(|name, _| part(name) == number);
        write(&tensors, &here.path().join(shard(number)));
    }
    let index = here.path().join("model.safetensors.index.json");
    let map: serde_json::Map<_, _> =
        weights(&case).keys().map(|name| (name.clone(), shard(part(name)).into())).collect();
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    assert!(decoded(Source::File(index.clone()), &case) == expected);

    let error = refused(Source::File(here.path().join(shard(1))));
    assert!(error.contains("one of 2 parts") && error.contains("model.safetensors.index.json"), "{error}");
    fs::remove_file(here.path().join(shard(2))).unwrap();
    assert!(refused(Source::File(index.clone())).contains(&shard(2)));
    fs::write(&index, "<html>").unwrap();
    assert!(refused(Source::File(index)).contains("an HTML page"));
}

#[test]
fn a_folder_without_configuration_is_its_one_file() {
    let case = case("wide");
    let here = folder_with(&case, WEIGHTS, &fs::read(case.folder.join(WEIGHTS)).unwrap());
    fs::remove_file(here.path().join("config.json")).unwrap();
    assert!(decoded(folder(here.path()), &case) == decoded(case.source(), &case));
    // In `vae/` of a pipeline too.
    let pipeline = tempdir().unwrap();
    fs::create_dir(pipeline.path().join("vae")).unwrap();
    fs::copy(here.path().join(WEIGHTS), pipeline.path().join("vae").join(WEIGHTS)).unwrap();
    assert!(decoded(folder(pipeline.path()), &case) == decoded(case.source(), &case));

    fs::write(here.path().join("other.ckpt"), "").unwrap();
    let error = refused(folder(here.path()));
    assert!(error.contains("2 files of weights") && error.contains("\"other.ckpt\""), "{error}");
    let pipeline = tempdir().unwrap();
    fs::write(pipeline.path().join("model_index.json"), "{}").unwrap();
    assert!(refused(folder(pipeline.path())).contains("vae/config.json"));
}

#[test]
fn what_is_no_weights_is_called_what_it_is() {
    let here = tempdir().unwrap();
    for (name, bytes, words) in [
        (
            "a.safetensors",
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"[..],
            "Git LFS",
        ),
        ("a.safetensors", b"<!doctype html><title>Access to model is restricted</title>", "HTML page"),
        ("a.ckpt", b"\n<HTML><body>", "HTML page"),
        ("a.gguf", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0", "GGUF"),
        ("a.safetensors", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0", "GGUF"),
        ("a.safetensors", b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "XML"),
        ("a.json", b"{\"a\": 1}, more than eight bytes", "JSON"),
        ("a.onnx", b"\x08\x08\x12\x07pytorch\x1a\x05", "ONNX"),
        ("a.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\0", "gzip"),
        ("a.bin", b"PK\x03\x04 and no archive", "torch.save"),
        ("a.pt", b"\x80\x02\x8a\nl\xfc", "before 1.6"),
        ("a.safetensors", b"no such thing at all", "not that of a safetensors file"),
        ("a.safetensors", b"short", "not that of a safetensors file"),
        ("a.safetensors", b"", "empty"),
    ] {
        let path = here.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = refused(Source::File(path));
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
    // In a folder, with a configuration, too.
    let here = folder_with(&case("sd-like"), WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n");
    assert!(refused(folder(here.path())).contains("Git LFS"));
    fs::write(here.path().join("config.json"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let error = refused(folder(here.path()));
    assert!(error.contains("config.json") && error.contains("Git LFS"), "{error}");
}

/// A checkpoint with the tensors of another autoencoder in it decodes to wrong pictures if they are passed over.
#[test]
fn tensors_that_no_layer_asks_for_are_refused_and_explained() {
    let case = case("sd-like");
    let with = |names: &[&str]| {
        let mut tensors = weights(&case);
        for name in names {
            tensors.insert((*name).to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
        }
        folder_of(&case, &tensors)
    };
    for (names, words) in [
        (&["decoder.time_conv_out.weight"][..], "Stable Video Diffusion"),
        (&["decoder.temp_conv_in.weight"], "Allegro"),
        (&["decoder.condition_encoder.layers.0.weight"], "inpainting"),
        (&["quantize.embedding.weight"], "VQModel"),
        (&["per_channel_statistics.mean-of-means"], "LTX-Video"),
        (&["decoder.up_blocks.4.resnets.0.norm1.weight"], "no part of an AutoencoderKL"),
        (&["decoder.conv_in.lora"], "`decoder.conv_in.lora`"),
    ] {
        let here = with(names);
        let error = refused(folder(here.path()));
        let first = names.iter().min().unwrap();
        assert!(error.contains(words) && error.contains(&format!("`{first}`")), "{error}");
        assert!(refused(Source::File(here.path().join(WEIGHTS))).contains(words));
    }
    let error = refused(folder(with(&["bn.running_mean", "bn.running_var"]).path()));
    assert!(error.contains("(and 1 more)") && error.contains("FLUX.2"), "{error}");

    // What training leaves, and what is beside an autoencoder in a full checkpoint, is no part of it.
    let expected = decoded(case.source(), &case);
    let harmless = [
        "model_ema.decay",
        "model_ema.decoderconv_inweight",
        "loss.logvar",
        "loss.discriminator.main.0.weight",
        "model.diffusion_model.out.0.weight",
        "cond_stage_model.logit_scale",
    ];
    assert!(decoded(folder(with(&harmless).path()), &case) == expected);
    let mut tensors = renamed(weights(&case), |name| format!("first_stage_model.{name}"));
    tensors.insert("bn.running_mean".to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
    assert!(decoded(folder(folder_of(&case, &tensors).path()), &case) == expected);
    // A decoder alone needs no convolution behind an encoder.
    let mut tensors = weights(&case);
    tensors.retain(|name, _| !name.starts_with("encoder."));
    assert!(tensors.contains_key("quant_conv.weight"));
    assert!(decoded(folder(folder_of(&case, &tensors).path()), &case) == expected);
}

/// Whole files of other kinds, by a few of their tensors.
#[test]
fn other_models_are_called_by_their_names() {
    let here = tempdir().unwrap();
    let path = here.path().join("a.safetensors");
    for (name, shape, words) in [
        ("decoder.middle.0.residual.0.gamma", &[384, 1, 1, 1][..], "Wan or Qwen-Image"),
        ("vae.decoder.middle.0.residual.0.gamma", &[384, 1, 1, 1], "Wan or Qwen-Image"),
        ("decoder.upsamples.0.upsamples.0.residual.2.weight", &[2], "Wan 2.2"),
        ("decoder.mid_block.resnets.0.norm1.gamma", &[2], "Wan or Qwen-Image"),
        ("vae.per_channel_statistics.std-of-means", &[128], "LTX-Video"),
        ("decoder.conv_in.conv.weight", &[4, 32, 3, 3, 3], "HunyuanVideo 1.5"),
        ("decoder.conv_in.conv.weight", &[4, 128, 3, 3, 3], "LTX-Video"),
        ("decoder.conv_in.weight", &[4, 64, 3, 3], "HunyuanImage 2.1"),
        ("taesd_decoder.1.weight", &[64, 4, 3, 3], "TAESD"),
        ("decoder.layers.2.conv.0.weight", &[2], "TAESD"),
        ("vquantizer.codebook.weight", &[2], "Cascade"),
        ("decoder.block.0.snake1.alpha", &[2], "no autoencoder that can be served"),
        ("decoder.conv1.weight_g", &[2], "sound"),
        ("decoder.conv_in.conv_s.weight", &[2], "Cosmos"),
        ("decoder.block_in.resnets.0.norm1.norm_layer.weight", &[2], "Mochi"),
        ("decoder.mid_block.resnets.0.norm1.norm_layer.weight", &[2], "CogVideoX"),
        ("double_blocks.0.img_attn.qkv.weight", &[2], "without its autoencoder"),
        ("model.diffusion_model.input_blocks.0.0.weight", &[2], "without its autoencoder"),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", &[2], "text encoder"),
        ("lora_unet_down_blocks_0.lora_down.weight", &[2], "LoRA"),
        ("latents", &[1, 4, 2, 2], "latents"),
    ] {
        let bytes = vec![0; shape.iter().product::<usize>() * 2];
        let tensors = RawTensors::from([(name.to_owned(), (Dtype::F16, shape.to_vec(), bytes))]);
        write(&tensors, &path);
        let error = refused(Source::File(path.clone()));
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_refused_with_a_sentence() {
    let case = case("sd-like");
    let whole = fs::read(case.folder.join(WEIGHTS)).unwrap();
    for mode in [LoadMode::Auto, LoadMode::Map, LoadMode::Copy] {
        for cut in [1, 4096, whole.len() - 5000] {
            let here = folder_with(&case, WEIGHTS, &whole[..whole.len() - cut]);
            let options = LoadOptions { mode, ..LoadOptions::default() };
            let error = load_with(folder(here.path()), &options, Reference::default())
                .map(drop)
                .unwrap_err()
                .to_string();
            assert!(error.contains("cut off: its header") && error.contains("again"), "{error}");
        }
    }
    let pickle = fixture("lightning.ckpt");
    let here = folder_with(&case, "model.ckpt", &pickle[..pickle.len() / 2]);
    assert!(refused(Source::File(here.path().join("model.ckpt"))).contains("torch.save"));
}

/// A copy does not notice what happens to the file. With a mapped one the process would end, which no test can show.
#[test]
#[cfg(unix)]
fn a_copied_model_outlives_its_file() {
    use std::os::unix::fs::PermissionsExt;

    let case = case("sd-like");
    let whole = fs::read(case.folder.join(WEIGHTS)).unwrap();
    let open = |mode, change: fn(&Path)| {
        let here = folder_with(&case, WEIGHTS, &whole);
        change(&here.path().join(WEIGHTS));
        let options = LoadOptions { mode, ..LoadOptions::default() };
        (load_with(folder(here.path()), &options, engine()).unwrap(), here)
    };
    let expected = decode(open(LoadMode::Map, |_| {}).0, &case);
    for mode in [LoadMode::Copy, LoadMode::Auto] {
        let (vae, here) = open(mode, |_| {});
        assert!(vae.copied_weights_memory() == vae.weights_memory() && vae.weights_memory() > 100_000);
        fs::File::create(here.path().join(WEIGHTS)).unwrap();
        assert!(decode(vae, &case) == expected, "{mode:?}");
    }
    // What may not be written to is not expected to change.
    let protect = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(open(LoadMode::Auto, protect).0.copied_weights_memory(), 0);
    assert_eq!(open(LoadMode::Map, |_| {}).0.copied_weights_memory(), 0);
}
