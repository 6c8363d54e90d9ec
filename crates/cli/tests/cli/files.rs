//! Files of latents as other programs write them, batches, videos, and what stands beside latents.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::batch::{events, files};
use crate::program::{Serving, run, values};

/// A tensor to be written: its name, its type and its shape.
type Spec<'a> = (&'a str, Dtype, &'a [usize]);

/// A safetensors file with the same values for each shape, and these metadata.
fn write(path: &Path, tensors: &[Spec], metadata: &[(&str, &str)]) {
    let data: Vec<_> = tensors
        .iter()
        .map(|(_, dtype, shape)| {
            let values = values(shape.iter().product());
            match dtype {
                Dtype::F32 => values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>(),
                _ => vec![0; values.len() * dtype.bitsize() / 8],
            }
        })
        .collect();
    let views = tensors
        .iter()
        .zip(&data)
        .map(|((name, dtype, shape), data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    let entries = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let metadata = (!metadata.is_empty()).then(|| entries.collect());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

/// What a decode of one file gives, and what it says on stderr.
fn decoded(latents: &Path, flags: &[&str]) -> (Vec<u8>, String) {
    let out = latents.with_extension("out.npy");
    let arguments = ["decode", latents.to_str().unwrap(), "-o", out.to_str().unwrap(), "--model", "demo"];
    let finished = run(&[&arguments[..], flags].concat()).ok();
    (fs::read(out).unwrap(), finished.stderr)
}

/// ComfyUI's `LoadLatent` multiplies by 1 / 0.18215 where the marker is missing, and its VAEs are given latents that are
/// not scaled. So do the trainers' caches differ, which their sources say.
#[test]
fn files_of_known_programs_are_scaled_as_they_are_meant_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    const SHAPE: &[usize] = &[1, 16, 3, 5];
    let plain = path("plain.safetensors");
    write(&plain, &[("latents", Dtype::F32, SHAPE)], &[]);
    let model = decoded(&plain, &[]);
    assert_eq!(model.1, "", "a file of nobody in particular is not talked about");
    let unscaled = decoded(&plain, &["--no-scaling"]).0;
    let old = decoded(&plain, &["--scaling-factor", "0.18215"]).0;

    let marker = ("latent_format_version_0", Dtype::F32, &[0][..]);
    let mask = ("noise_mask", Dtype::F32, &[1, 1, 24, 40][..]);
    let latents = ("latent_tensor", Dtype::F32, SHAPE);
    write(&path("ComfyUI_00001_.latent"), &[latents, mask, marker], &[("prompt", "{}")]);
    write(&path("old.latent"), &[latents], &[]);
    let one = &[("latents_1x3x5_float32", Dtype::F32, &[16, 3, 5][..])];
    write(&path("z.sft"), one, &[("architecture", "z_image")]);
    write(&path("fk.safetensors"), one, &[("architecture", "flux_kontext")]);
    write(&path("_latent_cache/p.safetensors"), &[("latent", Dtype::F32, &[16, 3, 5])], &[]);
    for (name, expected, words) in [
        ("ComfyUI_00001_.latent", &unscaled, "ComfyUI saves latents as the decoder takes them"),
        ("old.latent", &old, "divided by 0.18215"),
        ("z.sft", &unscaled, "musubi-tuner saves latents as the decoder takes them"),
        ("fk.safetensors", &model.0, "musubi-tuner has scaled these latents"),
        ("_latent_cache/p.safetensors", &model.0, "ai-toolkit has scaled these latents"),
    ] {
        let (bytes, said) = decoded(&path(name), &[]);
        assert!(bytes == *expected, "{name} is scaled otherwise");
        assert!(said.contains(words) && said.lines().count() == 1, "{name}: {said:?}");
    }
    // What the command line says goes first, and needs no comment.
    let (bytes, said) = decoded(&path("old.latent"), &["--no-scaling"]);
    assert!(bytes == unscaled && said.is_empty(), "{said:?}");
}

#[test]
fn what_is_no_latents_is_skipped_and_counted_so() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let video = &[("architecture", "z_image")];
    for name in ["a", "b"] {
        let latents = ("latents_1x3x5_float32", Dtype::F32, &[16, 3, 5][..]);
        let control = ("latents_control_1x3x5_float32", Dtype::F32, &[16, 3, 5][..]);
        write(&cache.join(format!("{name}_zi.safetensors")), &[latents, control], video);
        let text = ("varlen_llm_embed_float32", Dtype::F32, &[2, 4, 8][..]);
        write(&cache.join(format!("{name}_zi_te.safetensors")), &[text, ("mask", Dtype::I64, &[4])], video);
    }
    write(&cache.join("sizes.safetensors"), &[("latent", Dtype::U8, &[3, 8, 8])], &[]);
    let out = folder.path().join("out");
    let arguments = ["decode", cache.to_str().unwrap(), "-o", out.to_str().unwrap(), "--json"];
    let finished = run(&arguments).ok();
    let (counts, summary) = events(&finished.stdout);
    assert_eq!((counts["done"], counts["skipped"]), (2, 3));
    assert_eq!((&summary["skipped"], &summary["failed"]), (&3.into(), &0.into()));
    assert!(
        finished.stdout.contains("it holds no latents, but mask (no floats [4]), varlen_llm_embed_float32")
    );
    assert!(finished.stderr.contains("2 done, 3 without latents in "), "{}", finished.stderr);
    let example = "without latents: ";
    let line = finished.stderr.lines().find(|line| line.starts_with(example)).unwrap();
    assert!(
        line.contains("it holds no latents, but ") && line.ends_with("; --json names the others"),
        "{line}"
    );
    // What is so for all files of a kind is said once.
    assert_eq!(finished.stderr.matches("musubi-tuner saves latents").count(), 1, "{}", finished.stderr);
    assert_eq!(files(&out), ["a_zi.jpg", "b_zi.jpg"]);

    // A pattern chooses other tensors of whole folders.
    let other = folder.path().join("other");
    let arguments =
        ["decode", cache.to_str().unwrap(), "-o", other.to_str().unwrap(), "--tensor", "*control*"];
    let said = run(&arguments).ok().stderr;
    assert!(said.contains("2 done, 3 without latents"), "{said}");
    assert_eq!(files(&other), ["a_zi.jpg", "b_zi.jpg"]);
    let one = cache.join("a_zi.safetensors");
    let both = ["decode", one.to_str().unwrap(), "-o", "out.png", "--tensor", "latents*"];
    run(&both).fails(1, "let -o name a folder for all of them");

    // Where nothing is latents, that is said.
    let text = cache.join("a_zi_te.safetensors");
    let arguments = ["decode", text.to_str().unwrap(), "-o", &format!("{}/", out.display())];
    run(&arguments).fails(1, "it holds no latents, but mask");
    run(&["decode", text.to_str().unwrap(), "-o", "out.png"]).fails(1, "looks like latents");
}

#[test]
fn a_batch_becomes_a_file_for_each_of_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let batch = path("batch.safetensors");
    write(&batch, &[("latents", Dtype::F32, &[4, 16, 3, 5])], &[]);
    // The same pictures one by one: the third is the third quarter of the values.
    let all = values(4 * 16 * 3 * 5);
    let single: Vec<u8> = all[2 * 240..3 * 240].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![1, 16, 3, 5], &single).unwrap();
    fs::write(path("third.safetensors"), safetensors::serialize([("latents", view)], None).unwrap()).unwrap();

    let server = Serving::start(&[], &[]);
    let decode = |latents: &str, out: &str, flags: &[&str]| {
        run(&[&["decode", path(latents).to_str().unwrap(), "-o", path(out).to_str().unwrap()], flags]
            .concat())
    };
    for (out, way) in [("here/", ["--model", "demo"]), ("there/", ["--endpoint", &server.url])] {
        let flags = [&way[..], &["--image-format", "png", "--no-metadata"]].concat();
        decode("batch.safetensors", out, &flags).ok();
        assert_eq!(files(&path(out)), ["batch-0.png", "batch-1.png", "batch-2.png", "batch-3.png"]);
        decode("third.safetensors", "third.png", &flags).ok();
        let (one, of_batch) = (fs::read(path("third.png")), fs::read(path(out).join("batch-2.png")));
        assert!(one.unwrap() == of_batch.unwrap(), "{out}");
        // A run that was interrupted goes on with the picture that is missing.
        fs::remove_file(path(out).join("batch-1.png")).unwrap();
        let stdout =
            decode("batch.safetensors", out, &[&flags[..], &["--resume", "--json"]].concat()).ok().stdout;
        let (counts, _) = events(&stdout);
        assert_eq!((counts["done"], counts["skipped"]), (1, 3));
        let done: Value = stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .find(|line: &Value| line["event"] == "done")
            .unwrap();
        assert_eq!(done["index"], 1);
    }
    // As a tensor it stays together, and into one picture it does not go.
    decode("batch.safetensors", "all/", &["--output-type", "pt"]).ok();
    assert_eq!(files(&path("all")), ["batch.safetensors"]);
    decode("batch.safetensors", "one.png", &[]).fails(1, "holds 4 pictures, which do not fit into one file");
}

#[test]
fn a_video_model_with_a_folder_writes_videos() {
    let folder = tempfile::tempdir().unwrap();
    let latents = folder.path().join("latents");
    // With and without a batch axis; two videos in one file.
    write(&latents.join("a.safetensors"), &[("latents", Dtype::F32, &[1, 16, 2, 3, 5])], &[]);
    write(&latents.join("b.safetensors"), &[("latents", Dtype::F32, &[16, 2, 3, 5])], &[]);
    write(&latents.join("c.safetensors"), &[("latents", Dtype::F32, &[2, 16, 1, 3, 5])], &[]);
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/vae/video");
    let server = Serving::start(&["--model", &format!("video={model}")], &[]);
    for (out, way) in [("here", ["--model", model]), ("there", ["--endpoint", &server.url])] {
        let out = folder.path().join(out);
        let arguments = ["decode", latents.to_str().unwrap(), "-o", out.to_str().unwrap()];
        run(&[&arguments[..], &way].concat()).ok();
        assert_eq!(files(&out), ["a.mp4", "b.mp4", "c-0.mp4", "c-1.mp4"]);
        assert_eq!(&fs::read(out.join("a.mp4")).unwrap()[4..8], b"ftyp");
    }
    // A server that does not tell: the shape does, where it can.
    let tensors = folder.path().join("tensors");
    let arguments =
        ["decode", latents.to_str().unwrap(), "-o", tensors.to_str().unwrap(), "--output-type=pt"];
    run(&[&arguments[..], &["--model", model]].concat()).ok();
    assert_eq!(files(&tensors), ["a.safetensors", "b.safetensors", "c.safetensors"]);
}
