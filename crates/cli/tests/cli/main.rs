//! The real program, run as a person would run it.

mod batch;
mod encode;
mod files;
mod flags;
mod hints;
#[cfg(target_os = "linux")]
mod hostile;
mod models;
mod program;
mod serve;
mod terminal;
mod tls;

use std::io::Read;
use std::net::TcpListener;

use program::{Finished, Serving, run, write_latents};

#[test]
fn quickstart_shows_the_whole_path() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("first try");
    let out = out.to_str().unwrap();
    let finished = run(&["quickstart", "--out", out]).ok();
    for word in ["image/png", "image/jpeg", "512 x 512 PNG", "512 x 512 JPEG", "float16 [1, 3, 512, 512]"] {
        assert!(finished.stdout.contains(word), "{word} is missing in\n{}", finished.stdout);
    }
    assert!(finished.stdout.contains("remote_decode(\"http://127.0.0.1:8080/\", latents, scaling_factor="));
    assert_eq!(finished.stderr, "", "a first run has nothing to warn of");

    // What it wrote is what its first advice writes.
    for name in ["picture.png", "picture.jpg", "picture.safetensors"] {
        let again = format!("{out}/again-{name}");
        run(&["decode", &format!("{out}/latents.safetensors"), "-o", &again, "--no-metadata"]).ok();
        let (first, second) = (std::fs::read(format!("{out}/{name}")), std::fs::read(again));
        assert!(first.unwrap() == second.unwrap(), "{name} differs from a local decode");
    }
}

#[test]
fn a_local_decode_gives_the_bytes_of_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let server = Serving::start(&["--model", "demo=demo", "--model", "second=demo"], &[]);
    let second = format!("{}second", server.url);
    let cases: &[&[&str]] = &[
        &["png"],
        &["jpg"],
        &["npy"],
        &["safetensors", "--no-scaling"],
        &["safetensors", "--scaling-factor", "0.5", "--shift-factor", "-0.25"],
        &["npy", "--partial-postprocess"],
        &["out", "--output-type", "pil", "--image-format", "png", "--scaling-factor", "2"],
    ];
    let mut seen = Vec::new();
    for (index, flags) in cases.iter().enumerate() {
        let decode = |how: [&str; 2], name: &str| {
            let out = folder.path().join(format!("{index}-{name}.{}", flags[0]));
            let out = out.to_str().unwrap();
            let mut arguments = vec!["decode", &latents, "-o", out, "--no-metadata"];
            arguments.extend(how);
            arguments.extend(&flags[1..]);
            let said = run(&arguments).ok().stdout;
            assert!(said.starts_with(out), "{said}");
            std::fs::read(out).unwrap()
        };
        let here = decode(["--model", "demo"], "here");
        assert!(here == decode(["--endpoint", &server.url], "there"), "{flags:?}");
        assert!(here == decode(["--endpoint", &second], "second"), "{flags:?}");
        assert!(!seen.contains(&here), "{flags:?} changes nothing");
        seen.push(here);
    }
    assert_eq!(server.stop(), (Some(0), String::new()));
}

#[test]
fn the_environment_is_as_good_as_flags() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let out = folder.path().join("out.npy");
    let out = out.to_str().unwrap();
    let models = [("REMOTE_VAE_MODEL", "first=demo,second=demo"), ("REMOTE_VAE_HOST", "localhost")];
    let server = Serving::start(&[], &models);
    assert!(server.greeting.contains("at /second: AutoencoderKL"), "{}", server.greeting);

    let endpoint = ("REMOTE_VAE_ENDPOINT", server.url.as_str());
    let by_environment = |variables: &[(&str, &str)]| {
        let variables = [&[endpoint, ("REMOTE_VAE_OUT", out)], variables].concat();
        program::run_with(&["decode", &latents], &variables).ok();
        std::fs::read(out).unwrap()
    };
    let plain = by_environment(&[]);
    let bytes = by_environment(&[("REMOTE_VAE_PARTIAL_POSTPROCESS", "true")]);
    assert!(bytes.len() < plain.len());
    assert!(by_environment(&[("REMOTE_VAE_PARTIAL_POSTPROCESS", "0")]) == plain);
    assert!(by_environment(&[("REMOTE_VAE_NO_SCALING", "yes")]) != plain);

    // The command line goes first; a server and a model in the same place contradict each other.
    let nowhere = ("REMOTE_VAE_ENDPOINT", "http://127.0.0.1:9/");
    let decode = ["decode", &latents, "-o", out];
    program::run_with(&[&decode[..], &["--endpoint", &server.url]].concat(), &[nowhere, models[0]]).ok();
    program::run_with(&[&decode[..], &["--model", "demo"]].concat(), &[nowhere]).ok();
    let contradiction = program::run_with(&decode, &[endpoint, ("REMOTE_VAE_MODEL", "demo")]);
    contradiction.fails(2, "drop one of them");
}

#[test]
fn mistakes_are_answered_with_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let several = write_latents(folder.path(), "several.safetensors", &["b", "a"]);
    let png = path("out.png");
    std::fs::create_dir(path("empty")).unwrap();
    std::fs::write(path("broken.npy"), "no numbers").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();

    for (arguments, code, sentence) in [
        (
            vec!["decode", &latents, "-o", &png, "--endpoint", "127.0.0.1:8080"],
            2,
            "an endpoint is a URL that begins with http:// or https://, such as http://127.0.0.1:8080/",
        ),
        (
            vec!["health", "localhost:8080"],
            2,
            "begins with http:// or https://, such as http://127.0.0.1:8080/",
        ),
        (
            vec!["decode", &latents, "-o", &png, "--endpoint", "http://127.0.0.1:9"],
            1,
            "is a server running there?",
        ),
        (vec!["decode", &latents, "-o", &png, "--model", &path("none")], 1, &path("none")),
        (vec!["decode", &latents, "-o", &png, "--model", &path("empty")], 1, &path("empty")),
        (
            vec!["decode", &latents, "-o", &png, "--shift-factor", "1"],
            2,
            "--shift-factor needs --scaling-factor",
        ),
        (
            vec!["decode", &latents, "-o", &png, "--height", "64"],
            2,
            "--height and --width are needed together",
        ),
        (vec!["decode", &latents, "-o", &png, "--output-type", "pt"], 2, "name it .safetensors or .npy"),
        (
            vec!["decode", &latents, "-o", &png, "--endpoint", "http://a", "--model", "demo"],
            2,
            "drop one of them",
        ),
        (vec!["decode", &latents], 2, "--out <OUT>"),
        (vec!["decode", &path("none.npy"), "-o", &png], 1, "cannot read"),
        (vec!["decode", &path("broken.npy"), "-o", &png], 1, "it is no .npy file"),
        (vec!["decode", "latents.txt", "-o", &png], 1, "a .safetensors, .npy, .npz, .pt or .latent file"),
        (vec!["decode", &several, "-o", &png], 1, "choose one as PATH:NAME from a, b"),
        (vec!["decode", &format!("{several}:c"), "-o", &png], 1, "it holds no tensor \"c\", but a, b"),
        (vec!["serve", "--port", "no"], 2, "--port"),
        (vec!["serve", "--port", &port], 1, "choose another --port"),
        (vec!["serve", "--port", "0", "--model", &format!("x={}", path("empty"))], 1, &path("empty")),
        (vec!["serve", "--port", "0", "--model", "a=demo", "--model", "a=demo"], 1, "\"a\""),
        (
            vec!["quickstart", "--out", &path("broken.npy")],
            1,
            "is a file, but several files are to be written",
        ),
        (vec![], 2, "Usage"),
    ] {
        run(&arguments).fails(code, sentence);
    }
    assert!(!std::fs::exists(&png).unwrap(), "a failed decode left a file");
    run(&["decode", &format!("{several}:a"), "-o", &png]).ok();
}

/// A server and a model on this machine refuse latents that are no numbers, and so does the program before it sends them.
#[test]
fn latents_that_are_no_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let good = write_latents(folder.path(), "a.safetensors", &["latents"]);
    let mut content = std::fs::read(&good).unwrap();
    let values = content.len() - 2 * 16 * 3 * 5;
    content[values + 2 * 7..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    let bad = path("b.safetensors");
    std::fs::write(&bad, content).unwrap();
    let png = path("out.png");
    let says = "1 of the 240 values of the latents is NaN or infinite, at [0, 0, 1, 2]";
    // Nothing listens there.
    let nowhere = ["--endpoint", "http://127.0.0.1:9", "--retry-for", "1ms"];
    for place in [&["--model", "demo"][..], &nowhere] {
        let arguments = [&["decode", &bad, "-o", &png], place].concat();
        run(&arguments).fails(1, says);
        run(&arguments).fails(1, "--allow-non-finite");
    }
    assert!(!std::fs::exists(&png).unwrap());
    let arguments = ["decode", &good, &bad, "-o", &path("many/"), "--model", "demo"];
    run(&arguments).fails(3, says);
    assert!(std::fs::exists(path("many/a.png")).unwrap() || std::fs::exists(path("many/a.jpg")).unwrap());
    run(&["decode", &bad, "-o", &png, "--model", "demo", "--allow-non-finite"]).ok();

    let strict = Serving::start(&[], &[]);
    let open = Serving::start(&["--allow-non-finite"], &[]);
    let decode = |url: &str| run(&["decode", &bad, "-o", &png, "--allow-non-finite", "--endpoint", url]);
    decode(&strict.url).fails(1, "the server refused with status 422: 1 of the 240 values");
    decode(&strict.url)
        .fails(1, "was sent with --allow-non-finite, and the server must be started with it too");
    decode(&open.url).ok();
}

#[test]
fn the_servers_refusal_is_printed_in_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let server = Serving::start(&[], &[]);
    let wrong = format!("{}unknown", server.url);
    let arguments = ["decode", &latents, "-o", "/dev/null", "--endpoint", &wrong];
    run(&arguments).fails(1, "the server refused with status 404");
}

#[test]
fn nobody_has_to_read_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let out = folder.path().join("out.png");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program::command(&["decode", &latents, "-o", out.to_str().unwrap()], &[]);
    let status = command.stdout(writer).status().unwrap();
    assert!(status.success() && out.exists(), "{status}");
}

#[test]
fn bench_checks_and_measures() {
    let small = ["bench", "--sizes", "64,24", "--runs", "2", "--threads", "1"];
    let json = run(&[&small[..], &["--json"]].concat()).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["engine"].as_str().unwrap().contains("1 thread"), "{json}");
    assert!(json["checked"]["max_error"].as_f64().unwrap() < 1.5e-3, "{json}");
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for (result, size) in results.iter().zip([64, 24]) {
        let seconds = &result["whole"]["seconds"];
        assert_eq!(
            (&result["height"], &result["width"], &seconds["runs"]),
            (&size.into(), &size.into(), &2.into())
        );
        assert!(seconds["median"].as_f64().unwrap() > 0.0, "{json}");
        assert!(result["tiled"].is_null(), "pictures that fit one tile are not cut");
    }

    let finished = run(&small).ok();
    for word in ["checked: ", "64 x 64", "24 x 24", "tiled memory"] {
        assert!(finished.stdout.contains(word), "{word} is missing in\n{}", finished.stdout);
    }
    assert!(finished.stderr.contains("run 2 of 2"), "{}", finished.stderr);
    run(&["bench", "--sizes", "100"]).fails(1, "multiples of 8");
    run(&["bench", "--frames", "9"]).fails(1, "models of videos");
}

#[test]
fn bench_measures_videos() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/vae/video");
    let small =
        ["bench", "--model", model, "--sizes", "16x24", "--frames", "5", "--runs", "1", "--threads", "1"];
    let json = run(&[&small[..], &["--json"]].concat()).ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["class"], "AutoencoderKLHunyuanVideo");
    assert!(json["checked"]["max_error"].as_f64().unwrap() < 1.5e-3, "{json}");
    let result = &json["results"][0];
    for (name, value) in [("frames", 5), ("height", 16), ("width", 24)] {
        assert_eq!(result[name], value, "{name}");
    }
    assert!(result["whole"]["seconds"]["median"].as_f64().unwrap() > 0.0, "{json}");
    run(&["bench", "--model", model, "--frames", "8"]).fails(1, "one more than a multiple of 4");
    run(&["bench", "--model", model, "--explain"]).fails(1, "one of videos");
}

#[test]
fn help_names_what_there_is() {
    let help = run(&["--help"]).ok().stdout;
    for word in ["serve", "decode", "quickstart", "REMOTE_VAE_PORT"] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    for (command, flags) in [
        (
            "serve",
            &[
                "--model <NAME=SOURCE>",
                "--host <HOST>",
                "--port <PORT>",
                "REMOTE_VAE_MODEL",
                "127.0.0.1",
                "8080",
            ][..],
        ),
        (
            "decode",
            &[
                "<LATENTS>",
                "--out <OUT>",
                "--endpoint <URL>",
                "--model <SOURCE>",
                "--scaling-factor <F>",
                "--shift-factor <F>",
                "--no-scaling",
                "--output-type",
                "--image-format",
                "--partial-postprocess",
                "--height <H>",
                "--width <W>",
                "Examples:",
            ],
        ),
        ("quickstart", &["--out <DIR>", "REMOTE_VAE_OUT"]),
    ] {
        let help = run(&[command, "--help"]).ok().stdout;
        for flag in flags {
            assert!(help.contains(flag), "{flag} is missing in the help of {command}:\n{help}");
        }
    }
    let Finished { stdout, .. } = run(&["--version"]).ok();
    assert_eq!(stdout, format!("remote-vae {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_server_that_is_not_needed_any_more_leaves_its_port() {
    let server = Serving::start(&[], &[]);
    let address = server.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut idle = std::net::TcpStream::connect(&address).unwrap();
    assert_eq!(server.stop(), (Some(0), String::new()));
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "an idle connection is closed");
    TcpListener::bind(address).expect("the port is free again");
}
