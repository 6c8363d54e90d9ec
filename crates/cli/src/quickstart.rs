//! `remote-vae quickstart`: the whole path at once, for somebody who has just built it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::builder::styling::{AnsiColor, Style};
use client::{DecodeOptions, ImageFormat, OutputType, RemoteVae, Tensor};
use server::{Config, Server};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use vae::VaeInfo;

use crate::args::engine::EngineArgs;
use crate::banner::{IMPORT, snippet, url};
use crate::serve::{Loaded, served};
use crate::source::ModelArg;
use crate::{demo, output};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();

/// See the whole path work: server, client, pictures
#[derive(Debug, clap::Args)]
#[command(after_help = "Starts a server with the embedded demonstration model on a free port, sends it a \
    photograph's latents over HTTP, and writes what comes back. Needs no network and no files.")]
pub(crate) struct QuickstartArgs {
    /// Folder for the pictures; made if it is not there
    #[arg(short, long, alias = "output", value_name = "DIR", default_value = "remote-vae-quickstart")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

pub(crate) fn run(args: QuickstartArgs) -> anyhow::Result<()> {
    let out = args.out;
    output::check_folder(&out)?;
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let latents = latents::from_safetensors(demo::LATENTS, None)?;
    tokio::runtime::Runtime::new().context("cannot start the event loop")?.block_on(show(
        &out,
        args.engine,
        latents,
    ))
}

async fn show(out: &Path, engine: EngineArgs, latents: Tensor) -> anyhow::Result<()> {
    let (loaded, mut to_come) = unbounded_channel();
    let start = Instant::now();
    let config = Config { port: 0, ..Config::default() };
    let server =
        Server::bind(config, vec![served(&ModelArg::demo(), [engine.engine()?].into(), None, loaded)?])
            .await?;
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
        output::write(&path, &decoded, None)?;
        written.push(path);
    }
    let path = out.join("latents.safetensors");
    std::fs::write(&path, demo::LATENTS).with_context(|| format!("cannot write {}", path.display()))?;
    written.push(path);
    // The server is done when every answer is out; `stop` is heard or the task has ended already.
    let _ = stop.send(());
    running.await??;

    title("Written");
    for path in &written {
        say!("  {GOOD}{}{GOOD:#}", crate::terminal::shown(path));
    }
    try_next(out, &info);
    Ok(())
}

fn title(text: &str) {
    say!("\n{BOLD}{text}{BOLD:#}");
}

/// A line of the report: what, what came of it, and how long it took.
fn step(name: &str, text: &str, time: Option<Duration>) {
    let time = time.map(|time| format!("{:6.2} s", time.as_secs_f64())).unwrap_or_default();
    say!("  {name:<11} {text:<60}{DIM}{time}{DIM:#}");
}

/// What to do next, ready to be copied.
fn try_next(out: &Path, info: &VaeInfo) {
    let program = program();
    let path = |name| out.join(name).display().to_string();
    let (latents, again) = (path("latents.safetensors"), path("again.png"));
    let call = snippet("http://127.0.0.1:8080/", "latents", info);
    title("Try next");
    say!(
        "  The server above has ended; its address is free again.\n\n  \
           1. Serve this model ...\n\n       {BOLD}{program} serve{BOLD:#}\n\n     \
              ... and decode from Python with diffusers:\n\n       \
              {IMPORT}\n       \
              from safetensors.torch import load_file\n\n       \
              latents = load_file({latents:?})[\"latents\"]\n       \
              {call}.show()\n\n  \
           2. Decode without a server:\n\n       \
              {BOLD}{program} decode {} -o {}{BOLD:#}\n\n  \
           3. Serve a real model, as this one is a small demonstration. {}:\n\n       \
              {BOLD}{program} serve {}{BOLD:#}\n",
        shell(&latents),
        shell(&again),
        REAL.0,
        REAL.1,
    );
}

/// What is said of a real model, and how it is named. Without the hub it can only be a file of its user's.
const REAL: (&str, &str) = if cfg!(feature = "hub") {
    ("It is downloaded from the Hugging Face hub; a folder or file of yours goes as well", "sdxl")
} else {
    ("Put your folder in the place of FOLDER", "sdxl=FOLDER")
};

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
