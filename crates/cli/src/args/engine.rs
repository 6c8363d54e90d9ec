//! The flags that say how models are run on this machine, shared by every command that runs them.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use vae::device::cpu::{Cpu, CpuOptions, Isa, Numerics, Storage};
use vae::{DeviceError, LoadMode};

use super::heading;
use super::number::whole;

/// How the processor is used.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = heading::ENGINE)]
pub(crate) struct EngineArgs {
    /// Threads that compute [default: as many as the process may use]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MAX_THREADS))]
    pub(crate) threads: Option<usize>,
    /// Instruction set, for tests and comparisons [default: the best that this machine has]
    #[arg(long, value_name = "ISA")]
    pub(crate) isa: Option<IsaArg>,
    /// Convolutions by fewer multiplications, on AMX of pairs of bf16 (fast), or term by term in float32 (strict)
    #[arg(long, value_name = "HOW", default_value = "fast")]
    pub(crate) numerics: NumericsArg,
    /// How values lie in memory between layers: f16 takes half of the memory and rounds them
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub(crate) storage: StorageArg,
    /// Where weights are kept: in their files, which are mapped (map; one that is cut short ends the program), or in memory
    /// (copy) [default: map what nobody changes, files that cannot be written to and those of the hub's cache; copy the rest]
    #[arg(long, value_name = "HOW")]
    pub(crate) load: Option<LoadArg>,
}

/// Names of the flags of [`EngineArgs`].
pub(crate) const FLAGS: [&str; 5] = ["threads", "isa", "numerics", "storage", "load"];

/// More threads than any machine has cores are a slip of the keyboard, and each one takes memory.
const MAX_THREADS: u64 = 1024;

/// `--isa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsaArg {
    Scalar,
    Avx2,
    Avx512,
    Amx,
    Neon,
}

/// `--numerics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NumericsArg {
    Fast,
    Strict,
}

/// `--storage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StorageArg {
    F32,
    F16,
}

/// `--load`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadArg {
    Copy,
    Map,
}

impl EngineArgs {
    /// Where weights are kept, if that was said.
    pub(crate) fn load_mode(self) -> Option<LoadMode> {
        self.load.map(|load| match load {
            LoadArg::Copy => LoadMode::Copy,
            LoadArg::Map => LoadMode::Map,
        })
    }

    /// The engine that runs all models of this process: its clones share threads and memory.
    pub(crate) fn engine(self) -> Result<Cpu, DeviceError> {
        Cpu::new(self.options())
    }

    /// Engines that share the threads of [`EngineArgs::engine`], each with at least one.
    pub(crate) fn engines(self, count: NonZeroUsize) -> Result<Vec<Cpu>, DeviceError> {
        if count == NonZeroUsize::MIN {
            return Ok(vec![self.engine()?]);
        }
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        shares(self.threads.unwrap_or_else(available), count)
            .map(|threads| Cpu::new(CpuOptions { threads: Some(threads), ..self.options() }))
            .collect()
    }

    /// What the flags say, for the engine.
    pub(crate) fn options(self) -> CpuOptions {
        CpuOptions {
            threads: self.threads,
            isa: self.isa.map(|isa| match isa {
                IsaArg::Scalar => Isa::Scalar,
                IsaArg::Avx2 => Isa::Avx2,
                IsaArg::Avx512 => Isa::Avx512,
                IsaArg::Amx => Isa::Amx,
                IsaArg::Neon => Isa::Neon,
            }),
            numerics: match self.numerics {
                NumericsArg::Fast => Numerics::Fast,
                NumericsArg::Strict => Numerics::Strict,
            },
            storage: match self.storage {
                StorageArg::F32 => Storage::F32,
                StorageArg::F16 => Storage::F16,
            },
        }
    }
}

/// The threads of each of `count` engines, of `all`: the first ones get what is left over, and each gets one at least.
fn shares(all: usize, count: NonZeroUsize) -> impl Iterator<Item = usize> {
    (0..count.get()).map(move |index| (all / count + usize::from(index < all % count)).max(1))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    fn parse(flags: &[&str]) -> Result<CpuOptions, String> {
        let command = EngineArgs::augment_args(clap::Command::new("test"));
        let matches = command.try_get_matches_from([&["test"], flags].concat()).map_err(|e| e.to_string())?;
        Ok(EngineArgs::from_arg_matches(&matches).unwrap().options())
    }

    #[test]
    fn engines_share_the_threads() {
        for (all, count, expected) in [(8, 2, vec![4, 4]), (7, 3, vec![3, 2, 2]), (1, 2, vec![1, 1])] {
            assert_eq!(shares(all, NonZeroUsize::new(count).unwrap()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn flags_become_options() {
        let CpuOptions { threads, isa, storage, numerics } = parse(&[]).unwrap();
        assert_eq!((threads, isa, storage, numerics), (None, None, Storage::F32, Numerics::Fast));
        let flags = ["--threads=3", "--isa=scalar", "--numerics=strict", "--storage=f16"];
        let CpuOptions { threads, isa, storage, numerics } = parse(&flags).unwrap();
        assert_eq!(
            (threads, isa, storage, numerics),
            (Some(3), Some(Isa::Scalar), Storage::F16, Numerics::Strict)
        );
        for (name, isa) in
            [("avx2", Isa::Avx2), ("avx512", Isa::Avx512), ("amx", Isa::Amx), ("neon", Isa::Neon)]
        {
            assert_eq!(parse(&["--isa", name]).unwrap().isa, Some(isa));
        }
    }

    #[test]
    fn weights_are_kept_as_the_flag_says() {
        let mode = |flags: &[&str]| {
            let command = EngineArgs::augment_args(clap::Command::new("test"));
            let matches = command.try_get_matches_from([&["test"], flags].concat()).unwrap();
            EngineArgs::from_arg_matches(&matches).unwrap().load_mode()
        };
        assert_eq!(mode(&[]), None);
        assert_eq!(mode(&["--load=map"]), Some(LoadMode::Map));
        assert_eq!(mode(&["--load", "copy"]), Some(LoadMode::Copy));
    }

    #[test]
    fn the_list_of_flags_is_complete() {
        let command = EngineArgs::augment_args(clap::Command::new("test"));
        let flags: Vec<_> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        assert_eq!(flags, FLAGS);
    }

    #[test]
    fn threads_are_counted_from_one() {
        for text in ["0", "-1", "many", "1025"] {
            let error = parse(&[&format!("--threads={text}")]).unwrap_err();
            assert!(error.contains("from 1 to 1024"), "{error}");
        }
    }
}
