//! What can be said on the command line. Names, defaults and help are here; meaning is elsewhere.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use client::{DecodeOptions, ImageFormat, OutputType};
use tracing_subscriber::filter::Targets;

use crate::batch::args::BatchArgs;
use crate::config::{self, Arguments};
use crate::doors::DoorArgs;
use crate::encode::EncodeArgs;
use crate::engine::EngineArgs;
use crate::models::ModelsArgs;
use crate::place::PlaceArgs;
use crate::roundtrip::RoundtripArgs;
use crate::service::LimitArgs;
use crate::source::ModelArgs;

/// Decode the latents of diffusion models over HTTP, and encode pictures, compatible with diffusers' remote_decode and
/// remote_encode
#[derive(Debug, Parser)]
#[command(name = "remote-vae", version, max_term_width = 110)]
#[command(
    after_help = "New here? Run `remote-vae quickstart`: it needs nothing else and takes a few seconds.\n\n\
    Every flag is also an environment variable: --port is REMOTE_VAE_PORT. The command line goes first."
)]
pub(crate) struct Args {
    /// What to log on stderr: error, warn, info, debug or trace [default: info for serve, else warn]
    #[arg(long, global = true, env = "REMOTE_VAE_LOG", hide_env_values = true, value_name = "LEVEL")]
    pub(crate) log: Option<Targets>,
    /// How log lines are written
    #[arg(
        long,
        global = true,
        env = "REMOTE_VAE_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, for collectors.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(ServeArgs),
    /// Print the settings that `serve` would have, and where each comes from
    #[command(
        after_help = "Takes what serve takes, and prints it as a file for --config. A flag goes before its environment \
        variable, that before the file, and that before the default.\n\nExample:\n  \
        REMOTE_VAE_PORT=9000 remote-vae config --config remote-vae.toml --max-queue 64"
    )]
    Config(ServeArgs),
    Decode(DecodeArgs),
    Encode(EncodeArgs),
    Roundtrip(RoundtripArgs),
    Quickstart(QuickstartArgs),
    Bench(BenchArgs),
    Models(ModelsArgs),
}

/// Serve models over HTTP
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The first model answers at /, and each one at /NAME. Ctrl-C and SIGTERM stop the server \
    when the requests that it has accepted are answered.\n\nExamples:\n  \
    remote-vae serve\n      \
      the embedded demonstration model\n  \
    remote-vae serve --model sdxl --model flux=./ae.safetensors\n      \
      two models: sdxl, from the hub, at / and /sdxl; flux, from a file, at /flux\n  \
    REMOTE_VAE_HOST=0.0.0.0 REMOTE_VAE_MODEL=sd=/models/sd,sdxl=/models/sdxl remote-vae serve\n      \
      the same by environment, for containers"
)]
pub(crate) struct ServeArgs {
    /// File with settings, in TOML: the flags here without their dashes, such as max-queue = 64. The command line and the
    /// environment go before it; `remote-vae config` shows what is in force
    #[arg(long, env = "REMOTE_VAE_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A model to serve, as often as wanted; in the variable, separated by commas. SOURCE is a name that `remote-vae
    /// models` lists; a folder as diffusers saves it, of an autoencoder or of a pipeline; a .safetensors file, of an
    /// autoencoder or of a full checkpoint; or OWNER/NAME[:PATH][@REVISION] on the Hugging Face hub. Factors may follow:
    /// SOURCE,scaling_factor=0.13025,shift_factor=0
    #[arg(
        long = "model",
        env = "REMOTE_VAE_MODEL",
        hide_env_values = true,
        value_name = "NAME=SOURCE",
        default_value = "demo=demo"
    )]
    pub(crate) models: Vec<ModelArgs>,
    /// Load each model when it is first asked for, and put those away that were not used for longest where memory gets
    /// short, instead of loading all at the start
    #[arg(long, env = "REMOTE_VAE_LAZY", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) lazy: bool,
    /// Name or address to listen on; 0.0.0.0 is reachable from other machines
    #[arg(long, env = "REMOTE_VAE_HOST", hide_env_values = true, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "REMOTE_VAE_PORT", hide_env_values = true, default_value_t = 8080)]
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) doors: DoorArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

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
    /// Files with latents: .safetensors, .npy, .npz, .pt (or PATH:NAME for one of the tensors in a file). Also folders,
    /// patterns such as 'a/**/*.pt', and - for a list on stdin, one a line
    #[arg(required = true)]
    pub(crate) latents: Vec<String>,
    /// File to write. Its ending says what: .jpg, .png, .webp, or for a tensor .safetensors, .npy. For many files a folder,
    /// which is made if it is not there
    #[arg(short, long, env = "REMOTE_VAE_OUT", hide_env_values = true)]
    pub(crate) out: PathBuf,
    /// Do not write into PNG and .safetensors files which model and factors they were made with
    #[arg(long, env = "REMOTE_VAE_NO_METADATA", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) no_metadata: bool,
    #[command(flatten)]
    pub(crate) options: OptionArgs,
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// The options of `remote_decode`, under its names.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of remote_decode")]
pub(crate) struct OptionArgs {
    /// Divide the latents by this (SD v1: 0.18215, SDXL: 0.13025, Flux: 0.3611) [default: the model's own]
    #[arg(
        long,
        env = "REMOTE_VAE_SCALING_FACTOR",
        hide_env_values = true,
        value_name = "F",
        allow_negative_numbers = true
    )]
    pub(crate) scaling_factor: Option<f32>,
    /// Add this after the division (Flux: 0.1159); goes with --scaling-factor
    #[arg(
        long,
        env = "REMOTE_VAE_SHIFT_FACTOR",
        hide_env_values = true,
        value_name = "F",
        allow_negative_numbers = true
    )]
    pub(crate) shift_factor: Option<f32>,
    /// The latents are scaled already: decode them as they are
    #[arg(long, env = "REMOTE_VAE_NO_SCALING", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) no_scaling: bool,
    /// A picture (pil), a tensor (pt) or a video (mp4) [default: what the ending of OUT says]
    #[arg(long, env = "REMOTE_VAE_OUTPUT_TYPE", hide_env_values = true, value_name = "TYPE")]
    pub(crate) output_type: Option<OutputTypeArg>,
    /// Format of a picture [default: what the ending of OUT says, else jpg]
    #[arg(long, env = "REMOTE_VAE_IMAGE_FORMAT", hide_env_values = true, value_name = "FORMAT")]
    pub(crate) image_format: Option<ImageFormatArg>,
    /// Format of tensors, where -o names a folder
    #[arg(
        long,
        env = "REMOTE_VAE_TENSOR_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        default_value = "safetensors"
    )]
    pub(crate) tensor_format: TensorFormatArg,
    /// Tensor of bytes that are ready to show, [B, H, W, 3], instead of float16 [B, 3, H, W]
    #[arg(long, env = "REMOTE_VAE_PARTIAL_POSTPROCESS", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) partial_postprocess: bool,
    /// Height of the picture in pixels; packed latents need it
    #[arg(long, env = "REMOTE_VAE_HEIGHT", hide_env_values = true, value_name = "H")]
    pub(crate) height: Option<usize>,
    /// Width of the picture in pixels; packed latents need it
    #[arg(long, env = "REMOTE_VAE_WIDTH", hide_env_values = true, value_name = "W")]
    pub(crate) width: Option<usize>,
    /// Frames a second of a video [default: 15]
    #[arg(long, env = "REMOTE_VAE_FPS", hide_env_values = true, value_name = "N")]
    pub(crate) fps: Option<u16>,
    /// Quality of a video, from 1 to 100 [default: 65]
    #[arg(long, env = "REMOTE_VAE_QUALITY", hide_env_values = true, value_name = "N")]
    pub(crate) quality: Option<u8>,
}

/// See the whole path work: server, client, pictures
#[derive(Debug, clap::Args)]
#[command(after_help = "Starts a server with the embedded demonstration model on a free port, sends it a \
    photograph's latents over HTTP, and writes what comes back. Needs no network and no files.")]
pub(crate) struct QuickstartArgs {
    /// Folder for the pictures; made if it is not there
    #[arg(
        long,
        env = "REMOTE_VAE_OUT",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "remote-vae-quickstart"
    )]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Measure how fast this machine decodes, and in how much memory
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The result is checked first. A time is the median of several runs, after one to warm up; \
    memory is the peak of the whole process. Tiles are those of diffusers' enable_tiling().\n\nExample:\n  \
    remote-vae bench --model ./sdxl-vae-fp16-fix --sizes 512,1024"
)]
pub(crate) struct BenchArgs {
    /// The model: a SOURCE as in `remote-vae serve --help`
    #[arg(
        long,
        env = "REMOTE_VAE_MODEL",
        hide_env_values = true,
        value_name = "SOURCE",
        default_value = "demo"
    )]
    pub(crate) model: ModelArgs,
    /// Sizes of the pictures in pixels: a side, or HEIGHTxWIDTH [default: 512,1024; for videos 320x512]
    #[arg(
        long,
        env = "REMOTE_VAE_SIZES",
        hide_env_values = true,
        value_name = "N,N",
        value_delimiter = ',',
        value_parser = size
    )]
    pub(crate) sizes: Vec<[usize; 2]>,
    /// Frames of each video [default: 9]
    #[arg(long, env = "REMOTE_VAE_FRAMES", hide_env_values = true, value_name = "N")]
    pub(crate) frames: Option<usize>,
    /// Runs of each size that are timed
    #[arg(long, env = "REMOTE_VAE_RUNS", hide_env_values = true, value_name = "N", default_value = "3", value_parser = runs)]
    pub(crate) runs: usize,
    /// Also say of each layer what it does, why so, and how fast
    #[arg(long, env = "REMOTE_VAE_EXPLAIN", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) explain: bool,
    /// Print JSON instead of a table
    #[arg(long, env = "REMOTE_VAE_JSON", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// One of `--sizes`: height and width.
fn size(text: &str) -> Result<[usize; 2], String> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    let side = |text: &str| text.parse().map_err(|_| "expected a number such as 512, or 320x512".to_owned());
    Ok([side(height)?, side(width)?])
}

/// `--runs`.
fn runs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(runs @ 1..=1000) => Ok(runs),
        _ => Err("expected a whole number from 1 to 1000".to_owned()),
    }
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

/// `--tensor-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TensorFormatArg {
    Safetensors,
    Npy,
}

impl TensorFormatArg {
    /// The ending of such files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Npy => "npy",
        }
    }
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
    /// For the client. `output_type` and `image_format` are what the command line and OUT come down to
    pub(crate) fn options(&self, output_type: OutputType, image_format: ImageFormat) -> DecodeOptions {
        DecodeOptions::new()
            .do_scaling(!self.no_scaling)
            .scaling_factor(self.scaling_factor)
            .shift_factor(self.shift_factor)
            .output_type(output_type)
            .image_format(image_format)
            .partial_postprocess(self.partial_postprocess)
            .height(self.height)
            .width(self.width)
            .fps(self.fps)
            .quality(self.quality)
    }
}

impl Args {
    /// What the command line, the environment and the configuration file say; ends the program with help or an error
    /// where they say so
    ///
    /// # Errors
    /// A configuration file that cannot be read or understood
    pub(crate) fn read() -> anyhow::Result<Self> {
        let arguments = Arguments::new(std::env::args_os())?;
        let matches = Self::command().try_get_matches_from(&arguments.all).unwrap_or_else(|error| {
            let _ = error.print();
            if let (true, Some(file)) = (error.use_stderr(), arguments.file()) {
                anstream::eprintln!("\nSettings of {} are among these arguments.", file.display());
            }
            std::process::exit(error.exit_code())
        });
        if let Some(("config", matches)) = matches.subcommand() {
            config::print(matches, &arguments);
        }
        Ok(Self::from_matches(&matches).unwrap_or_else(|error| error.exit()))
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::from_arg_matches(matches).map_err(|error| error.format(&mut Self::command()))?;
        let place = match &mut args.command {
            Command::Decode(args) => &mut args.place,
            Command::Encode(args) => &mut args.place,
            Command::Roundtrip(args) => &mut args.place,
            Command::Serve(_)
            | Command::Config(_)
            | Command::Quickstart(_)
            | Command::Bench(_)
            | Command::Models(_) => {
                return Ok(args);
            }
        };
        if let Some((_, matches)) = matches.subcommand() {
            place.settle(matches)?;
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_server_is_not_told_how_this_machine_computes() {
        let parse = |flags: &[&str]| {
            let arguments = [&["remote-vae", "decode", "a.npy", "-o", "b.png"], flags].concat();
            Args::from_matches(&Args::command().get_matches_from(arguments))
                .map_err(|error| error.to_string())
        };
        assert!(parse(&["--model=demo", "--threads=2"]).is_ok());
        for flag in ["--threads=2", "--isa=scalar", "--numerics=fast", "--storage=f32"] {
            let error = parse(&["--endpoint=http://localhost", flag]).unwrap_err();
            assert!(error.contains("drop one of them"), "{flag}: {error}");
        }
    }

    #[test]
    fn every_flag_is_also_a_variable() {
        let root = Args::command();
        let mut flags = 0;
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            let own = |id: &str| !matches!(id, "help" | "version");
            for arg in command.get_arguments().filter(|arg| own(arg.get_id().as_str())) {
                let Some(long) = arg.get_long() else { continue };
                let expected = format!("REMOTE_VAE_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(expected.as_str()));
                flags += 1;
            }
        }
        assert!(flags > 15, "only {flags} flags were seen");
    }
}
