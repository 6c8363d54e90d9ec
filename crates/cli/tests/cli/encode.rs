//! `encode` and `roundtrip`, run as a person would run them.

use std::fs;
use std::path::{Path, PathBuf};

use media::ImageFile;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::program::{Serving, run};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images").join(name)
}

/// The shape of the only tensor in a file that we wrote, and its metadata.
fn latents(path: &Path) -> (Vec<usize>, Vec<u8>, std::collections::HashMap<String, String>) {
    let file = fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let view = tensors.tensor("latents").unwrap();
    (view.shape().to_vec(), view.data().to_vec(), metadata.metadata().clone().unwrap_or_default())
}

#[test]
fn a_local_encode_gives_the_bytes_of_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Serving::start(&[], &[]);
    let photo = fixture("420.jpg");
    let photo = photo.to_str().unwrap();
    let cases: &[&[&str]] = &[
        &["npy", "--sample-mode", "argmax"],
        &["npy", "--sample-mode", "argmax", "--no-scaling"],
        &["npy", "--sample-mode", "argmax", "--out-dtype", "float32"],
        &["safetensors", "--sample-mode", "argmax", "--dtype", "bfloat16"],
        &["npy", "--seed", "7"],
        &["safetensors", "--seed", "7", "--scaling-factor", "0.5", "--shift-factor", "-0.25"],
    ];
    let mut seen = Vec::new();
    for (index, flags) in cases.iter().enumerate() {
        let encode = |how: [&str; 2], name: &str| {
            let out = folder.path().join(format!("{index}-{name}.{}", flags[0]));
            let out = out.to_str().unwrap();
            let mut arguments = vec!["encode", photo, "-o", out, "--no-metadata"];
            arguments.extend(how);
            arguments.extend(&flags[1..]);
            let said = run(&arguments).ok().stdout;
            assert!(said.starts_with(out) && said.contains("[1, 16, 4, 5]"), "{said}");
            fs::read(out).unwrap()
        };
        let here = encode(["--model", "demo"], "here");
        assert!(here == encode(["--endpoint", &server.url], "there"), "{flags:?}");
        assert!(!seen.contains(&here), "{flags:?} changes nothing");
        seen.push(here);
    }
    assert_eq!(server.stop(), (Some(0), String::new()));
}

#[test]
fn flags_that_would_change_nothing_are_refused() {
    let photo = fixture("rgb.png");
    let photo = photo.to_str().unwrap();
    for (flags, words) in [
        (&["-o", "a.npy", "--sample-mode", "argmax", "--seed", "7"][..], "--sample-mode argmax takes none"),
        (&["-o", "a.npy", "--tensor-format", "safetensors"], "contradicts the name a.npy"),
    ] {
        run(&[&["encode", photo], flags].concat()).fails(2, words);
    }
}

#[test]
fn a_seed_that_nobody_gave_is_told_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let photo = fixture("rgb.png");
    let photo = photo.to_str().unwrap();
    let said = run(&["encode", photo, "-o", &path("a.safetensors")]).ok().stdout;
    let (shape, values, metadata) = latents(Path::new(&path("a.safetensors")));
    assert_eq!(shape, [1, 16, 4, 5]);
    assert_eq!((metadata["VAE"].as_str(), metadata["VAE scaling"].as_str()), ("demo", "the model's own"));
    let seed = metadata["VAE sample_mode"].strip_prefix("sample, seed=").unwrap();
    assert!(said.contains(&format!("seed {seed}")), "{said}");
    run(&["encode", photo, "-o", &path("b.safetensors"), "--seed", seed]).ok();
    assert!(latents(Path::new(&path("b.safetensors"))).1 == values);
    run(&["encode", photo, "-o", &path("c.safetensors")]).ok();
    assert!(latents(Path::new(&path("c.safetensors"))).1 != values);
    // What was encoded can be decoded.
    run(&["decode", &path("a.safetensors"), "-o", &path("a.webp")]).ok();
    let file = fs::read(path("a.webp")).unwrap();
    assert_eq!(ImageFile::open(&file).unwrap().size(), (40, 32));
}

#[test]
fn a_folder_is_encoded_and_what_fails_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir_all(photos.join("more")).unwrap();
    for (name, to) in [("rgb.png", "a.png"), ("420.jpg", "b.JPG"), ("lossy.webp", "more/c.webp")] {
        fs::copy(fixture(name), photos.join(to)).unwrap();
    }
    fs::write(photos.join("d.png"), "no picture").unwrap();
    fs::write(photos.join("notes.txt"), "no picture either").unwrap();
    let out = folder.path().join("latents");
    let arguments = ["encode", photos.to_str().unwrap(), "-o", out.to_str().unwrap(), "--seed=1", "--json"];
    let finished = run(&arguments);
    assert!(finished.stderr.contains("d.png: cannot encode"), "{}", finished.stderr);
    finished.fails(3, "1 of 4 failed");
    for name in ["a.safetensors", "b.safetensors", "more/c.safetensors"] {
        assert_eq!(latents(&out.join(name)).0, [1, 16, 4, 5]);
    }
    let again = run(&[&arguments[..], &["--resume"]].concat());
    let summary: Value = serde_json::from_str(again.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&summary["skipped"], &summary["failed"], &summary["done"]),
        (&3.into(), &1.into(), &0.into())
    );
    again.fails(3, "1 of 4 failed");
}

/// Where Pillow raises, there is no file of latents.
#[test]
fn a_picture_that_is_cut_off_makes_no_latents() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let photo = fs::read(fixture("420.jpg")).unwrap();
    for (index, length) in [photo.len() - 2, photo.len() * 99 / 100, photo.len() / 2].into_iter().enumerate()
    {
        let (cut, out) = (path(&format!("{index}.jpg")), path(&format!("{index}.npy")));
        fs::write(&cut, &photo[..length]).unwrap();
        let finished = run(&["encode", &cut, "-o", &out, "--model", "demo"]);
        assert!(finished.stderr.contains(&format!("cannot encode {cut}: ")), "{}", finished.stderr);
        finished.fails(1, "the JPEG file is cut off");
        assert!(!Path::new(&out).exists());
    }
}

#[test]
fn what_cannot_be_encoded_is_said_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let photo = fixture("rgb.png");
    let photo = photo.to_str().unwrap();
    let text = folder.path().join("text.png");
    fs::write(&text, "no picture").unwrap();
    let fails = |code: i32, arguments: &[&str], sentence: &str| {
        run(&[&["encode"], arguments].concat()).fails(code, sentence);
    };
    fails(2, &[photo, "-o", "out.png"], ".safetensors or .npy");
    fails(2, &[photo, "-o", "out.npy", "--dtype=bfloat16"], "NumPy has no bfloat16");
    fails(1, &[photo, "-o", "nowhere/out.npy"], "there is no folder nowhere");
    fails(1, &["missing.png", "-o", "out.npy"], "cannot read missing.png");
    fails(1, &["missing/", "-o", "out/"], "there is no folder missing/");
    fails(1, &[text.to_str().unwrap(), "-o", "out.npy"], "PNG, JPEG or WebP");
    fails(2, &[photo, "-o", "out.npy", "--shift-factor=1"], "--shift-factor needs --scaling-factor");
    fails(2, &[photo, "-o", "out.npy", "--seed", "-1"], "expected a whole number");
    run(&["encode", photo, "-o", "out.npy", "--endpoint=http://localhost", "--threads=2"])
        .fails(2, "drop one of them");
    run(&["roundtrip", photo, "-o", "out.jpg"]).fails(2, "name it .png");
}

#[test]
fn a_roundtrip_shows_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/astronaut.png");
    let out = folder.path().join("compared.png");
    let arguments = ["roundtrip", photo.to_str().unwrap(), "-o", out.to_str().unwrap(), "--json"];
    let told: Value = serde_json::from_str(&run(&arguments).ok().stdout).unwrap();
    let (psnr, ssim) = (told["psnr"].as_f64().unwrap(), told["ssim"].as_f64().unwrap());
    // assets/README.md says what the demonstration model keeps of this photograph.
    assert!(psnr > 27.0 && (0.5..1.0).contains(&ssim), "{told}");
    let sheet = fs::read(&out).unwrap();
    let sheet = ImageFile::open(&sheet).unwrap().decode(media::Channels::Rgb).unwrap();
    assert_eq!((sheet.width, sheet.height), (3 * 512 + 16, 512));
    // The first of the three is the photograph, byte for byte.
    let file = fs::read(&photo).unwrap();
    let original = ImageFile::open(&file).unwrap().decode(media::Channels::Rgb).unwrap();
    let rows = sheet.pixels.chunks_exact(sheet.width * 3).zip(original.pixels.chunks_exact(512 * 3));
    for (sheet, original) in rows {
        assert!(&sheet[..512 * 3] == original);
        let (decoded, difference) = (&sheet[520 * 3..1032 * 3], &sheet[1040 * 3..]);
        for ((a, b), difference) in original.iter().zip(decoded).zip(difference) {
            assert_eq!(a.abs_diff(*b).saturating_mul(8), *difference);
        }
    }

    let server = Serving::start(&[], &[]);
    let people = run(&[
        "roundtrip",
        fixture("420.jpg").to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
        "--endpoint",
        &server.url,
    ]);
    let people = people.ok().stdout;
    for words in ["40 x 32, resized from 45 x 37", "PSNR", "dB", "SSIM", "difference x 8"] {
        assert!(people.contains(words), "{words} is missing in\n{people}");
    }
}
