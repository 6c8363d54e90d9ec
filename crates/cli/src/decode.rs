//! `remote-vae decode`: one file or thousands, by a server or a model on this machine.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{ValueEnum, ValueHint};
use client::{DType, DecodeOptions, Decoded, ImageFormat, OutputType, Tensor};
use glob::Pattern;
use vae::Silent;

use crate::args::batch::BatchArgs;
use crate::args::heading;
use crate::args::number::whole;
use crate::args::options::{DTypeArg, PieceArgs, ScalingArgs, TensorFileArgs, ValueArgs};
use crate::args::place::PlaceArgs;
use crate::batch::{self, Made, Report, inputs};
use crate::contents::{self, Read, Reader, Told};
use crate::place::Place;
use crate::preview::Terminal;
use crate::progress::{self, Work};
use crate::provenance::Provenance;
use crate::{demo, misuse, output};

/// Decode latents to pictures or tensors, with a server or without one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all is done, 1 nothing (more) can be done, 2 the command line makes no sense, 3 some \
    files failed and the others are written, 130 interrupted.\n\nExamples:\n  \
    remote-vae decode latents.safetensors -o picture.png --endpoint http://127.0.0.1:8080\n      \
      by a server, which scales as its model's configuration says\n  \
    remote-vae decode latents.npy -o picture.jpg --model ./sd-vae-ft-mse --scaling-factor 0.18215\n      \
      by a model on this machine, without a server\n  \
    remote-vae decode all.safetensors:second -o pixels.npy --model ./FLUX.1 --height 768 --width 1024\n      \
      packed latents, one tensor of several in a file, to a float16 tensor\n  \
    remote-vae decode latents/ 'more/**/*.pt' -o pictures/ --jobs 8 --resume --endpoint http://a --endpoint http://b\n      \
      thousands, by two servers; the same command goes on where it was interrupted"
)]
pub(crate) struct DecodeArgs {
    /// Files with latents: .safetensors, .sft, .npy, .npz, .pt, ComfyUI's .latent (or PATH:NAME for one of the tensors in a
    /// file). Also folders, patterns such as 'a/**/*.pt', and - for a list on stdin, one a line
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) latents: Vec<String>,
    /// File to write. Its ending says what: .jpg, .png or .webp (with alpha .png or .webp), .mp4 for a video, .safetensors or
    /// .npy for a tensor. For many files a folder, which is made if it is not there
    #[arg(short, long, alias = "output", display_order = 1)]
    pub(crate) out: PathBuf,
    /// The tensors to decode, by a pattern such as 'latents_flipped*' [default: those that are called latents]
    #[arg(long, value_name = "PATTERN")]
    pub(crate) tensor: Option<Pattern>,
    #[command(flatten)]
    pub(crate) options: OptionArgs,
    #[command(flatten)]
    pub(crate) file: TensorFileArgs,
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// The options of `remote_decode`, under its names.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = heading::OUTPUT)]
pub(crate) struct OptionArgs {
    /// A picture (pil), a tensor (pt) or a video (mp4) [default: what the ending of OUT says]
    #[arg(long, value_name = "TYPE")]
    pub(crate) output_type: Option<OutputTypeArg>,
    /// Format of a picture [default: what the ending of OUT says, else jpg]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) image_format: Option<ImageFormatArg>,
    /// Quality of a JPEG, a WebP or a video, from 1 to 100 [default: 75, 80 and 65]
    #[arg(long, value_name = "N", value_parser = whole::<u8>(1..=100))]
    pub(crate) quality: Option<u8>,
    /// Frames a second of a video, from 1 to 240 [default: 15]
    #[arg(long, value_name = "N", value_parser = whole::<u16>(1..=240))]
    pub(crate) fps: Option<u16>,
    /// Type of a tensor's values [default: float16]
    #[arg(long, value_name = "TYPE")]
    pub(crate) out_dtype: Option<DTypeArg>,
    /// Tensor of bytes that are ready to show, [B, H, W, 3], instead of [B, 3, H, W]
    #[arg(long)]
    pub(crate) partial_postprocess: bool,
    #[command(flatten)]
    pub(crate) scaling: ScalingArgs,
    /// Height of the picture in pixels; packed latents need it
    #[arg(long, value_name = "H", value_parser = whole::<usize>(1..=u64::MAX), help_heading = heading::LATENTS)]
    pub(crate) height: Option<usize>,
    /// Width of the picture in pixels; packed latents need it
    #[arg(long, value_name = "W", value_parser = whole::<usize>(1..=u64::MAX), help_heading = heading::LATENTS)]
    pub(crate) width: Option<usize>,
    #[command(flatten)]
    pub(crate) pieces: PieceArgs,
    #[command(flatten)]
    pub(crate) values: ValueArgs,
}

/// `--output-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputTypeArg {
    Pil,
    Pt,
    Mp4,
}

/// `--image-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageFormatArg {
    #[value(alias = "jpeg")]
    Jpg,
    Png,
    Webp,
}

impl ImageFormatArg {
    /// The ending of such files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jpg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
        }
    }
}

impl From<OutputTypeArg> for OutputType {
    fn from(arg: OutputTypeArg) -> Self {
        match arg {
            OutputTypeArg::Pil => Self::Pil,
            OutputTypeArg::Pt => Self::Pt,
            OutputTypeArg::Mp4 => Self::Mp4,
        }
    }
}

impl From<ImageFormatArg> for ImageFormat {
    fn from(arg: ImageFormatArg) -> Self {
        match arg {
            ImageFormatArg::Jpg => Self::Jpeg { quality: None },
            ImageFormatArg::Png => Self::Png,
            ImageFormatArg::Webp => Self::WebP { quality: None },
        }
    }
}

impl OptionArgs {
    /// Height and width, where both are given.
    fn size(&self) -> Option<(usize, usize)> {
        self.height.zip(self.width)
    }

    /// For the client. `output_type` and `image_format` are what the command line and OUT come down to
    ///
    /// # Errors
    /// [`Misuse`](misuse::Misuse): flags that contradict each other
    pub(crate) fn options(
        &self,
        output_type: OutputType,
        image_format: ImageFormat,
    ) -> anyhow::Result<DecodeOptions> {
        self.scaling.check()?;
        let options = DecodeOptions::new()
            .do_scaling(!self.scaling.no_scaling)
            .scaling_factor(self.scaling.scaling_factor)
            .shift_factor(self.scaling.shift_factor)
            .output_type(output_type)
            .image_format(image_format)
            .partial_postprocess(self.partial_postprocess)
            .height(self.height)
            .width(self.width)
            .fps(self.fps)
            .quality(self.quality)
            .dtype(self.out_dtype.map(DType::from))
            .tiling(self.pieces.tiling)
            .framewise(self.pieces.framewise)
            .allow_non_finite(self.values.allow_non_finite);
        options.params().map_err(misuse::of_client)?;
        Ok(options)
    }
}

pub(crate) fn run(args: DecodeArgs) -> anyhow::Result<()> {
    inputs::check_folders(&args.latents)?;
    if batch::is_one(&args.latents, &args.out) { one(&args) } else { many(&args) }
}

fn one(args: &DecodeArgs) -> anyhow::Result<()> {
    let (output_type, image_format) = output::plan(&args.out, &args.options)?;
    // What cannot be asked for is known before a file is read or a model is loaded.
    let options = args.options.options(output_type, image_format)?;
    let input = args.latents.first().context("there is nothing to decode")?;
    output::check_tensor_format(&args.out, args.file.tensor_format)?;
    let (path, tensor) = latents::split(input);
    let item = batch::Item::new(path, tensor.map(str::to_owned), args.out.clone());
    let Read { latents, layout } = Reader::default().read(&item, args.tensor.as_ref())?;
    let count = contents::pictures(&latents.head.shape, output_type, args.options.size());
    ensure!(
        count == 1,
        "{} holds {count} pictures, which do not fit into one file: let -o name a folder (with a / at its end), for one \
         file each, or a .safetensors or .npy file for all as a tensor",
        item.input()
    );
    let (options, told) = Told::default().options(&options, &args.options.scaling, layout, &item.path);
    if let Some(told) = told {
        note!("{told}");
    }
    if args.place.is_unsaid() && !demo::is_example(&latents) {
        note!("{}", demo::note_of_decode(&latents.head.shape));
    }
    let place = Place::open(&args.place, progress::on_retry())?;
    check_kind(&place, &args.out, output_type, &latents.head.shape)?;
    let start = Instant::now();
    let mut work = Work::begin(format!("decoding by {}", place.name()));
    let decoded = work.follow(&place, |work| place.decode(&latents, &options, work));
    let decoded = decoded.map_err(|error| batch::named(error, &format!("cannot decode {}", item.input())))?;
    drop(work);
    let time = start.elapsed();
    let provenance = provenance(args, &place, &options, &latents);
    output::write(&args.out, &decoded, provenance.as_ref())?;
    batch::tell(&item, &made(&decoded, args.batch.terminal()), time, args.batch.json, |seconds| {
        format!("decoded by {} in {seconds:.2} s", place.name())
    });
    Ok(())
}

fn many(args: &DecodeArgs) -> anyhow::Result<()> {
    let many = output::plan_many(&args.out, &args.options, args.file.tensor_format)?;
    let options = |kind: &output::Kind| args.options.options(kind.output_type, kind.image_format);
    if let output::Many::One(kind) = &many {
        options(kind)?;
    }
    let found = inputs::find(&args.latents, "latents", latents::split, latents::is_latents_file)?;
    let report = Report::new("latents", args.batch.json);
    let place = Place::open(&args.place, report.on_retry())?;
    // The model says whether results are pictures or videos, where nothing else does; a server that does not tell leaves it
    // to the shapes.
    let is_video = match &many {
        output::Many::One(kind) => {
            check_kind(&place, Path::new("--output-type mp4"), kind.output_type, &[])?;
            None
        }
        output::Many::ByModel { .. } => place.is_video(),
    };
    let items = inputs::plan(found, &args.out, |found| {
        contents::of_file(found, args.tensor.as_ref(), args.options.size(), |shape| {
            let kind = many.kind(is_video, shape);
            (kind.output_type, kind.ending)
        })
    })?;
    batch::check(&items, "latents")?;
    let kinds = items.iter().filter_map(|item| many.kind_of(&item.out));
    kinds.map(options).collect::<anyhow::Result<Vec<_>>>()?;
    let terminal = args.batch.terminal();
    let (reader, told, note) = (Reader::default(), Told::default(), report.notes());
    batch::run(&items, &args.out, &args.batch, &report, |item| {
        let Read { latents, layout } =
            reader.read(item, args.tensor.as_ref()).map_err(batch::Failure::Item)?;
        let kind = many.kind_of(&item.out).context("it has no ending").map_err(batch::Failure::Item)?;
        let asked = options(kind).map_err(batch::Failure::Item)?;
        let (options, line) = told.options(&asked, &args.options.scaling, layout, &item.path);
        if let Some(line) = line {
            note(&line);
        }
        if args.place.is_unsaid() && !demo::is_example(&latents) && told.is_new("demo") {
            note(&demo::note_of_decode(&latents.head.shape));
        }
        let decoded = place.decode(&latents, &options, &mut Silent).map_err(batch::Failure::of_work)?;
        let provenance = provenance(args, &place, &options, &latents);
        output::write(&item.out, &decoded, provenance.as_ref()).map_err(batch::Failure::of_writing)?;
        Ok(made(&decoded, terminal))
    })
}

/// Checks that the model makes what `out`, a name or a flag, is for: pictures or videos.
///
/// # Errors
/// [`Misuse`](misuse::Misuse): it does not.
fn check_kind(place: &Place, out: &Path, output_type: OutputType, shape: &[usize]) -> anyhow::Result<()> {
    let frames = if let [_, _, frames, _, _] = *shape { frames } else { 1 };
    // A server is asked only where it matters.
    match output_type {
        OutputType::Mp4 if place.is_video() == Some(false) => misuse!(
            "{} is for a video, and {} decodes pictures: write .jpg, .png or .webp, or .safetensors or .npy for a tensor",
            out.display(),
            place.name()
        ),
        OutputType::Pil if frames > 1 && place.is_video() == Some(true) => misuse!(
            "{} is for one picture, and these are latents of a video, {shape:?}: write .mp4, or .safetensors or .npy for a \
             tensor",
            out.display()
        ),
        _ => Ok(()),
    }
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
    (!args.file.no_metadata).then(|| Provenance::of_decode(place.model(), options, &latents.head))
}
