//! What is said so that nobody has to guess: which model did it, what would have fitted, what was skipped.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use crate::batch::files;
use crate::program::{Serving, run, run_with, write_latents};

/// The latents that come with the program.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo-latents/astronaut.safetensors");
const PHOTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images");

/// What the note of a model that nobody has named says.
const UNNAMED: &str = "as neither --model nor --endpoint is given";

/// Zeros of this shape as latents in a file.
fn write_zeros(path: &Path, shape: &[usize]) {
    let data = vec![0; 2 * shape.iter().product::<usize>()];
    let view = TensorView::new(Dtype::F16, shape.to_vec(), &data).unwrap();
    fs::write(path, safetensors::serialize([("latents", view)], None).unwrap()).unwrap();
}

#[test]
fn a_model_that_nobody_has_named_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let latents = write_latents(folder.path(), "a.safetensors", &["latents"]);
    write_latents(folder.path(), "b.safetensors", &["latents"]);
    let photo = format!("{PHOTOS}/rgb.png");
    let said = run(&["decode", &latents, "-o", &path("a.png")]).ok().stderr;
    assert!(said.contains(UNNAMED) && said.contains("--model flux") && said.lines().count() == 1, "{said}");
    let said = run(&["encode", &photo, "-o", &path("e.npy")]).ok().stderr;
    assert!(said.contains(UNNAMED) && said.lines().count() == 1, "{said}");
    // Of many files once.
    let both = ["decode", &latents, &path("b.safetensors"), "-o", &path("out/")];
    assert_eq!(run(&both).ok().stderr.matches(UNNAMED).count(), 1);

    // Whoever has named it knows it, and the example is its own.
    let server = Serving::start(&[], &[]);
    for flags in [["--model", "demo"], ["--endpoint", &server.url]] {
        for arguments in
            [["decode", &latents, "-o", &path("a.png")], ["encode", &photo, "-o", &path("e.npy")]]
        {
            assert_eq!(run(&[&arguments[..], &flags].concat()).ok().stderr, "");
        }
    }
    let named = [("REMOTE_VAE_MODEL", "demo")];
    assert_eq!(run_with(&["decode", &latents, "-o", &path("a.png")], &named).ok().stderr, "");
    assert_eq!(run(&["decode", EXAMPLE, "-o", &path("a.png")]).ok().stderr, "");
    let said = run(&["decode", EXAMPLE, "-o", &path("example/")]).ok().stderr;
    assert!(!said.contains(UNNAMED), "{said}");
}

#[test]
fn a_model_that_fits_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_zeros(&folder.path().join("sd.safetensors"), &[1, 4, 8, 8]);
    write_zeros(&folder.path().join("five.safetensors"), &[1, 5, 8, 8]);
    let decode = |name: &str| run(&["decode", &path(name), "-o", &path("a.png"), "--model", "demo"]);
    decode("sd.safetensors").fails(
        1,
        "do not fit this model, which takes [B, 16, h, w]; this model is `demo`, the embedded one: for latents of 4 \
         channels, --model sd-v1 or sdxl",
    );
    decode("five.safetensors").fails(1, "[B, 16, h, w]; this model is `demo`, the embedded one");
    // What the command line would show itself.
    let video = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/vae/video");
    write_zeros(&folder.path().join("video.safetensors"), &[1, 16, 2, 3, 5]);
    let one = ["decode", &path("video.safetensors"), "-o", &path("a.png"), "--model", video];
    run(&one).fails(2, "is for one picture, and these are latents of a video");
    let many = ["decode", &path("sd.safetensors"), "-o", &path("out/"), "--output-type=mp4", "--model=demo"];
    run(&many).fails(2, "--output-type mp4 is for a video, and demo decodes pictures");
}

#[test]
fn two_endings_of_one_name_become_two_files() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for name in ["lossy.webp", "rgb.png"] {
        fs::copy(format!("{PHOTOS}/{name}"), photos.join(name)).unwrap();
    }
    fs::copy(format!("{PHOTOS}/rgb.jpg"), photos.join("rgb.jpg")).unwrap();
    let out = folder.path().join("out");
    run(&["encode", photos.to_str().unwrap(), "-o", out.to_str().unwrap(), "--model=demo"]).ok();
    assert_eq!(files(&out), ["lossy.safetensors", "rgb.jpg.safetensors", "rgb.png.safetensors"]);
}

#[test]
fn output_is_another_name_of_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let photo = format!("{PHOTOS}/rgb.png");
    run(&["decode", EXAMPLE, "--output", &path("a.png")]).ok();
    run(&["encode", &photo, "--output", &path("a.npy")]).ok();
    run(&["roundtrip", &photo, "--output", &path("b.png")]).ok();
    assert_eq!(files(folder.path()), ["a.npy", "a.png", "b.png"]);
}

#[test]
fn variables_that_are_none_are_told() {
    for (variables, words) in [
        (
            &[("REMOTE_VAE_PROT", "9")][..],
            "REMOTE_VAE_PROT is no setting and changes nothing: did you mean REMOTE_VAE_PORT?",
        ),
        (&[("REMOTE_VAE_COLOUR", "9")], "REMOTE_VAE_COLOUR is no setting"),
    ] {
        let finished = run_with(&["config"], variables).ok();
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
    assert_eq!(run_with(&["config"], &[("REMOTE_VAE_OUT", "a.png")]).ok().stderr, "");
}

#[test]
fn numbers_are_asked_for_in_words() {
    for arguments in [
        &["serve", "--max-queue", "abc"][..],
        &["serve", "--port", "abc"],
        &["serve", "--workers", "many"],
        &["serve", "--workers", "0"],
        &["serve", "--max-queue", "-1"],
        &["health", "--port", "x"],
        &["bench", "--runs", "none"],
    ] {
        let finished = run(arguments);
        for words in ["invalid digit", "tip:"] {
            assert!(!finished.stderr.contains(words), "{}", finished.stderr);
        }
        finished.fails(2, "expected a whole number");
    }
}

#[test]
fn a_preview_that_cannot_be_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    let finished = run(&["decode", EXAMPLE, "-o", out.to_str().unwrap(), "--preview"]).ok();
    assert_eq!(finished.stderr, "no preview: pictures are shown on a terminal, and stderr is none\n");
}

#[test]
fn help_is_of_the_command() {
    run(&["decode", "a.npy", "-o", "b.png", "--model=demo", "--endpoint=http://a"])
        .fails(2, "Usage: remote-vae decode");
    let help = run(&["roundtrip", "--help"]).ok().stdout;
    assert!(help.contains("URL of a server") && !help.contains("least busy"), "{help}");
    let help = run(&["serve", "--help"]).ok().stdout;
    assert!(help.contains("serve sdxl flux=./ae.safetensors"), "{help}");
    assert!(help.contains("REMOTE_VAE_MODEL=sdxl,flux=./ae.safetensors"), "{help}");
}
