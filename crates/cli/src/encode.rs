//! `remote-vae encode`: pictures to latents, one file or thousands, by a server or a model on this machine.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::{ValueEnum, ValueHint};
use client::{EncodeOptions, Image, Picture, SampleMode, Tensor};
use latents::{Entry, LatentsFile};
use media::ImageFile;
use vae::Silent;

use crate::args::batch::BatchArgs;
use crate::args::heading;
use crate::args::number::{ANY, whole};
use crate::args::options::{DTypeArg, PieceArgs, ScalingArgs, TensorFileArgs, ValueArgs};
use crate::args::place::PlaceArgs;
use crate::batch::inputs::{Contents, Found, Part};
use crate::batch::{self, Made, Report, inputs};
use crate::place::Place;
use crate::preview::Terminal;
use crate::progress::{self, Work};
use crate::provenance::Provenance;
use crate::{demo, misuse, output};

/// Encode pictures to latents, with a server or without one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Pictures are brought to RGB, or to RGBA for a model of pictures with alpha, and, by Lanczos' filter, down to sides that are whole latents, as \
    diffusers does it. Exit codes are those of `remote-vae decode`.\n\nExamples:\n  \
    remote-vae encode photo.jpg -o latents.safetensors --endpoint http://127.0.0.1:8080\n      \
      by a server; the latents are scaled as a pipeline wants them\n  \
    remote-vae encode photo.png -o latents.npy --model ./sd-vae-ft-mse --sample-mode argmax --no-scaling\n      \
      by a model on this machine: the mean of the distribution, as the encoder gives it\n  \
    remote-vae encode photos/ -o latents/ --seed 7 --jobs 8 --resume --endpoint http://127.0.0.1:8080\n      \
      thousands; the same command goes on where it was interrupted"
)]
pub(crate) struct EncodeArgs {
    /// Picture files: PNG, JPEG, WebP; pixels as a tensor, [B, 3, H, W] or of a video [B, 3, F, H, W], in .safetensors,
    /// .npy, .npz, .pt (or PATH:NAME for one of the tensors in a file). Also folders, of which the pictures are taken,
    /// patterns such as 'a/**/*.png', and - for a list on stdin, one a line
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    images: Vec<String>,
    /// File to write: .safetensors or .npy. For many files a folder, which is made if it is not there
    #[arg(short, long, alias = "output", display_order = 1)]
    out: PathBuf,
    #[command(flatten)]
    options: EncodeOptionArgs,
    #[command(flatten)]
    file: TensorFileArgs,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// The options of an encode, under diffusers' names.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = heading::LATENTS)]
pub(crate) struct EncodeOptionArgs {
    #[command(flatten)]
    scaling: ScalingArgs,
    /// A sample of the distribution that the encoder finds, or its mean (argmax)
    #[arg(long, value_name = "MODE", default_value = "sample")]
    sample_mode: SampleModeArg,
    /// What the sample's noise is made of: the same seed gives the same latents [default: another each time]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(ANY))]
    seed: Option<u64>,
    /// Type of the latents' values
    #[arg(long, visible_alias = "dtype", value_name = "TYPE", default_value = "float16", help_heading = heading::OUTPUT)]
    out_dtype: DTypeArg,
    #[command(flatten)]
    pieces: PieceArgs,
    #[command(flatten)]
    values: ValueArgs,
}

/// `--sample-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SampleModeArg {
    Sample,
    Argmax,
}

impl EncodeOptionArgs {
    fn options(&self) -> anyhow::Result<EncodeOptions> {
        if self.sample_mode == SampleModeArg::Argmax && self.seed.is_some() {
            misuse!("--seed is of a sample, and --sample-mode argmax takes none: drop one of the two")
        }
        self.scaling.check()?;
        let options = EncodeOptions::new()
            .do_scaling(!self.scaling.no_scaling)
            .scaling_factor(self.scaling.scaling_factor)
            .shift_factor(self.scaling.shift_factor)
            .sample_mode(match self.sample_mode {
                SampleModeArg::Sample => SampleMode::Sample { seed: self.seed },
                SampleModeArg::Argmax => SampleMode::Argmax,
            })
            .dtype(self.out_dtype.into())
            .tiling(self.pieces.tiling)
            .framewise(self.pieces.framewise)
            .allow_non_finite(self.values.allow_non_finite);
        options.params().map_err(misuse::of_client)?;
        Ok(options)
    }
}

pub(crate) fn run(args: EncodeArgs) -> anyhow::Result<()> {
    inputs::check_folders(&args.images)?;
    if batch::is_one(&args.images, &args.out) { one(&args) } else { many(&args) }
}

fn one(args: &EncodeArgs) -> anyhow::Result<()> {
    let options = args.options.options()?;
    output::check_tensor_format(&args.out, args.file.tensor_format)?;
    output::plan_latents(&args.out, options.params()?.dtype)?;
    let input = args.images.first().context("there is nothing to encode")?;
    let (path, tensor) = latents::split(input);
    let item = batch::Item::new(path, tensor.map(str::to_owned), args.out.clone());
    let picture = read(&item)?;
    if args.place.is_unsaid() {
        note!("{}", demo::NOTE_OF_ENCODE);
    }
    let place = Place::open(&args.place, progress::on_retry())?;
    let start = Instant::now();
    let mut work = Work::begin(format!("encoding by {}", place.name()));
    let encoded = work.follow(&place, |work| place.encode(&picture, &options, work));
    let (latents, seed) =
        encoded.map_err(|error| batch::named(error, &format!("cannot encode {}", item.input())))?;
    drop(work);
    let time = start.elapsed();
    output::write_latents(&args.out, &latents, provenance(args, &place, &options, seed).as_ref())?;
    let made = made(&picture, &latents, seed, args.batch.terminal());
    batch::tell(&item, &made, time, args.batch.json, |seconds| {
        format!("encoded by {} in {seconds:.2} s", place.name())
    });
    Ok(())
}

fn many(args: &EncodeArgs) -> anyhow::Result<()> {
    let options = args.options.options()?;
    let format = args.file.tensor_format.unwrap_or_default();
    output::plan_many_latents(&args.out, format, options.params()?.dtype)?;
    let found = inputs::find(&args.images, "pictures", latents::split, is_image_file)?;
    let ending = format.name();
    let items = inputs::plan(found, &args.out, |found| parts(found, ending))?;
    batch::check(&items, "pictures")?;
    let report = Report::new("pictures", args.batch.json);
    let place = Place::open(&args.place, report.on_retry())?;
    if args.place.is_unsaid() {
        note!("{}", demo::NOTE_OF_ENCODE);
    }
    let terminal = args.batch.terminal();
    batch::run(&items, &args.out, &args.batch, &report, |item| {
        let picture = read(item).map_err(batch::Failure::Item)?;
        let (latents, seed) =
            place.encode(&picture, &options, &mut Silent).map_err(batch::Failure::of_work)?;
        let provenance = provenance(args, &place, &options, seed);
        output::write_latents(&item.out, &latents, provenance.as_ref())
            .map_err(batch::Failure::of_writing)?;
        Ok(made(&picture, &latents, seed, terminal))
    })
}

/// What of a file is encoded: a picture, or those of its tensors that can be pixels.
fn parts(found: &Found, ending: &'static str) -> anyhow::Result<Contents> {
    if !latents::is_latents_file(&found.path) || found.tensor.is_some() {
        return Ok(Contents::Parts(vec![Part { tensor: found.tensor.clone(), index: None, ending }]));
    }
    let file = LatentsFile::open(&found.path)?;
    let pixels = file.entries().iter().filter(|entry| entry.is_candidate());
    let part = |entry: &Entry| Part { tensor: Some(entry.name.clone()), index: None, ending };
    let parts: Vec<_> = pixels.map(part).collect();
    Ok(if parts.is_empty() {
        Contents::Nothing(
            "none of its tensors can be pixels, which are floats with three axes or more".to_owned(),
        )
    } else {
        Contents::Parts(parts)
    })
}

/// Whether a file may hold a picture, by its name.
fn is_image_file(path: &Path) -> bool {
    matches!(output::Ending::of(path), output::Ending::Image(_))
}

/// What is to be encoded: a picture file, or a tensor of pixels.
fn read(item: &batch::Item) -> anyhow::Result<Picture> {
    if latents::is_latents_file(&item.path) {
        Ok(Picture::Tensor(LatentsFile::open(&item.path)?.read(item.tensor.as_deref())?))
    } else {
        read_file(&item.path)
    }
}

/// A picture file. That it is none is better known before it is sent.
pub(crate) fn read_file(path: &Path) -> anyhow::Result<Picture> {
    let file = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ImageFile::open(&file).with_context(|| format!("cannot encode {}", path.display()))?;
    Ok(Picture::File(file.into()))
}

/// What there is to tell of an encode.
fn made(picture: &Picture, latents: &Tensor, seed: Option<u64>, terminal: Option<Terminal>) -> Made {
    let preview = match (picture, terminal) {
        (Picture::File(file), Some(terminal)) => {
            Image::from_bytes(file.clone()).ok().and_then(|image| terminal.show(&image))
        }
        _ => None,
    };
    let seed = seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
    let size = output::bytes(latents.bytes.len());
    Made { what: format!("{}, {size}{seed}", latents.head), bytes: latents.bytes.len(), preview }
}

fn provenance(
    args: &EncodeArgs,
    place: &Place,
    options: &EncodeOptions,
    seed: Option<u64>,
) -> Option<Provenance> {
    (!args.file.no_metadata).then(|| Provenance::of_encode(place.model(), options, seed))
}
