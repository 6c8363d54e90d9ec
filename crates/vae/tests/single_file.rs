//! Autoencoders in one file: where they are in it, under which names, and what is known of them without a configuration.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use common::{Case, case};
use remote_vae_vae::device::cpu::{Cpu, CpuOptions};
use remote_vae_vae::device::reference::Reference;
use remote_vae_vae::latents::{Normalization, Pipeline};
use remote_vae_vae::{
    DecodeOptions, EncodeOptions, Factors, HostTensor, LoadOptions, Silent, Source, Vae, VaeInfo, load,
    load_with,
};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use tempfile::tempdir;

type Tensors = HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// What is beside the autoencoder in full checkpoints, and the factors that it tells of.
const SURROUNDINGS: [(&str, &[usize], f32); 5] = [
    ("cond_stage_model.model.token_embedding.weight", &[2, 2], 0.18215),
    ("model.diffusion_model.output_blocks.11.0.skip_connection.weight", &[2, 2], 0.18215),
    ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", &[2], 0.13025),
    ("model.diffusion_model.label_emb.0.0.weight", &[1, 2816], 0.13025),
    ("model.diffusion_model.input_blocks.10.0.skip_connection.bias", &[2], 0.08333),
];

/// The golden case whose norms have 32 groups, as all models that come in single files.
fn wide() -> Case {
    case("wide")
}

fn weights(case: &Case) -> Tensors {
    let bytes = fs::read(case.folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

/// The same tensors under the original names, attention as 1x1 convolutions.
fn original(tensors: Tensors) -> Tensors {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/original-names.json");
    let mut names: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let names: BTreeMap<_, _> =
        names.remove("wide").unwrap().into_iter().map(|(original, name)| (name, original)).collect();
    tensors
        .into_iter()
        .map(|(name, (dtype, mut shape, data))| {
            if name.contains(".attentions.") && shape.len() == 2 {
                shape.extend([1, 1]);
            }
            (names[&name].clone(), (dtype, shape, data))
        })
        .collect()
}

fn inside(prefix: &str, tensors: Tensors, surroundings: &[(&str, &[usize], f32)]) -> Tensors {
    let others = surroundings.iter().map(|(name, shape, _)| {
        let bytes = shape.iter().product::<usize>() * 2;
        ((*name).to_owned(), (Dtype::F16, shape.to_vec(), vec![0; bytes]))
    });
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).chain(others).collect()
}

fn write(tensors: &Tensors, path: &Path) -> PathBuf {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, path).unwrap();
    path.to_path_buf()
}

fn open(path: &Path) -> Box<dyn Vae> {
    load(Source::File(path.to_path_buf()), Reference::default()).unwrap()
}

/// The decoded latents of the golden case and its encoded picture.
fn run(mut vae: Box<dyn Vae>, case: &Case) -> [HostTensor; 2] {
    let pixels = case.golden["pixels"].clone();
    [
        vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap(),
        vae.encode(pixels, &EncodeOptions::default(), &mut Silent).unwrap(),
    ]
}

fn options(factors: Factors) -> LoadOptions {
    LoadOptions { factors, ..LoadOptions::default() }
}

/// The factors of the file with these tensors.
fn factors(tensors: &Tensors, given: Factors) -> Result<(f32, Option<f32>), String> {
    let folder = tempdir().unwrap();
    let path = write(tensors, &folder.path().join("file.safetensors"));
    let vae = load_with(Source::File(path), &options(given), Reference::default())
        .map_err(|error| error.to_string())?;
    let (scaling_factor, shift_factor) = vae.info().latents.normalization.factors().unwrap();
    Ok((scaling_factor, shift_factor))
}

/// A wide decoder for latents of so many channels; the values do not matter.
fn with_latent_channels(channels: usize, quantised: bool) -> Tensors {
    let mut tensors = weights(&wide());
    tensors.retain(|name, _| name.starts_with("decoder."));
    let (_, shape, data) = tensors.get_mut("decoder.conv_in.weight").unwrap();
    shape[1] = channels;
    *data = vec![0; shape.iter().product::<usize>() * 2];
    if quantised {
        let zeros =
            |shape: &[usize]| (Dtype::F16, shape.to_vec(), vec![0; shape.iter().product::<usize>() * 2]);
        tensors.insert("post_quant_conv.weight".to_owned(), zeros(&[channels, channels, 1, 1]));
        tensors.insert("post_quant_conv.bias".to_owned(), zeros(&[channels]));
    }
    tensors
}

#[test]
fn every_layout_gives_the_very_values_of_diffusers_own() {
    let case = wide();
    let engine = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
    let expected = run(load(case.source(), engine.clone()).unwrap(), &case);
    let folder = tempdir().unwrap();
    let layouts = [
        ("diffusers", weights(&case)),
        ("original", original(weights(&case))),
        ("checkpoint", inside("first_stage_model.", original(weights(&case)), &SURROUNDINGS[..2])),
        ("newer", inside("vae.", original(weights(&case)), &SURROUNDINGS[..1])),
        ("diffusers in a checkpoint", inside("vae.", weights(&case), &[])),
    ];
    for (name, tensors) in layouts {
        let path = write(&tensors, &folder.path().join(format!("{name}.safetensors")));
        let found = run(load(Source::File(path), engine.clone()).unwrap(), &case);
        assert!(found == expected, "{name}");
    }
}

#[test]
fn the_configuration_is_that_of_the_folder() {
    let case = wide();
    let expected = load(case.source(), Reference::default()).unwrap().info().clone();
    let folder = tempdir().unwrap();
    let path = write(&original(weights(&case)), &folder.path().join("bare.safetensors"));
    let info = open(&path).info().clone();
    assert!(info.concluded.as_ref().unwrap().contains("0.18215 of Stable Diffusion v1 and v2 is assumed"));
    assert_eq!(VaeInfo { concluded: None, ..info }, expected);
}

/// As in a UI's `models/VAE`: `config.json` is of one file, and others lie beside it.
#[test]
fn a_configuration_counts_for_files_that_it_fits_and_belongs_to() {
    let case = wide();
    let folder = tempdir().unwrap();
    let config = folder.path().join("config.json");
    let own = write(&original(weights(&case)), &folder.path().join("diffusion_pytorch_model.safetensors"));
    let other = write(&original(weights(&case)), &folder.path().join("my-sd-vae.safetensors"));
    let text = fs::read_to_string(case.folder.join("config.json")).unwrap();
    fs::write(&config, text.replacen('{', "{\"scaling_factor\": 0.75,", 1)).unwrap();
    let told = |path: &Path, options: &LoadOptions| {
        let vae = load_with(Source::File(path.to_path_buf()), options, Reference::default()).unwrap();
        (
            vae.info().latents.normalization.factors().unwrap().0,
            vae.info().concluded.clone().unwrap_or_default(),
        )
    };
    let none = LoadOptions::default();
    assert_eq!(told(&own, &none), (0.75, String::new()));
    // A folder that is of one model only, as a repository of the hub is.
    assert_eq!(told(&other, &LoadOptions { one_model: true, ..none }), (0.75, String::new()));
    let (factor, said) = told(&other, &none);
    assert_eq!(factor, 0.18215);
    assert!(said.contains("assumed") && said.contains("write FILE,scaling_factor=0.75"), "{said}");
    assert!(!said.contains(folder.path().to_str().unwrap()), "{said}");

    // One that does not fit counts for no file, and the reason is told.
    let flux = fs::read_to_string(common::case("flux-like").folder.join("config.json")).unwrap();
    for (text, reason) in [
        (flux.as_str(), "its `latent_channels` is 16, and that of the tensors 4"),
        (r#"{"_class_name": "AutoencoderTiny"}"#, "it is of AutoencoderTiny"),
    ] {
        fs::write(&config, text).unwrap();
        for path in [&own, &other] {
            let (factor, said) = told(path, &none);
            assert_eq!(factor, 0.18215);
            assert!(said.contains(reason), "{said}");
        }
    }
    // What is no autoencoder's is none of ours.
    for text in [r#"{"_class_name": "UNet2DConditionModel", "scaling_factor": 0.75}"#, "no JSON"] {
        fs::write(&config, text).unwrap();
        let (factor, said) = told(&own, &none);
        assert!(factor == 0.18215 && !said.contains("config.json"), "{said}");
    }
}

/// The groups of norms are in no tensor: they come from a configuration that fits, whatever the file's name.
#[test]
fn the_architecture_comes_from_a_configuration_that_fits() {
    let case = case("sd-like");
    let folder = tempdir().unwrap();
    let path = folder.path().join("my-sd-vae.safetensors");
    fs::copy(case.folder.join("diffusion_pytorch_model.safetensors"), &path).unwrap();
    let error = load(Source::File(path.clone()), Reference::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("which is 32"), "{error}");
    fs::copy(case.folder.join("config.json"), folder.path().join("config.json")).unwrap();
    let decode = |source| {
        load(source, Reference::default())
            .unwrap()
            .decode(case.latents(), &DecodeOptions::default(), &mut Silent)
            .unwrap()
    };
    assert!(decode(Source::File(path)) == decode(case.source()));
}

/// Where nothing else is known, the factor of a configuration that fits is better than none, and is told of.
#[test]
fn a_factor_beside_the_file_is_the_last_resort() {
    let tensors = with_latent_channels(8, false);
    let folder = tempdir().unwrap();
    let path = write(&tensors, &folder.path().join("mine.safetensors"));
    let text = fs::read_to_string(wide().folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["latent_channels"] = 8.into();
    config["use_post_quant_conv"] = false.into();
    config["scaling_factor"] = 0.5.into();
    config["shift_factor"] = 0.25.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let vae = open(&path);
    let VaeInfo { latents, concluded, .. } = vae.info();
    let (scaling_factor, shift_factor) = latents.normalization.factors().unwrap();
    assert_eq!((scaling_factor, shift_factor), (0.5, Some(0.25)));
    assert!(concluded.as_ref().unwrap().contains("of the config.json beside it are taken"), "{concluded:?}");
}

#[test]
fn models_without_attention_or_with_more_layers_are_seen() {
    let case = case("no-mid-attention");
    let folder = tempdir().unwrap();
    let path = write(&weights(&case), &folder.path().join("bare.safetensors"));
    // Its norms have six groups, which no tensor tells.
    let error = load(Source::File(path), Reference::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("`block_out_channels` is [12,24]") && error.contains("which is 32"), "{error}");

    let mut tensors = weights(&wide());
    tensors.retain(|name, _| !name.contains("attentions"));
    let path = write(&tensors, &folder.path().join("without.safetensors"));
    let [sample, _] = run(open(&path), &wide());
    assert_eq!(sample.shape, wide().golden["sample"].shape);
    assert!(sample.data != wide().golden["sample"].data);
}

#[test]
fn the_rest_of_a_checkpoint_tells_the_factors() {
    let none = Factors::default();
    let bare = original(weights(&wide()));
    assert_eq!(factors(&bare, none), Ok((0.18215, None)));
    for surrounding in SURROUNDINGS {
        let tensors = inside("first_stage_model.", bare.clone(), &[surrounding]);
        assert_eq!(factors(&tensors, none), Ok((surrounding.2, None)), "{}", surrounding.0);
    }
    // The label embedding of Stable Diffusion 2.1 unCLIP.
    let other = ("model.diffusion_model.label_emb.0.0.weight", &[1, 1536][..], 0.0);
    let tensors = inside("first_stage_model.", bare.clone(), &[SURROUNDINGS[0], other]);
    assert_eq!(factors(&tensors, none), Ok((0.18215, None)));

    let flux = with_latent_channels(16, false);
    let block = |name| [(name, &[2][..], 0.0)];
    assert_eq!(factors(&flux, none), Ok((0.3611, Some(0.1159))));
    for (name, expected) in [
        ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", (0.3611, Some(0.1159))),
        ("model.diffusion_model.cap_embedder.0.weight", (0.3611, Some(0.1159))),
        ("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias", (1.5305, Some(0.0609))),
    ] {
        assert_eq!(factors(&inside("vae.", flux.clone(), &block(name)), none), Ok(expected), "{name}");
    }

    let playground = inside("first_stage_model.", bare, &block("edm_mean"));
    assert!(factors(&playground, none).unwrap_err().contains("Playground"));
}

#[test]
fn given_factors_go_first_and_unknown_ones_are_asked_for() {
    let given =
        |scaling, shift| Factors { scaling_factor: Some(scaling), shift_factor: shift, pipeline: None };
    let bare = weights(&wide());
    assert_eq!(factors(&bare, given(0.13025, None)), Ok((0.13025, None)));
    let flux = with_latent_channels(16, false);
    assert_eq!(factors(&flux, given(1.5305, Some(0.0609))), Ok((1.5305, Some(0.0609))));
    assert_eq!(
        factors(&flux, Factors { shift_factor: Some(0.0), ..Factors::default() }),
        Ok((0.3611, Some(0.0)))
    );
    assert!(factors(&bare, given(0.0, None)).unwrap_err().contains("`scaling_factor` is 0"));

    let double = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight";
    for tensors in [
        with_latent_channels(16, true),
        with_latent_channels(8, false),
        // A successor of Flux.
        inside("vae.", with_latent_channels(32, true), &[(double, &[2], 0.0)]),
    ] {
        let error = factors(&tensors, Factors::default()).unwrap_err();
        assert!(error.contains("FILE,scaling_factor=NUMBER"), "{error}");
        assert_eq!(factors(&tensors, given(0.5, None)), Ok((0.5, None)));
    }
    // In a folder too.
    let vae = load_with(wide().source(), &options(given(0.5, Some(0.25))), Reference::default()).unwrap();
    assert_eq!(vae.info().latents.normalization.factors(), Some((0.5, Some(0.25))));
}

#[test]
fn hunyuan_video_is_known_by_its_first_layer() {
    let case = case("video");
    let folder = tempdir().unwrap();
    let path = folder.path().join("hunyuan_video_vae.safetensors");
    fs::copy(case.folder.join("diffusion_pytorch_model.safetensors"), &path).unwrap();
    // The small model has not the shapes of the real one, which are what is expected where nothing is said.
    let error = load(Source::File(path.clone()), Reference::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("expected [512, 16, 3, 3, 3] from the configuration"), "{error}");

    fs::copy(case.folder.join("config.json"), folder.path().join("config.json")).unwrap();
    let decode = |source| {
        load(source, Reference::default())
            .unwrap()
            .decode(case.latents(), &DecodeOptions::default(), &mut Silent)
            .unwrap()
    };
    assert_eq!(decode(Source::File(path)), decode(case.source()));
}

#[test]
fn what_is_no_autoencoder_is_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file.safetensors");
    let refused = |path: &Path| {
        let error =
            load(Source::File(path.to_path_buf()), Reference::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        error
    };
    assert!(refused(&path).contains("cannot read"));
    let other = inside("model.diffusion_model.", weights(&wide()), &[]);
    assert!(refused(&write(&other, &path)).contains("no autoencoder that can be served"));

    let mut tensors = original(weights(&wide()));
    tensors.insert("decoder.up.0.attn.0.q.weight".to_owned(), (Dtype::F16, vec![1], vec![0; 2]));
    assert!(refused(&write(&tensors, &path)).contains("attention outside of the middle"));

    let mut tensors = original(weights(&wide()));
    tensors.get_mut("decoder.conv_in.weight").unwrap().1 = vec![64 * 4 * 9];
    assert!(refused(&write(&tensors, &path)).contains("expected that of a convolution"));

    let mut tensors = original(weights(&wide()));
    tensors.retain(|name, _| !name.starts_with("decoder.up.1.block.1"));
    assert!(refused(&write(&tensors, &path)).contains("1 layers in its first up block"));

    // Missing tensors are named as diffusers names them, which is how the layers are loaded.
    let mut tensors = original(weights(&wide()));
    tensors.remove("decoder.mid.attn_1.q.bias");
    assert!(refused(&write(&tensors, &path)).contains("`decoder.mid_block.attentions.0.to_q.bias`"));
}

#[test]
fn flux2_is_known_by_its_statistics() {
    let case = case("flux2-small");
    let expected = run(open_folder(&case), &case);
    let folder = tempdir().unwrap();
    // The quantisation convolutions are parts of the halves in the files that people have.
    let tensors: Tensors = weights(&case)
        .into_iter()
        .map(|(name, tensor)| {
            let half = match name.split('.').next() {
                Some("quant_conv") => "encoder.",
                Some("post_quant_conv") => "decoder.",
                _ => "",
            };
            (format!("{half}{name}"), tensor)
        })
        .collect();
    assert!(tensors.contains_key("encoder.quant_conv.weight"));
    let file = write(&tensors, &folder.path().join("flux2-vae.safetensors"));
    let vae = open(&file);
    assert_eq!((vae.info().class_name.as_str(), &vae.info().concluded), ("AutoencoderKLFlux2", &None));
    let Normalization::BatchNorm { running_mean, eps, .. } = &vae.info().latents.normalization else {
        panic!("{:?}", vae.info().latents);
    };
    assert_eq!((running_mean.len(), *eps), (16, 1e-4));
    assert!(run(vae, &case) == expected);
    // In other pipelines' ways.
    let pipeline = Factors { pipeline: Some(Pipeline::ErnieImage), ..Factors::default() };
    let vae = load_with(Source::File(file), &options(pipeline), Reference::default()).unwrap();
    assert!(matches!(vae.info().latents.normalization, Normalization::BatchNorm { eps: 1e-5, .. }));
    let error =
        load_with(wide().source(), &options(pipeline), Reference::default()).err().unwrap().to_string();
    assert!(error.contains("only FLUX.2"), "{error}");

    // The decoder alone, whose width is its own.
    let mut tensors = tensors;
    tensors.retain(|name, _| !name.starts_with("encoder."));
    let vae = open(&write(&tensors, &folder.path().join("decoder.safetensors")));
    assert!(!vae.info().can_encode);
    let mut vae = vae;
    let decoded = vae.decode(case.latents(), &DecodeOptions::default(), &mut Silent).unwrap();
    assert!(decoded == expected[0]);
    // Without its statistics it is another model.
    tensors.retain(|name, _| !name.starts_with("bn."));
    tensors.insert("bn.running_mean".to_owned(), (Dtype::F32, vec![7], vec![0; 28]));
    let file = write(&tensors, &folder.path().join("broken.safetensors"));
    let error = load(Source::File(file), Reference::default()).err().unwrap().to_string();
    assert!(error.contains("`bn.running_mean` has shape [7], expected [16]"), "{error}");
}

fn open_folder(case: &Case) -> Box<dyn Vae> {
    load(case.source(), Reference::default()).unwrap()
}
