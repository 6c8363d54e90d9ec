//! What is shown where stderr is a terminal, and that there is nothing of it elsewhere.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::program::{self, Serving, run, write_latents};

/// Latents that take a moment.
const LATENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo-latents/astronaut.safetensors");
const PHOTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/astronaut.png");

/// What the program writes to a terminal of 100 columns on its stderr.
fn on_a_terminal(arguments: &[&str]) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(path).unwrap();
    let mut command = program::command(arguments, &[("TERM", "xterm-256color")]);
    let mut child = command.env_remove("NO_COLOR").stdout(Stdio::null()).stderr(terminal).spawn().unwrap();
    // The child alone has the other end now: reading ends with it.
    drop(command);
    let mut written = Vec::new();
    let _ = File::from(master).read_to_end(&mut written);
    let text = String::from_utf8_lossy(&written).into_owned();
    assert!(child.wait().unwrap().success(), "{text}");
    text
}

#[test]
fn one_decode_or_encode_shows_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (picture, latents) = (path("a.png"), path("a.safetensors"));
    let server = Serving::start(&[], &[]);
    let local = ["--model", "demo"];
    let remote = ["--endpoint", server.url.as_str()];
    for (arguments, words) in [
        (["decode", LATENTS, "-o", &picture], "decoding by"),
        (["encode", PHOTO, "-o", &latents], "encoding by"),
    ] {
        let shown = on_a_terminal(&[&arguments[..], &local].concat());
        assert!(shown.contains(&format!("{words} demo")) && shown.contains('%'), "{shown:?}");
        assert!(shown.contains("loading demo"), "{shown:?}");
        let shown = on_a_terminal(&[&arguments[..], &remote].concat());
        assert!(shown.contains(&format!("{words} {}", server.url)) && shown.contains("0s"), "{shown:?}");
        for way in [local, remote] {
            let finished = run(&[&arguments[..], &way].concat()).ok();
            assert_eq!(finished.stderr, "", "a pipe gets nothing");
        }
    }
}

/// A server that takes its time for a picture, and says meanwhile what it is doing.
fn slow_server() -> String {
    const FIGURES: &str =
        "remote_vae_queue_length 3\nremote_vae_running_frames 129\nremote_vae_running_frames_done 40\n";
    let picture = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/rgb.png")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let picture = picture.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                let head: Vec<_> =
                    stream.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                let (kind, body) = if head[0].starts_with("GET /metrics ") {
                    ("text/plain", FIGURES.as_bytes().to_vec())
                } else {
                    thread::sleep(Duration::from_millis(2500));
                    ("image/png", picture)
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
                );
                stream.get_mut().write_all(&[answer.as_bytes(), &body].concat()).unwrap();
            });
        }
    });
    url
}

#[test]
fn what_a_server_is_doing_is_shown_to_who_waits() {
    let folder = tempfile::tempdir().unwrap();
    let latents = write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let out = folder.path().join("a.png");
    let arguments = ["decode", &latents, "-o", out.to_str().unwrap(), "--endpoint", &slow_server()];
    let shown = on_a_terminal(&arguments);
    assert!(shown.contains("(it works: 40 of 129 frames, 3 in its queue)"), "{shown:?}");
    assert_eq!(run(&arguments).ok().stderr, "");
}

#[test]
fn a_roundtrip_and_a_batch_show_how_far_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.png");
    let shown = on_a_terminal(&["roundtrip", PHOTO, "-o", sheet.to_str().unwrap()]);
    assert!(shown.contains("encoding by demo") && shown.contains("decoding by demo"), "{shown:?}");
    let out = format!("{}/", folder.path().display());
    let shown = on_a_terminal(&["decode", LATENTS, "-o", &out]);
    assert!(shown.contains("loading demo") && shown.contains("/1"), "{shown:?}");
}
