//! `remote-vae decode`: one file or thousands, by a server or a model on this machine.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use client::{DecodeOptions, Decoded, Tensor};

use crate::args::DecodeArgs;
use crate::batch::{self, Made, Report, inputs};
use crate::latents::{self, LatentsFile};
use crate::output;
use crate::place::Place;
use crate::preview::Terminal;
use crate::provenance::Provenance;

pub(crate) fn run(args: DecodeArgs) -> anyhow::Result<()> {
    if batch::is_one(&args.latents, &args.out) { one(&args) } else { many(&args) }
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
    let place = args.place.open(Box::new(|_, _| {}))?;
    let start = Instant::now();
    let decoded = place.decode(&latents, &options)?;
    let time = start.elapsed();
    let provenance = provenance(args, &place, &options, &latents);
    output::write(&args.out, &decoded, provenance.as_ref())?;
    batch::tell(&item, &made(&decoded, args.batch.terminal()), time, args.batch.json, |seconds| {
        format!("decoded by {} in {seconds:.2} s", place.name())
    });
    Ok(())
}

fn many(args: &DecodeArgs) -> anyhow::Result<()> {
    let (output_type, image_format, ending) = output::plan_many(&args.out, &args.options)?;
    let options = args.options.options(output_type, image_format);
    options.params()?;
    let found = inputs::find(&args.latents, "latents", latents::split, latents::is_latents_file)?;
    let tensors = |path: &Path| LatentsFile::open(path).ok().map(|file| file.names());
    let items = inputs::plan(found, &args.out, ending, tensors)?;
    let report = Report::new(items.len(), args.batch.json);
    let place = args.place.open(report.on_retry())?;
    let terminal = args.batch.terminal();
    batch::run(&items, &args.batch, &report, |item| {
        let latents = LatentsFile::open(&item.path)
            .and_then(|file| file.read(item.tensor.as_deref()))
            .map_err(batch::Failure::Item)?;
        let decoded = place.decode(&latents, &options).map_err(batch::Failure::of_work)?;
        let provenance = provenance(args, &place, &options, &latents);
        // If one file cannot be written, the next one cannot either.
        output::write(&item.out, &decoded, provenance.as_ref()).map_err(batch::Failure::All)?;
        Ok(made(&decoded, terminal))
    })
}

/// What there is to tell of a decode.
fn made(decoded: &Decoded, terminal: Option<Terminal>) -> Made {
    let preview = match (decoded, terminal) {
        (Decoded::Image(image), Some(terminal)) => terminal.show(image),
        _ => None,
    };
    Made { what: output::describe(decoded), bytes: decoded.bytes().len(), preview }
}

fn provenance(
    args: &DecodeArgs,
    place: &Place,
    options: &DecodeOptions,
    latents: &Tensor,
) -> Option<Provenance> {
    (!args.no_metadata).then(|| Provenance::of_decode(place.model(), options, &latents.head))
}
