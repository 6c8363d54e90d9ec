//! What reaches a terminal or a pipe, whatever others have written, and whether it has got there.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::program::{self, Finished, run_with, write_latents};

/// What a terminal would obey: a title, a colour, a line moved up, C1, a direction, a line of one's own.
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[31m\u{9b}A\u{202e}gpj.\u{2066}\r";

/// As on a terminal: with colours.
fn run(arguments: &[&str]) -> Finished {
    run_with(arguments, &[("CLICOLOR_FORCE", "1")])
}

/// Checks that a text has nothing that a terminal obeys but our own colours, and gives it.
fn harmless(text: &str) -> &str {
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        rest = &rest[at + 1..];
        let style = rest
            .strip_prefix('[')
            .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        assert!(style.is_some_and(|rest| rest.starts_with('m')), "an escape sequence in {text:?}");
    }
    let obeyed = |c: char| (c.is_control() && c != '\n' && c != '\x1b') || "\u{202e}\u{2066}".contains(c);
    assert!(!text.contains(obeyed), "{text:?}");
    assert!(
        !text.contains("\x1b[31m\u{9b}") && !text.contains("\x1b[31m\\u009b"),
        "a colour of others in {text:?}"
    );
    text
}

/// Answers every request with this status and body.
fn server(status: &'static str, body: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, body) = (stream.unwrap(), body.clone());
            std::thread::spawn(move || {
                let mut request = [0; 65536];
                let mut read = 0;
                // The head, and the latents behind it, which are shorter than a page.
                while let Ok(count @ 1..) = stream.read(&mut request[read..]) {
                    read += count;
                    let head = request[..read].windows(4).position(|end| end == b"\r\n\r\n");
                    let wanted = if request.starts_with(b"GET") { 0 } else { 480 };
                    if head.is_some_and(|head| read >= head + 4 + wanted) {
                        break;
                    }
                }
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
            });
        }
    });
    url
}

#[test]
fn what_others_write_never_reaches_a_terminal_as_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = folder.path().join(format!("a{HOSTILE}"));
    fs::create_dir(&hostile).unwrap();
    let hostile = hostile.to_str().unwrap();
    let latents = write_latents(Path::new(hostile), &format!("x{HOSTILE}.safetensors"), &["latents"]);
    let several = write_latents(Path::new(hostile), "several.safetensors", &[HOSTILE, "b"]);
    let out = |name: &str| format!("{hostile}/{name}");

    // Names of files and tensors, in what is said of success and of failure.
    let finished = run(&["decode", &latents, "-o", &out("x.png")]).ok();
    assert!(harmless(&finished.stdout).contains("\\u001b]0;owned\\u0007"), "{}", finished.stdout);
    for arguments in [
        vec!["decode", &several, "-o", "b.png"],
        vec!["decode", &format!("{several}:none"), "-o", "b.png"],
        vec!["decode", &out("none.npy"), "-o", "b.png"],
        vec!["decode", &latents, "-o", &out("none/b.png")],
        vec!["decode", &latents, "-o", "b.png", "--model", &out("none")],
        vec!["decode", &latents, "-o", "b.png", "--endpoint", &format!("http://{HOSTILE}")],
        vec!["encode", &out("none.png"), "-o", "b.npy"],
        vec!["roundtrip", &out("none.png"), "-o", &out("b.png")],
        vec!["decode", &format!("--{HOSTILE}"), "-o", "b.png"],
        vec!["serve", "--port", "0", "--model", &format!("{HOSTILE}=demo")],
        vec!["serve", "--port", "0", "--config", &out("none.toml")],
    ] {
        let finished = run(&arguments);
        assert!(
            !harmless(&finished.stderr).is_empty() && harmless(&finished.stdout).is_empty(),
            "{arguments:?}"
        );
    }
    // Many files: lines for people, and for programs.
    fs::write(out("broken.pt"), "no zip").unwrap();
    for flags in [&["--json"][..], &[]] {
        let arguments = ["decode", hostile, "-o", &out("out")];
        let finished = run(&[&arguments[..], flags].concat());
        harmless(&finished.stdout);
        harmless(&finished.stderr);
        for line in finished.stdout.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(input) = event["input"].as_str() {
                assert!(input.contains(HOSTILE), "programs get the name as it is: {input:?}");
            }
        }
    }
    // The words of a server, as JSON and as they are, at once and when it is tried again.
    let json = serde_json::json!({ "error": format!("no {HOSTILE}\nerror: forged") }).to_string();
    for (status, body) in [
        ("500 Internal Server Error", json.clone()),
        ("500 Internal Server Error", format!("no {HOSTILE}\nerror: forged")),
        ("503 Service Unavailable", json),
        ("200 OK", format!("{{\"models\": \"{HOSTILE}\"}}")),
    ] {
        let url = server(status, body);
        for out in [out("y.png"), out("y/")] {
            let finished = run(&[
                "decode",
                &latents,
                "-o",
                &out,
                "--endpoint",
                &url,
                "--retry-for",
                "3s",
                "--log=debug",
            ]);
            let said = harmless(&finished.stderr);
            assert!(
                !said.is_empty() && !said.lines().any(|line| line.starts_with("error: forged")),
                "{said}"
            );
        }
    }
    assert!(hostile.as_bytes().contains(&0x1b) && Path::new(hostile).as_os_str().as_bytes().contains(&0x1b));
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let many = write_latents(folder.path(), "many.safetensors", &["a", "b", "c"]);
    let out = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/rgb.png");
    for arguments in [
        vec!["decode", &latents, "-o", &out("a.png"), "--json"],
        vec!["decode", &latents, "-o", &out("a.png")],
        vec!["decode", &many, "-o", &out("many/"), "--json", "--jobs", "1"],
        vec!["encode", photo, "-o", &out("a.npy"), "--json"],
        vec!["roundtrip", photo, "-o", &out("b.png"), "--json"],
        vec!["models"],
        vec!["models", "--json"],
        vec!["config"],
        vec!["--help"],
        vec!["--version"],
        vec!["decode", "--help"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = program::command(&arguments, &[]).stdout(full).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains("cannot write to stdout: No space left on device"),
            "{arguments:?}: {stderr}"
        );
    }
    // The list of what is done has ended, and so has the work.
    assert_eq!(fs::read_dir(out("many")).unwrap().count(), 1);
}

/// Words of the protocol help nobody at a command line.
#[test]
fn errors_speak_of_flags_and_files_and_not_of_the_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let batch = folder.path().join("batch.npy");
    let header = "{'descr': '<f2', 'fortran_order': False, 'shape': (4, 16, 3, 5), }\n";
    let content =
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 1920]]
            .concat();
    fs::write(&batch, content).unwrap();
    let batch = batch.to_str().unwrap();
    let key = program::Serving::start(&["--api-keys", "alice:0123456789abcdef"], &[]);
    let says_nothing = server("200 OK", "12345678".to_owned());
    let unauthorized =
        server("401 Unauthorized", "{\"error\": \"send the header Authorization\"}".to_owned());
    for (code, arguments, words) in [
        (1, vec!["decode", batch, "-o", "a.png"], "let -o name a folder"),
        (1, vec!["decode", batch, "-o", "a.png", "--endpoint", &key.url], "let -o name a folder"),
        (1, vec!["decode", &latents, "-o", "a.png", "--endpoint", &key.url], "--api-key"),
        (1, vec!["decode", &latents, "-o", "a.png", "--endpoint", &unauthorized], "--api-key"),
        (1, vec!["decode", &latents, "-o", "a.npy", "--endpoint", &says_nothing], "shape and type"),
        (1, vec!["decode", &latents, "-o", "a.png", "--endpoint", &says_nothing], "no JPEG, PNG or WebP"),
        (
            2,
            vec!["decode", &latents, "-o", "a.png", "--api-key", "two\nlines", "--endpoint", &says_nothing],
            "cannot be sent",
        ),
        (2, vec!["decode", &latents, "-o", "a.mp4"], "video"),
        (
            2,
            vec![
                "decode",
                &latents,
                "-o",
                "a.npy",
                "--height",
                "8",
                "--width",
                "8",
                "--no-scaling",
                "--scaling-factor=1",
            ],
            "drop one",
        ),
    ] {
        let finished = program::run(&arguments);
        let stderr = finished.stderr.to_lowercase();
        for word in ["header", "accept", "multipart", "content-type", "http/", "body"] {
            assert!(!stderr.contains(word), "{word} in {stderr}");
        }
        finished.fails(code, words);
    }
}
