//! `decode` of many files, run as a person would run it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use crate::program::{self, Serving, run, write_latents};
use serde_json::Value;

/// A folder with three files of latents, one with two tensors, and one that is broken.
fn some_latents() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let latents = folder.path().join("latents");
    fs::create_dir_all(latents.join("more")).unwrap();
    write_latents(&latents, "a.safetensors", &["latents"]);
    write_latents(&latents, "b.safetensors", &["x", "y"]);
    write_latents(&latents.join("more"), "c.safetensors", &["latents"]);
    fs::write(latents.join("broken.pt"), "no zip").unwrap();
    let latents = latents.to_str().unwrap().to_owned();
    (folder, latents)
}

/// The names of all files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, below: &str, names: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), names)
            } else {
                names.push(name)
            }
        }
    }
    let mut names = Vec::new();
    walk(folder, "", &mut names);
    names.sort();
    names
}

/// How often each event comes in the lines of `--json`, and the last of them.
pub(crate) fn events(stdout: &str) -> (BTreeMap<String, usize>, Value) {
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut counts = BTreeMap::new();
    for line in &lines {
        *counts.entry(line["event"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    (counts, lines.last().unwrap().clone())
}

#[test]
fn a_folder_is_decoded_and_what_fails_is_told() {
    let (folder, latents) = some_latents();
    let server = Serving::start(&[], &[]);
    let here = folder.path().join("here");
    let there = folder.path().join("there");
    for (out, way) in [(&here, ["--model", "demo"]), (&there, ["--endpoint", &server.url])] {
        let out = out.to_str().unwrap();
        let arguments = ["decode", &latents, "-o", out, "--image-format", "png", "--json", "--no-metadata"];
        let finished = run(&[&arguments[..], &way].concat());
        let (counts, summary) = events(&finished.stdout);
        assert_eq!(
            counts,
            [("done", 4), ("failed", 1), ("summary", 1)].map(|(k, v)| (k.to_owned(), v)).into()
        );
        assert_eq!(
            (&summary["done"], &summary["failed"], &summary["not_done"]),
            (&4.into(), &1.into(), &0.into())
        );
        assert!(finished.stderr.contains("broken.pt: cannot take a tensor from"), "{}", finished.stderr);
        finished.fails(3, "1 of 5 failed");
    }
    assert_eq!(files(&here), ["a.png", "b-x.png", "b-y.png", "more/c.png"]);
    for name in files(&here) {
        assert!(fs::read(here.join(&name)).unwrap() == fs::read(there.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn a_run_is_taken_up_where_it_ended() {
    let (folder, latents) = some_latents();
    fs::remove_file(format!("{latents}/broken.pt")).unwrap();
    let out = folder.path().join("out");
    let arguments = ["decode", &latents, "-o", out.to_str().unwrap(), "--resume", "--json", "--jobs", "2"];
    run(&arguments).ok();
    let first = fs::metadata(out.join("a.jpg")).unwrap().modified().unwrap();
    fs::remove_file(out.join("b-y.jpg")).unwrap();
    let (counts, _) = events(&run(&arguments).ok().stdout);
    assert_eq!(counts, [("done", 1), ("skipped", 3), ("summary", 1)].map(|(k, v)| (k.to_owned(), v)).into());
    assert_eq!(fs::metadata(out.join("a.jpg")).unwrap().modified().unwrap(), first);
    let (counts, _) =
        events(&run(&arguments[..4].iter().copied().chain(["--json"]).collect::<Vec<_>>()).ok().stdout);
    assert_eq!(counts["done"], 4, "without --resume everything is done anew");
}

#[test]
fn a_list_on_stdin_and_patterns() {
    let (folder, latents) = some_latents();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let arguments = ["decode", "-", "-o", out, "--partial-postprocess", "--tensor-format", "npy"];
    let mut child = program::command(&arguments, &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let list = format!("{latents}/b.safetensors:x\n\n{latents}/*/c.safetensors\n");
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("2 done in"), "{stderr}");
    assert!(output.stdout.is_empty(), "people read stderr, programs --json");
    assert_eq!(files(Path::new(out)), ["b-x.npy", "c.npy"]);
}

#[test]
fn two_servers_share_the_work_and_one_is_enough() {
    let (folder, latents) = some_latents();
    fs::remove_file(format!("{latents}/broken.pt")).unwrap();
    let server = Serving::start(&[], &[]);
    // Nobody listens there: the port was given back.
    let nowhere = format!("http://{}/", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let out = folder.path().join("out");
    let both = format!("{nowhere},{}", server.url);
    run(&["decode", &latents, "-o", out.to_str().unwrap(), "--endpoint", &both]).ok();
    assert_eq!(files(&out).len(), 4);
    let arguments = ["decode", &latents, "-o", out.to_str().unwrap(), "--endpoint", &nowhere, "--jobs=1"];
    let finished = run(&arguments);
    assert!(finished.stderr.contains("4 are not done; --resume goes on"), "{}", finished.stderr);
    finished.fails(1, "is a server running there?");
}

#[test]
fn a_picture_says_how_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let server = Serving::start(&["--model", "small=demo"], &[]);
    let endpoint = format!("{}small", server.url);
    for (way, model) in [(["--model", "demo"], "demo"), (["--endpoint", &endpoint], "small")] {
        let out = folder.path().join("out.png");
        let flags = ["--scaling-factor", "0.5"];
        run(&[&["decode", &latents, "-o", out.to_str().unwrap()], &way[..], &flags].concat()).ok();
        let reader =
            png::Decoder::new(std::io::BufReader::new(fs::File::open(&out).unwrap())).read_info().unwrap();
        let text: BTreeMap<_, _> = reader
            .info()
            .utf8_text
            .iter()
            .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()))
            .collect();
        assert_eq!(text["VAE"], model);
        assert_eq!(text["VAE scaling"], "scaling_factor=0.5");
        assert_eq!(text["VAE latents"], "float16 [1, 16, 3, 5]");
        assert!(text["Software"].starts_with("remote-vae "), "{text:?}");
    }
}

#[test]
fn mistakes_are_found_before_the_work() {
    let (folder, latents) = some_latents();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (arguments, code, sentence) in [
        (vec![&latents, "-o", "all.png"], 2, "add a / if it is a folder"),
        (vec!["a.npy", "b.npy", "-o", &format!("{latents}/broken.pt")], 1, "several files are to be written"),
        (vec![&path("*.npy"), "-o", &path("out")], 1, "no file fits"),
        (vec![&latents, "-o", &path("out"), "--jobs", "0"], 2, "from 1 to 256"),
        (vec![&latents, "-o", &path("out"), "--retry-for", "soon"], 2, "--retry-for"),
        (
            vec![&latents, "-o", &path("out"), "--scaling-factor", "0"],
            2,
            "--scaling-factor must be a finite number other than 0",
        ),
        (vec!["missing/", "-o", &path("out/")], 1, "there is no folder missing/"),
        (vec!["missing/", "-o", &path("out.png")], 1, "there is no folder missing/"),
        (vec!["a.npy", "b.npy", "-o", &path("out/")], 1, "none of these 2 files is there"),
        (vec!["-", "-o", &path("out/")], 1, "the list of files on stdin is empty"),
    ] {
        run(&[&["decode"], &arguments[..]].concat()).fails(code, sentence);
    }
    assert!(!Path::new(&path("out")).exists());
}

/// A name that no file can have, an output that is a folder, a file that is none: each is the failure of its item, and a
/// second run goes past it.
#[test]
fn one_bad_item_does_not_end_the_others() {
    let (folder, latents) = some_latents();
    let long = "x".repeat(300);
    write_latents(Path::new(&latents), "d.safetensors", &[&long, "y"]);
    let out = folder.path().join("out");
    fs::create_dir_all(out.join("a.jpg")).unwrap();
    let arguments = ["decode", &latents, "-o", out.to_str().unwrap(), "--json"];
    for (flags, done, skipped) in [(&[][..], 4, 0), (&["--resume"], 0, 4)] {
        let finished = run(&[&arguments[..], flags].concat());
        let (counts, summary) = events(&finished.stdout);
        assert_eq!((counts.get("done").copied().unwrap_or(0), counts["failed"]), (done, 3));
        assert_eq!((&summary["skipped"], &summary["not_done"]), (&skipped.into(), &0.into()));
        for words in ["a.jpg: it is a folder", "File name too long", "broken.pt: cannot take a tensor from"] {
            assert!(finished.stderr.contains(words), "{words} is missing in\n{}", finished.stderr);
        }
        finished.fails(3, "3 of 7 failed");
    }
    assert_eq!(files(&out), ["b-x.jpg", "b-y.jpg", "d-y.jpg", "more/c.jpg"]);
}
