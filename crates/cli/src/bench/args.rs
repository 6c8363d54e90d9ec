//! What `bench` can be told.

use clap::ValueHint;

use crate::args::engine::EngineArgs;
use crate::args::number::whole;
use crate::source::ModelArgs;

/// Measure how fast this machine decodes, and in how much memory
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The result is checked first. A time is the median of several runs, after one to warm up; \
    memory is the peak of the whole process. Tiles are those of diffusers' enable_tiling().\n\nExample:\n  \
    remote-vae bench --model ./sdxl-vae-fp16-fix --sizes 512,1024"
)]
pub(crate) struct BenchArgs {
    /// The model: a SOURCE as in `remote-vae serve --help`
    #[arg(long, value_name = "SOURCE", default_value = "demo", value_hint = ValueHint::AnyPath)]
    pub(crate) model: ModelArgs,
    /// Sizes of the pictures in pixels: a side, or HEIGHTxWIDTH [default: 512,1024; for videos 320x512]
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        value_parser = size
    )]
    pub(crate) sizes: Vec<[usize; 2]>,
    /// Frames of each video [default: 9]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=u64::MAX))]
    pub(crate) frames: Option<usize>,
    /// Runs of each size that are timed
    #[arg(long, value_name = "N", default_value = "3", value_parser = whole::<usize>(1..=1000))]
    pub(crate) runs: usize,
    /// Also say of each layer what it does, why so, and how fast
    #[arg(long)]
    pub(crate) explain: bool,
    /// Print JSON instead of a table
    #[arg(long)]
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
