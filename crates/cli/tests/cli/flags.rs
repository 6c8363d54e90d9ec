//! Flags: what they mean, and what is refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::{self, Serving, run, run_with, write_latents};

#[test]
fn models_are_served_by_their_names_alone() {
    let server = Serving::start(&["demo", "second=demo"], &[("REMOTE_VAE_MODEL", "third=demo")]);
    for words in ["at /demo and /:", "at /second:"] {
        assert!(server.greeting.contains(words), "{words} is missing in\n{}", server.greeting);
    }
    assert!(!server.greeting.contains("third"), "the command line goes before the environment");
}

#[test]
fn config_tells_of_models_without_their_flag() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("remote-vae.toml");
    fs::write(&file, "model = [\"a=demo\"]\nmax-body = \"3MiB\"\n").unwrap();
    let file = file.to_str().unwrap();
    let said = run(&["config", "--config", file]).ok().stdout;
    assert!(said.contains("model = [\"a=demo\"]") && said.contains("max-body = \"3MiB\""), "{said}");
    assert!(said.contains("max-pending = \"512MiB\""), "{said}");
    let said = run(&["config", "b=demo", "c=demo", "--config", file]).ok().stdout;
    let line = said.lines().find(|line| line.starts_with("model =")).unwrap();
    assert!(line.starts_with("model = [\"b=demo\", \"c=demo\"]") && line.ends_with("# SOURCE"), "{line}");
    let said = run(&["config", "b=demo", "--model", "c=demo"]).ok().stdout;
    assert!(said.contains("model = [\"b=demo\", \"c=demo\"]"), "{said}");
    // In the order of the command line, of which the first is the default.
    let said = run(&["config", "--model", "a=demo", "b=demo", "--model=c=demo"]).ok().stdout;
    let line = said.lines().find(|line| line.starts_with("model =")).unwrap();
    assert!(line.starts_with("model = [\"a=demo\", \"b=demo\", \"c=demo\"]"), "{line}");
    assert!(line.ends_with("# SOURCE, --model"), "{line}");
    // What nobody has set has a default all the same.
    for words in ["# max-body", "# max-total-pixels", "# max-connections-per-client"] {
        let line = said.lines().find(|line| line.starts_with(words)).unwrap();
        assert!(line.contains("# default: ") && !line.ends_with("not set"), "{line}");
    }
    assert!(said.contains("default: 64MiB, for models of videos 384MiB"), "{said}");
}

#[test]
fn a_size_without_a_unit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("remote-vae.toml");
    fs::write(&file, "max-body = 1048576\n").unwrap();
    let words = "it has no unit: write 8GiB or 8MiB, or 8B for bytes";
    for flag in ["--memory-limit", "--max-body", "--max-pending"] {
        run(&["serve", "--port=0", flag, "8"]).fails(2, words);
    }
    run_with(&["serve", "--port=0"], &[("REMOTE_VAE_MEMORY_LIMIT", "8")]).fails(2, words);
    run(&["serve", "--port=0", "--config", file.to_str().unwrap()]).fails(2, "write 1048576GiB");
}

#[test]
fn endings_that_cannot_be_written_are_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/rgb.png");
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["a.gif", "a.tiff", "a.bmp", "a.png.part", "a"] {
        let words = ".jpg, .png or .webp for a picture, .mp4 for a video, .safetensors or .npy for a tensor";
        run(&["decode", &latents, "-o", &path(name), "--model", "/no/such/model"]).fails(2, words);
        run(&["encode", photo, "-o", &path(name)]).fails(2, ".safetensors or .npy");
        run(&["roundtrip", photo, "-o", &path(name)]).fails(2, "name it .png");
        assert!(!Path::new(&path(name)).exists());
    }
    run(&["decode", &latents, &latents, "-o", &path("a.jpe")]).fails(2, "looks like one file");
    run(&["quickstart", "--out", &path("a.png")]).fails(2, "looks like one file");
    run(&["decode", &latents, "-o", &path("folder.png/")]).ok();
    assert!(Path::new(&path("folder.png/latents.jpg")).exists(), "what the refusal advises works");
    for name in ["a.JPG", "a.jpe", "a.jfif"] {
        run(&["decode", &latents, "-o", &path(name)]).ok();
        assert!(fs::read(path(name)).unwrap().starts_with(b"\xff\xd8\xff"), "{name}");
    }
    // A device has no ending.
    run(&["decode", &latents, "-o", "/dev/null"]).ok();
}

#[test]
fn quality_and_type_are_those_of_the_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let server = Serving::start(&[], &[]);
    let decode = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        let arguments = [&["decode", &latents, "--no-metadata", "-o", out.to_str().unwrap()], flags].concat();
        let files = [["--model", "demo"], ["--endpoint", &server.url]].map(|way| {
            run(&[&arguments[..], &way].concat()).ok();
            fs::read(&out).unwrap()
        });
        assert!(files[0] == files[1], "{name} {flags:?}");
        let [file, _] = files;
        file
    };
    for (name, default) in [("a.jpg", "--quality=75"), ("a.webp", "--quality=80")] {
        let plain = decode(name, &[]);
        assert!(decode(name, &[default]) == plain, "{default} is the default");
        let [worst, best] = ["--quality=1", "--quality=100"].map(|flag| decode(name, &[flag]).len());
        assert!(worst < plain.len() && plain.len() < best, "{name}: {worst} to {best}");
    }
    let npy = |file: Vec<u8>| String::from_utf8_lossy(&file[..128]).into_owned();
    assert!(npy(decode("a.npy", &["--out-dtype=float32"])).contains("'<f4'"));
    assert!(npy(decode("a.npy", &["--out-dtype=float16"])).contains("'<f2'"));
    let bf16 = decode("a.safetensors", &["--out-dtype=bfloat16"]);
    assert!(String::from_utf8_lossy(&bf16[..500]).contains("BF16"));
    for (name, flags, code, words) in [
        ("a.png", &["--quality=90"][..], 2, "a PNG keeps every pixel"),
        ("a.npy", &["--quality=90"], 2, "a tensor has none"),
        ("a.jpg", &["--quality=0"], 2, "expected a whole number from 1 to 100"),
        ("a.jpg", &["--quality=101"], 2, "from 1 to 100"),
        ("a.jpg", &["--out-dtype=float32"], 2, "--output-type pt"),
        ("a.npy", &["--out-dtype=bfloat16"], 2, "NumPy has no bfloat16"),
        ("a.npy", &["--out-dtype=float32", "--partial-postprocess"], 2, "answers in uint8"),
        ("a.mp4", &["--fps=241"], 2, "from 1 to 240"),
        (
            "a.png",
            &["--scaling-factor=0.3", "--no-scaling"],
            2,
            "--no-scaling and --scaling-factor contradict",
        ),
        ("a.png", &["--shift-factor=0.1"], 2, "--shift-factor needs --scaling-factor"),
        ("a.png", &["--scaling-factor=0"], 2, "--scaling-factor must be a finite number other than 0"),
        ("a.mp4", &[], 2, "a.mp4 is for a video, and demo decodes pictures"),
        ("a.bmp", &[], 2, "none that can be written"),
        ("a.png", &["--image-format=jpg"], 2, "--image-format contradicts the name"),
    ] {
        let out = folder.path().join(name);
        let arguments = [&["decode", &latents, "-o", out.to_str().unwrap()], flags].concat();
        run(&arguments).fails(code, words);
    }
}

#[test]
fn shells_complete_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).ok().stdout;
        for word in ["remote-vae", "quickstart", "endpoint", "memory-limit"] {
            assert!(script.contains(word), "{word} is missing for {shell}");
        }
    }
    run(&["completions", "cmd.exe"]).fails(2, "bash");
    // What it cannot print it does not pass over.
    if let Ok(full) = fs::File::options().write(true).open("/dev/full") {
        let status =
            program::command(&["completions", "bash"], &[]).stdout(full).stderr(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(1));
    }
    // The script as bash runs it: what does it offer behind `remote-vae serve --max-p`?
    let ask = "eval \"$(\"$1\" completions bash)\"; COMP_WORDS=(remote-vae serve --max-p); COMP_CWORD=2; \
               _remote__vae remote-vae --max-p serve; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let offered = bash.args(["-c", ask, "bash", env!("CARGO_BIN_EXE_remote-vae")]).output().unwrap();
    let offered = String::from_utf8(offered.stdout).unwrap();
    assert_eq!(offered.lines().collect::<Vec<_>>(), ["--max-pixels", "--max-pending"], "{offered}");
}
