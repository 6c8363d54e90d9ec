//! Models as people name them, and what they are told of those that cannot be had.

use std::fs;
use std::path::Path;

use super::program::{Serving, command, run, run_with, write_latents};

/// A small model that diffusers made.
fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vae").join(name).to_str().unwrap().to_owned()
}

/// Decodes with this model and these variables.
fn decode(model: &[&str], variables: &[(&str, &str)]) -> super::program::Finished {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let out = folder.path().join("out.npy");
    let arguments = [&["decode", latents.as_str(), "-o", out.to_str().unwrap()], model].concat();
    run_with(&arguments, variables)
}

#[test]
fn mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    let onnx = format!("{here}/x.onnx");
    fs::write(&onnx, b"\x08\x08\x12\x07pytorch").unwrap();
    let gguf = format!("{here}/y.safetensors");
    fs::write(&gguf, b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    let text = format!("{here}/text.safetensors");
    fs::write(&text, "just some text that somebody has named so").unwrap();
    for (model, code, words) in [
        (&*text, 1, "its content is not that of a safetensors file, whatever its name says"),
        ("sdlx", 1, "did you mean `sdxl`? `remote-vae models` lists the names"),
        ("demo,scaling_factr=0.5", 2, "did you mean `scaling_factor`?"),
        ("health=demo", 2, "a path of the server itself, as are predict, health"),
        ("my model=demo", 2, "letters of English"),
        (
            "/no/such/folder",
            1,
            "there is no file or folder /no/such/folder: not even the folder /no is there",
        ),
        (&onnx, 1, "it is an ONNX model; expected a .safetensors file"),
        (&gguf, 1, "it is a GGUF file"),
    ] {
        decode(&["--model", model], &[]).fails(code, words);
        run(&["serve", "--port=0", "--log=error", "--model", model]).fails(code, words);
    }
    // What is not there is known before the server starts, even if models are loaded later.
    run(&["serve", "--port=0", "--lazy", "--model", "x=sdlx"]).fails(1, "did you mean `sdxl`?");
    let finished = decode(&["--model", &onnx], &[]);
    assert_eq!(finished.stderr.matches("x.onnx").count(), 1, "{}", finished.stderr);
}

#[test]
fn several_models_in_the_variable_mean_the_first_where_one_is_needed() {
    for models in ["first=demo,second=demo", "demo,demo", "demo"] {
        decode(&[], &[("REMOTE_VAE_MODEL", models)]).ok();
    }
    run_with(
        &["bench", "--sizes", "16", "--runs", "1"],
        &[("REMOTE_VAE_MODEL", "first=demo,second=/no/such/folder")],
    )
    .ok();
    let server = Serving::start(&[], &[("REMOTE_VAE_MODEL", "first=demo,second=demo")]);
    assert!(server.greeting.contains("at /first and /") && server.greeting.contains("at /second"));
    server.stop();
    // On the command line it is a mistake.
    decode(&["--model", "a=demo,b=demo"], &[]).fails(2, "names 2 models");
}

#[test]
fn weights_are_kept_where_the_flag_says() {
    let model = fixture("flux-like");
    for load in ["copy", "map"] {
        decode(&["--model", &model, "--load", load], &[]).ok();
    }
    decode(&["--model", &model, "--load", "half"], &[]).fails(2, "possible values: copy, map");
}

/// What is concluded of a file is said on stderr, by every command.
#[test]
fn what_is_assumed_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my-flux-vae.safetensors");
    let source = Path::new(&fixture("flux-like")).join("diffusion_pytorch_model.fp16.safetensors");
    fs::copy(source, &file).unwrap();
    fs::copy(Path::new(&fixture("flux-like")).join("config.json"), folder.path().join("config.json"))
        .unwrap();
    let finished = decode(&["--model", file.to_str().unwrap()], &[]).ok();
    assert!(
        finished.stderr.contains("0.3611 and shift_factor 0.1159 of Flux are assumed"),
        "{}",
        finished.stderr
    );
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}

#[test]
fn pull_says_what_cannot_be_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let offline = [("HF_HOME", home), ("HF_HUB_OFFLINE", "1")];
    let finished = run_with(&["pull", "sdxl"], &offline);
    assert!(!finished.stderr.contains("no file or folder here"), "it is a listed name: {}", finished.stderr);
    finished.fails(
        1,
        "HF_HUB_OFFLINE forbids to download it; a model that was downloaded elsewhere can be named",
    );
    run_with(&["pull", "some/model"], &offline).fails(1, "is no file or folder here");
    // Nothing was downloaded, so nothing is said to be kept.
    let nowhere = [("HF_HOME", home), ("HF_ENDPOINT", "http://hub.invalid")];
    let output = command(&["pull", "sdxl"], &nowhere).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("hub.invalid") && !stderr.contains("is kept"), "{stderr}");
    run_with(&["pull", "sdlx"], &offline).fails(1, "did you mean `sdxl`?");
    run_with(&["pull", home], &offline).fails(1, "is on this machine already");
    assert!(run_with(&["pull", "demo"], &offline).ok().stdout.contains("part of this program"));
}

#[test]
fn what_a_model_computes_is_shown() {
    let table = run(&["models", "--graph", "demo", "--size", "64x32"]).ok().stdout;
    for words in [
        "AutoencoderKL, decoder, 64x32",
        "decoder.mid_block.resnets.0.conv1",
        "1 x 16 x 4 x 8\n",
        "1 x 3 x 32 x 64",
        "These look at the whole picture: group norm, 2 groups; attention.",
    ] {
        assert!(table.contains(words), "{words:?} is missing in\n{table}");
    }
    let encoder = run(&["models", "--graph", "demo", "--encoder"]).ok().stdout;
    assert!(encoder.contains("encoder.conv_in") && encoder.contains("1 x 3 x 512 x 512"), "{encoder}");
    let dot = run(&["models", "--graph", "demo", "--dot"]).ok().stdout;
    assert!(dot.starts_with("digraph ") && dot.ends_with("}\n") && dot.contains("n1 -> n2;"), "{dot}");
    let too_small = run(&["models", "--graph", "demo", "--size", "4x9"]);
    too_small.fails(1, "smaller than one latent, which stands for 8x8 pixels");
}

#[test]
fn a_single_frame_has_a_graph_of_its_own_where_a_model_of_videos_does_less_to_it() {
    let wan = fixture("wan");
    let graph =
        |frames: &str| run(&["models", "--graph", &wan, "--size", "16x8", "--frames", frames]).ok().stdout;
    let (still, clip) = (graph("1"), graph("5"));
    assert!(still.contains("conv 3x3, last of 3 taps in time") && !still.contains("time_conv"), "{still}");
    assert!(clip.contains("conv 3x3x3, causal") && clip.contains("time_conv"), "{clip}");
    assert!(clip.contains("1 x 3 x 5 x 8 x 16"), "{clip}");
}
