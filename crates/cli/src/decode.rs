//! `remote-vae decode`: one file or thousands, by a server or a model on this machine.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use client::{DecodeOptions, Decoded, Image, Tensor, blocking::RemoteVae};
use vae::Vae;
use wire::{DecodeRequest, Limits};

use crate::args::DecodeArgs;
use crate::batch::{self, Failure, Made, Report, inputs};
use crate::latents::{self, LatentsFile};
use crate::output;
use crate::preview::Terminal;
use crate::provenance::Provenance;

pub(crate) fn run(args: DecodeArgs) -> anyhow::Result<()> {
    if inputs::is_one(&args.latents) && !is_folder(&args.out) { one(&args) } else { many(&args) }
}

/// Whether a path names a folder, be it there or not.
fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn one(args: &DecodeArgs) -> anyhow::Result<()> {
    let (output_type, image_format) = output::plan(&args.out, &args.options)?;
    let options = args.options.options(output_type, image_format);
    // What cannot be asked for is known before a file is read or a model is loaded.
    options.params()?;
    let input = args.latents.first().context("there is nothing to decode")?;
    let (path, tensor) = latents::split(input);
    let item = batch::Item { path, tensor: tensor.map(str::to_owned), out: args.out.clone() };
    let latents = LatentsFile::open(&item.path)?.read(tensor)?;
    let decoder = Decoder::new(args, |_, _| {})?;
    let start = Instant::now();
    let decoded = decoder.decode(&latents, &options)?;
    let time = start.elapsed();
    let provenance = decoder.provenance(args, &options, &latents);
    output::write(&args.out, &decoded, provenance.as_ref())?;
    let made = made(&decoded, terminal(args));
    if args.batch.json {
        let report = Report::new(1, true);
        report.done(&item, &made, time);
        report.finish();
    } else {
        if let Some(preview) = &made.preview {
            eprintln!("{preview}");
        }
        let what = made.what;
        let (out, seconds) = (args.out.display(), time.as_secs_f64());
        say!("{out}: {what}, decoded by {} in {seconds:.2} s", decoder.name());
    }
    Ok(())
}

fn many(args: &DecodeArgs) -> anyhow::Result<()> {
    let (output_type, image_format, ending) = output::plan_many(&args.out, &args.options)?;
    let options = args.options.options(output_type, image_format);
    options.params()?;
    let found = inputs::find(&args.latents, latents::split, latents::is_latents_file)?;
    let tensors = |path: &Path| LatentsFile::open(path).ok().map(|file| file.names());
    let items = inputs::plan(found, &args.out, ending, tensors)?;
    for item in &items {
        let folder = item.out.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let report = Report::new(items.len(), args.batch.json);
    let note = report.notes();
    let decoder = Decoder::new(args, move |error, pause| {
        // Pauses that nobody notices are not worth a line.
        if pause.as_secs() >= 2 {
            note(&format!("{error}; trying again in {} s", pause.as_secs()));
        }
    })?;
    let terminal = terminal(args);
    batch::run(&items, args.batch.jobs, args.batch.resume, &report, |item| {
        let latents = LatentsFile::open(&item.path)
            .and_then(|file| file.read(item.tensor.as_deref()))
            .map_err(Failure::Item)?;
        let decoded = decoder.decode(&latents, &options).map_err(|error| {
            match error.downcast_ref::<client::Error>() {
                Some(cause) if cause.is_of_endpoint() => Failure::All(error),
                _ => Failure::Item(error),
            }
        })?;
        let provenance = decoder.provenance(args, &options, &latents);
        // If one file cannot be written, the next one cannot either.
        output::write(&item.out, &decoded, provenance.as_ref()).map_err(Failure::All)?;
        Ok(made(&decoded, terminal))
    })
}

/// The terminal that shall show pictures, if one shall and can.
fn terminal(args: &DecodeArgs) -> Option<Terminal> {
    args.batch.preview.then(Terminal::find).flatten()
}

/// What there is to tell of a decode.
fn made(decoded: &Decoded, terminal: Option<Terminal>) -> Made {
    let preview = match (decoded, terminal) {
        (Decoded::Image(image), Some(terminal)) => terminal.show(image),
        _ => None,
    };
    Made { what: output::describe(decoded), bytes: decoded.bytes().len(), preview }
}

/// Who decodes. It may be shared by threads.
enum Decoder {
    There { vae: RemoteVae, model: Option<String> },
    Here { vae: Mutex<Box<dyn Vae>>, name: String, model: Option<String> },
}

impl Decoder {
    /// `on_retry` is told of pauses before a request is sent again.
    fn new(
        args: &DecodeArgs,
        on_retry: impl Fn(&client::Error, std::time::Duration) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        if let Some(source) = args.source()? {
            let name = source.to_string();
            // The name of a preset, or the last part of a path: the rest is nobody's business.
            let path = if Path::new(&name).exists() {
                name.as_str()
            } else {
                name.split(' ').next().unwrap_or_default()
            };
            let model = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
            return Ok(Self::Here { vae: Mutex::new(source.load(args.engine.engine()?)?), name, model });
        }
        let [first, others @ ..] = args.endpoint.as_slice() else { anyhow::bail!("there is no endpoint") };
        let builder = RemoteVae::builder(first)
            .timeout(args.server.timeout)
            .retry(args.server.retry())
            .on_retry(on_retry);
        let builder = others.iter().fold(builder, |builder, endpoint| builder.endpoint(endpoint));
        let builder = match &args.server.api_key {
            Some(key) => builder.api_key(key),
            None => builder,
        };
        let vae = builder.build()?;
        let model =
            first.split(['?', '#']).next().and_then(|url| url.split_once("://")).and_then(|(_, rest)| {
                let (_, path) = rest.split_once('/')?;
                path.split('/').find(|part| !part.is_empty() && *part != "predict").map(str::to_owned)
            });
        Ok(Self::There { vae, model })
    }

    /// For people.
    fn name(&self) -> String {
        match self {
            Self::There { vae, .. } => vae.endpoint(),
            Self::Here { name, .. } => name.clone(),
        }
    }

    fn provenance(&self, args: &DecodeArgs, options: &DecodeOptions, latents: &Tensor) -> Option<Provenance> {
        let (Self::There { model, .. } | Self::Here { model, .. }) = self;
        (!args.no_metadata).then(|| Provenance::new(model.as_deref(), options, &latents.head))
    }

    /// By a model on this machine to the very bytes that a server would answer with.
    fn decode(&self, latents: &Tensor, options: &DecodeOptions) -> anyhow::Result<Decoded> {
        let vae = match self {
            Self::There { vae, .. } => return Ok(vae.decode(latents, options)?),
            Self::Here { vae, .. } => vae,
        };
        let request = DecodeRequest { latents: latents.clone(), params: options.params()? };
        // Whoever decodes on their own machine sets their own limits.
        let limits = Limits {
            max_body_bytes: usize::MAX,
            max_batch: usize::MAX,
            max_pixels: usize::MAX,
            max_total_pixels: usize::MAX,
        };
        let mut vae = vae.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match server::decode(vae.as_mut(), request, &limits)? {
            server::Decoded::Tensor(tensor) => Decoded::Tensor(tensor),
            server::Decoded::Video(file) => Decoded::Video(file),
            server::Decoded::Image(file) => Decoded::Image(Image::from_bytes(file)?),
        })
    }
}
