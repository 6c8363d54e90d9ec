//! `remote-vae quickstart`: the whole path at once, for somebody who has just built it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::builder::styling::{AnsiColor, Style};
use client::{DecodeOptions, Decoded, ImageFormat, OutputType, RemoteVae, Tensor};
use server::{Config, Server};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use crate::args::QuickstartArgs;
use crate::serve::{Loaded, served, snippet, url};
use crate::source::{ModelArg, engine};
use crate::{demo, latents, output};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();

pub(crate) fn run(args: QuickstartArgs) -> anyhow::Result<()> {
    let out = args.out;
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let latents = latents::from_safetensors(demo::LATENTS, None)?;
    tokio::runtime::Runtime::new().context("cannot start the event loop")?.block_on(show(&out, latents))
}

async fn show(out: &Path, latents: Tensor) -> anyhow::Result<()> {
    let (loaded, mut to_come) = unbounded_channel();
    let start = Instant::now();
    let config = Config { port: 0, ..Config::default() };
    let server = Server::bind(config, vec![served(&ModelArg::demo(), engine()?, loaded)?]).await?;
    let url = url(server.local_addr());
    let vae = RemoteVae::new(&url)?;
    let (stop, stopped) = oneshot::channel();
    let mut running = tokio::spawn(server.run(async move {
        // Asked to, or because this function ended early.
        let _ = stopped.await;
    }));
    let ready = async {
        while !vae.is_ready().await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ready = ready => ready?,
        end = &mut running => match end? {
            Ok(()) => bail!("the server stopped before it was ready"),
            Err(error) => return Err(error.into()),
        },
    }
    let Some(Loaded { info, .. }) = to_come.recv().await else { bail!("the server has no model") };

    title("The server");
    step("model", &format!("the embedded demonstration model, on {}", info.engine), None);
    step("address", &url, Some(start.elapsed()));
    title("The client");
    step("sends", &format!("latents of the photograph \"{}\", {}", demo::PHOTO, latents.head), None);
    let asked = [
        ("image/png", DecodeOptions::new().image_format(ImageFormat::Png), "picture.png"),
        ("image/jpeg", DecodeOptions::new(), "picture.jpg"),
        ("pt", DecodeOptions::new().output_type(OutputType::Pt), "picture.safetensors"),
    ];
    let mut written = Vec::new();
    for (name, options, file) in asked {
        let start = Instant::now();
        let decoded = vae.decode(&latents, &options).await?;
        step(name, &output::describe(&decoded), Some(start.elapsed()));
        let path = out.join(file);
        output::write(&path, &decoded)?;
        written.push(path);
    }
    let path = out.join("latents.safetensors");
    output::write(&path, &Decoded::Tensor(latents))?;
    written.push(path);
    // The server is done when every answer is out; `stop` is heard or the task has ended already.
    let _ = stop.send(());
    running.await??;

    title("Written");
    for path in &written {
        anstream::println!("  {GOOD}{}{GOOD:#}", path.display());
    }
    try_next(out, &snippet("http://127.0.0.1:8080/", &info));
    Ok(())
}

fn title(text: &str) {
    anstream::println!("\n{BOLD}{text}{BOLD:#}");
}

/// A line of the report: what, what came of it, and how long it took.
fn step(name: &str, text: &str, time: Option<Duration>) {
    let time = time.map(|time| format!("{:8.3} s", time.as_secs_f64())).unwrap_or_default();
    anstream::println!("  {name:<11} {text:<58}{DIM}{time}{DIM:#}");
}

/// What to do next, ready to be copied.
fn try_next(out: &Path, snippet: &str) {
    let program = program();
    let latents = out.join("latents.safetensors");
    let again = out.join("again.png");
    let (latents, again) = (shell(&latents.display().to_string()), shell(&again.display().to_string()));
    title("Try next");
    anstream::println!(
        "  {BOLD}1.{BOLD:#} Decode without a server:\n\n    \
             {program} decode {latents} -o {again}\n\n  \
         {BOLD}2.{BOLD:#} Serve this model, and decode from Python with diffusers:\n\n    \
             {program} serve\n\n\
         {DIM}    from safetensors.torch import load_file\n    \
             latents = load_file(\"{latents}\")[\"sample\"]\n\
         {snippet}    image.save(\"picture.png\"){DIM:#}\n\n  \
         {BOLD}3.{BOLD:#} Serve a real model (this one is a small demonstration) from a folder that diffusers saved:\n\n    \
             {program} serve --model sdxl=path/to/sdxl-vae\n"
    );
}

/// How this program was called, so that commands to copy work. A bare name is found the way it was this time.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_else(|| "remote-vae".into());
    let here = std::env::current_dir().unwrap_or_default();
    shell(&called.strip_prefix(&here).unwrap_or(&called).display().to_string())
}

/// A word for a shell to copy, in quotes where it needs them.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for (word, expected) in
            [("a/b-c.png", "a/b-c.png"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(shell(word), expected);
        }
    }
}
