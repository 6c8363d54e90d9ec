//! `remote-vae encode`: pictures to latents, one file or thousands, by a server or a model on this machine.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use client::{DType, EncodeOptions, Image, Picture, SampleMode, Tensor};
use media::ImageFile;

use crate::args::TensorFormatArg;
use crate::batch::args::BatchArgs;
use crate::batch::{self, Made, Report, inputs};
use crate::output;
use crate::place::{Place, PlaceArgs};
use crate::preview::Terminal;
use crate::provenance::Provenance;

/// Encode pictures to latents, with a server or without one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Pictures are brought to RGB and, by Lanczos' filter, down to sides that are whole latents, as \
    diffusers does it. Exit codes are those of `remote-vae decode`.\n\nExamples:\n  \
    remote-vae encode photo.jpg -o latents.safetensors --endpoint http://127.0.0.1:8080\n      \
      by a server; the latents are scaled as a pipeline wants them\n  \
    remote-vae encode photo.png -o latents.npy --model ./sd-vae-ft-mse --sample-mode argmax --no-scaling\n      \
      by a model on this machine: the mean of the distribution, as the encoder gives it\n  \
    remote-vae encode photos/ -o latents/ --seed 7 --jobs 8 --resume --endpoint http://127.0.0.1:8080\n      \
      thousands; the same command goes on where it was interrupted"
)]
pub(crate) struct EncodeArgs {
    /// Picture files: PNG, JPEG, WebP. Also folders, patterns such as 'a/**/*.png', and - for a list on stdin, one a line
    #[arg(required = true)]
    images: Vec<String>,
    /// File to write: .safetensors or .npy. For many files a folder, which is made if it is not there
    #[arg(short, long, env = "REMOTE_VAE_OUT", hide_env_values = true)]
    out: PathBuf,
    /// Do not write into .safetensors files which model and factors they were made with
    #[arg(long, env = "REMOTE_VAE_NO_METADATA", hide_env_values = true, value_parser = BoolishValueParser::new())]
    no_metadata: bool,
    /// Format of the latents, where -o names a folder
    #[arg(
        long,
        env = "REMOTE_VAE_TENSOR_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        default_value = "safetensors"
    )]
    tensor_format: TensorFormatArg,
    #[command(flatten)]
    options: EncodeOptionArgs,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// The options of an encode, under diffusers' names.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of remote_encode")]
pub(crate) struct EncodeOptionArgs {
    /// Multiply the latents with this (SD v1: 0.18215, SDXL: 0.13025, Flux: 0.3611) [default: the model's own]
    #[arg(
        long,
        env = "REMOTE_VAE_SCALING_FACTOR",
        hide_env_values = true,
        value_name = "F",
        allow_negative_numbers = true
    )]
    scaling_factor: Option<f32>,
    /// Subtract this before the multiplication (Flux: 0.1159); goes with --scaling-factor
    #[arg(
        long,
        env = "REMOTE_VAE_SHIFT_FACTOR",
        hide_env_values = true,
        value_name = "F",
        allow_negative_numbers = true
    )]
    shift_factor: Option<f32>,
    /// Latents as the encoder gives them, not scaled
    #[arg(long, env = "REMOTE_VAE_NO_SCALING", hide_env_values = true, value_parser = BoolishValueParser::new())]
    no_scaling: bool,
    /// A sample of the distribution that the encoder finds, or its mean (argmax)
    #[arg(
        long,
        env = "REMOTE_VAE_SAMPLE_MODE",
        hide_env_values = true,
        value_name = "MODE",
        default_value = "sample"
    )]
    sample_mode: SampleModeArg,
    /// What the sample's noise is made of: the same seed gives the same latents [default: another each time]
    #[arg(long, env = "REMOTE_VAE_SEED", hide_env_values = true, value_name = "N")]
    seed: Option<u64>,
    /// Type of the latents
    #[arg(
        long,
        env = "REMOTE_VAE_DTYPE",
        hide_env_values = true,
        value_name = "TYPE",
        default_value = "float16"
    )]
    dtype: DTypeArg,
}

/// `--sample-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SampleModeArg {
    Sample,
    Argmax,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DTypeArg {
    Float16,
    Bfloat16,
    Float32,
}

impl EncodeOptionArgs {
    fn options(&self) -> EncodeOptions {
        EncodeOptions::new()
            .do_scaling(!self.no_scaling)
            .scaling_factor(self.scaling_factor)
            .shift_factor(self.shift_factor)
            .sample_mode(match self.sample_mode {
                SampleModeArg::Sample => SampleMode::Sample { seed: self.seed },
                SampleModeArg::Argmax => SampleMode::Argmax,
            })
            .dtype(match self.dtype {
                DTypeArg::Float16 => DType::Float16,
                DTypeArg::Bfloat16 => DType::BFloat16,
                DTypeArg::Float32 => DType::Float32,
            })
    }
}

pub(crate) fn run(args: EncodeArgs) -> anyhow::Result<()> {
    if batch::is_one(&args.images, &args.out) { one(&args) } else { many(&args) }
}

fn one(args: &EncodeArgs) -> anyhow::Result<()> {
    let options = args.options.options();
    output::plan_latents(&args.out, options.params()?.dtype)?;
    let input = args.images.first().context("there is nothing to encode")?;
    let item = batch::Item { path: input.into(), tensor: None, out: args.out.clone() };
    let picture = read(&item.path)?;
    let place = args.place.open(Box::new(|_, _| {}))?;
    let start = Instant::now();
    let (latents, seed) = place.encode(&picture, &options)?;
    let time = start.elapsed();
    output::write_latents(&args.out, &latents, provenance(args, &place, &options, seed).as_ref())?;
    let made = made(&picture, &latents, seed, args.batch.terminal());
    batch::tell(&item, &made, time, args.batch.json, |seconds| {
        format!("encoded by {} in {seconds:.2} s", place.name())
    });
    Ok(())
}

fn many(args: &EncodeArgs) -> anyhow::Result<()> {
    let options = args.options.options();
    output::plan_many_latents(&args.out, args.tensor_format, options.params()?.dtype)?;
    let found = inputs::find(&args.images, "pictures", |path| (path.into(), None), is_image_file)?;
    let items = inputs::plan(found, &args.out, args.tensor_format.name(), |_| None)?;
    let report = Report::new(items.len(), args.batch.json);
    let place = args.place.open(report.on_retry())?;
    let terminal = args.batch.terminal();
    batch::run(&items, &args.batch, &report, |item| {
        let picture = read(&item.path).map_err(batch::Failure::Item)?;
        let (latents, seed) = place.encode(&picture, &options).map_err(batch::Failure::of_work)?;
        let provenance = provenance(args, &place, &options, seed);
        // If one file cannot be written, the next one cannot either.
        output::write_latents(&item.out, &latents, provenance.as_ref()).map_err(batch::Failure::All)?;
        Ok(made(&picture, &latents, seed, terminal))
    })
}

/// Whether a file may hold a picture, by its name.
fn is_image_file(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    ["png", "jpg", "jpeg", "webp"].iter().any(|known| ending == *known)
}

/// A picture file. That it is none is better known before it is sent.
pub(crate) fn read(path: &Path) -> anyhow::Result<Picture> {
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
    (!args.no_metadata).then(|| Provenance::of_encode(place.model(), options, seed))
}
