//! What `decode` and `encode` have in common: the options that both directions of the protocol know, and how tensors
//! are written.

use clap::builder::BoolishValueParser;
use clap::{ArgAction, ValueEnum};
use client::DType;

use super::heading;

/// How latents are scaled.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = heading::LATENTS)]
pub(crate) struct ScalingArgs {
    /// Decoding divides the latents by this, encoding multiplies them with it (SD v1: 0.18215, SDXL: 0.13025, Flux:
    /// 0.3611) [default: the model's own]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) scaling_factor: Option<f32>,
    /// Decoding adds this afterwards, encoding subtracts it before (Flux: 0.1159); goes with --scaling-factor
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) shift_factor: Option<f32>,
    /// Latents as the decoder takes them and the encoder gives them, not scaled
    #[arg(long)]
    pub(crate) no_scaling: bool,
}

impl ScalingArgs {
    /// Checks that the flags do not contradict each other.
    ///
    /// # Errors
    /// [`Misuse`](crate::misuse::Misuse).
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let other = match (self.scaling_factor, self.shift_factor) {
            (Some(_), _) => "--scaling-factor",
            (None, Some(_)) => "--shift-factor",
            (None, None) => return Ok(()),
        };
        if self.no_scaling {
            misuse!("--no-scaling and {other} contradict each other: drop one of them")
        }
        Ok(())
    }
}

/// What is done with values that are no numbers.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = heading::LATENTS)]
pub(crate) struct ValueArgs {
    /// Take NaN and infinity, which are otherwise an error; a server must allow them by the same flag
    #[arg(long)]
    pub(crate) allow_non_finite: bool,
}

/// In how many pieces the work is done.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = heading::MEMORY)]
pub(crate) struct PieceArgs {
    /// In overlapping tiles, as diffusers does after enable_tiling(): less memory, faint seams
    #[arg(long)]
    pub(crate) tiling: bool,
    /// A video a few frames at a time, as diffusers does by default; false is one exact pass, in more memory
    #[arg(
        long,
        value_name = "BOOL",
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new(),
        default_value = "true"
    )]
    pub(crate) framewise: bool,
}

/// How tensors are written.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = heading::OUTPUT)]
pub(crate) struct TensorFileArgs {
    /// Format of tensors, where -o names a folder [default: safetensors]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) tensor_format: Option<TensorFormatArg>,
    /// Do not write into PNG and .safetensors files which model and factors they were made with
    #[arg(long)]
    pub(crate) no_metadata: bool,
}

/// `--out-dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DTypeArg {
    Float16,
    Bfloat16,
    Float32,
}

impl From<DTypeArg> for DType {
    fn from(arg: DTypeArg) -> Self {
        match arg {
            DTypeArg::Float16 => Self::Float16,
            DTypeArg::Bfloat16 => Self::BFloat16,
            DTypeArg::Float32 => Self::Float32,
        }
    }
}

/// `--tensor-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TensorFormatArg {
    #[default]
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
