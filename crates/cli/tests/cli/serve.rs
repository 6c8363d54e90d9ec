//! `serve` as a service, and `health`, which asks it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::program::{self, Serving, run, run_with};

const KEY: &str = "0123456789abcdef";

/// Sends a signal to a process.
fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn kubernetes_links_to_services_are_no_settings() {
    // What each pod gets beside a Service that is called remote-vae.
    let links = [
        ("REMOTE_VAE_SERVICE_HOST", "10.96.0.12"),
        ("REMOTE_VAE_SERVICE_PORT", "8080"),
        ("REMOTE_VAE_SERVICE_PORT_HTTP", "8080"),
        ("REMOTE_VAE_PORT", "tcp://10.96.0.12:8080"),
        ("REMOTE_VAE_PORT_8080_TCP", "tcp://10.96.0.12:8080"),
        ("REMOTE_VAE_PORT_8080_TCP_PROTO", "tcp"),
        ("REMOTE_VAE_PORT_8080_TCP_PORT", "8080"),
        ("REMOTE_VAE_PORT_8080_TCP_ADDR", "10.96.0.12"),
        ("REMOTE_VAE_ADMIN_PORT", "tcp://10.96.0.13:8081"),
    ];
    let config = run_with(&["config"], &links).ok();
    let line = |key: &str| config.stdout.lines().find(|line| line.contains(key)).unwrap().to_owned();
    assert!(line("port = ").ends_with("# default"), "{}", config.stdout);
    assert!(line("# admin-port").ends_with("# not set"), "{}", config.stdout);

    let mut command = program::command(&["serve", "--port=0"], &links);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&mut BufReader::new(child.stdout.take().unwrap()), "Stop with");
    signal(child.id(), "-TERM");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    for variable in ["REMOTE_VAE_PORT=tcp", "REMOTE_VAE_ADMIN_PORT=tcp"] {
        assert_eq!(stderr.matches(variable).count(), 1, "{stderr}");
    }
    // Another value that is no port is still a mistake.
    run_with(&["config"], &[("REMOTE_VAE_PORT", "http://10.96.0.12:8080")]).fails(2, "--port");
}

/// Reads until a line has these words, and gives everything.
fn wait_for(lines: &mut impl BufRead, words: &str) -> String {
    let mut text = String::new();
    while !text.contains(words) {
        assert!(lines.read_line(&mut text).unwrap() > 0, "{words:?} did not come:\n{text}");
    }
    text
}

#[test]
fn the_banner_is_true_when_it_is_printed() {
    let arguments = ["--log=warn", "serve", "--port=0", "--host=0.0.0.0", "--admin-port=0", "--api-keys"];
    let key = format!("alice:{KEY}");
    let mut command = program::command(&[&arguments[..], &[&key]].concat(), &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let banner = wait_for(&mut stdout, "Stop with");
    let version = env!("CARGO_PKG_VERSION");
    assert!(banner.starts_with(&format!("remote-vae {version}: loading demo ...\n")), "{banner}");
    let find = |begin: &str, end: &str| {
        let rest = banner.split_once(begin).unwrap_or_else(|| panic!("no {begin:?} in\n{banner}")).1;
        rest.split_once(end).unwrap().0.to_owned()
    };
    let port = find(&format!("remote-vae {version} on http://127.0.0.1:"), "/\n");
    // At once, without asking whether it is ready.
    let mut ready = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    ready.write_all(b"GET /ready HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    ready.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The key has its place; the address is that which others use, where there is a network.
    let endpoint = find("remote_decode(\"", "\"");
    let host = endpoint.strip_prefix("http://user:KEY@").unwrap_or_else(|| panic!("{banner}"));
    let host = host.strip_suffix(&format!(":{port}/")).unwrap_or_else(|| panic!("{banner}"));
    if banner.contains("from other machines") {
        assert_eq!(find("from other machines: http://", ":"), host);
        assert_ne!(host, "127.0.0.1");
    } else {
        assert_eq!(host, "127.0.0.1");
    }
    assert!(banner.contains("In the place of KEY"), "{banner}");
    let folder = tempfile::tempdir().unwrap();
    let latents = program::write_latents(folder.path(), "latents.safetensors", &["latents"]);
    let out = folder.path().join("out.png");
    let decode =
        ["decode", &latents, "-o", out.to_str().unwrap(), "--endpoint", &endpoint.replace("KEY", KEY)];
    run(&decode).ok();

    let admin = find("probes and figures: http://127.0.0.1:", "/");
    run_with(&["health", "--ready"], &[("REMOTE_VAE_ADMIN_PORT", admin.as_str())]).ok();
    signal(child.id(), "-TERM");
    assert!(child.wait().unwrap().success());
}

#[test]
fn on_this_machine_alone_the_banner_says_nothing_of_others() {
    let server = Serving::start(&[], &[]);
    for words in ["other machines", "KEY", "0.0.0.0"] {
        assert!(!server.greeting.contains(words), "{}", server.greeting);
    }
    assert!(server.greeting.contains(&format!("remote_decode(\"{}\", ", server.url)), "{}", server.greeting);
    assert_eq!(server.stop(), (Some(0), String::new()));
}

#[test]
fn health_is_an_exit_code_and_a_sentence() {
    let server = Serving::start(&[], &[]);
    for (arguments, path) in [
        (vec!["health", &server.url], "health"),
        (vec!["health", &server.url, "--ready"], "ready"),
        (vec!["health", &format!("{}models", server.url)], "models"),
    ] {
        let finished = run(&arguments).ok();
        assert!(
            finished.stdout.starts_with(&format!("{}{path} says yes", server.url)),
            "{}",
            finished.stdout
        );
        assert_eq!((finished.stdout.lines().count(), finished.stderr.as_str()), (1, ""));
    }
    let port = server.url.trim_end_matches('/').rsplit(':').next().unwrap().to_owned();
    run_with(&["health"], &[("REMOTE_VAE_PORT", &port), ("REMOTE_VAE_HOST", "0.0.0.0")]).ok();
    run(&["health", &format!("{}nothing", server.url)]).fails(1, "says no, with status 404");
    assert_eq!(server.stop(), (Some(0), String::new()));
    run_with(&["health"], &[("REMOTE_VAE_PORT", &port)]).fails(1, "cannot connect to http://127.0.0.1:");

    // Something that listens and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    run(&["health", &url, "--within", "200ms"]).fails(1, "did not answer in time");
}

#[cfg(unix)]
#[test]
fn hangup_reads_keys_again() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, KEY).unwrap();
    let arguments = ["serve", "--port=0", "--api-key-file", keys.to_str().unwrap()];
    let mut command = program::command(&arguments, &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let banner = wait_for(&mut BufReader::new(child.stdout.take().unwrap()), "Stop with");
    let url = banner.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let models = format!("{}models", url.replace("http://", &format!("http://a:{KEY}@")));
    run(&["health", &models]).ok();
    let mut log = BufReader::new(child.stderr.take().unwrap());

    std::fs::write(&keys, "").unwrap();
    signal(child.id(), "-HUP");
    let lines = wait_for(&mut log, "every request is refused");
    let last = lines.lines().last().unwrap();
    assert!(last.contains(" WARN ") && last.contains("keys has one"), "{last}");
    run(&["health", &models]).fails(1, "says no, with status 401");

    std::fs::write(&keys, "fedcba9876543210").unwrap();
    signal(child.id(), "-HUP");
    wait_for(&mut log, "API keys read again");
    run(&["health", &models.replace(KEY, "fedcba9876543210")]).ok();
    run(&["health", &models]).fails(1, "says no, with status 401");
    signal(child.id(), "-TERM");
    assert!(child.wait().unwrap().success());
}

#[test]
fn log_lines_say_where_they_come_from_only_to_who_looks_for_a_fault() {
    for (level, expected) in [(None, false), (Some("--log=info"), false), (Some("--log=debug"), true)] {
        let arguments: Vec<_> = level.into_iter().chain(["serve", "--port=0"]).collect();
        let mut command = program::command(&arguments, &[]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&mut BufReader::new(child.stdout.take().unwrap()), "Stop with");
        signal(child.id(), "-TERM");
        let output = child.wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains("listening") && log.contains("model loaded"), "{log}");
        assert_eq!(log.contains("remote_vae_server::"), expected, "{level:?}: {log}");
    }
}
