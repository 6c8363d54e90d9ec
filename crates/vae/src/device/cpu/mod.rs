//! The device for processors: what several nodes do together is one call of a fused kernel.

mod fuse;
mod layer;
mod local;
mod plan;
mod step;
mod value;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use kernels::{Context, OutOfMemory, Pool, Stopped};
pub use kernels::{Isa, Numerics, Storage};

use super::{Device, Limits, Plan, Weights};
use crate::DeviceError;
use crate::graph::Graph;

/// How the device works; the defaults are what nearly everybody wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Worker threads; as many as the process may use by default.
    pub threads: Option<usize>,
    /// Instruction set; the best that the machine has by default.
    pub isa: Option<Isa>,
    /// How values are stored between layers.
    pub storage: Storage,
    /// How exact convolutions have to be.
    pub numerics: Numerics,
}

/// Runs models on the processor. Cloning shares its threads and memory.
#[derive(Clone)]
pub struct Cpu(Context);

impl Cpu {
    /// A device with its own threads.
    ///
    /// # Errors
    /// When the system gives no threads, or the machine has not the instruction set of the options.
    pub fn new(options: CpuOptions) -> Result<Self, DeviceError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
            return Err(DeviceError::Unsupported(format!(
                "this machine has not the instruction set {}; it has {}",
                isa.name(),
                names.join(", ")
            )));
        }
        let threads = match options.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let pool = Pool::new(threads).map_err(|error| DeviceError::Lost(error.to_string()))?;
        Ok(Self(Context {
            isa,
            pool,
            arena: kernels::Arena::default(),
            storage: options.storage,
            numerics: options.numerics,
        }))
    }
}

impl Device for Cpu {
    fn describe(&self) -> String {
        let threads = self.0.pool.threads();
        let storage = match self.0.storage {
            Storage::F32 => "",
            Storage::F16 => ", f16 storage",
        };
        let numerics = match self.0.numerics {
            Numerics::Fast => "",
            Numerics::Strict => ", strict",
        };
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu, {}, {threads} thread{plural}{storage}{numerics}", self.0.isa.name())
    }

    fn limits(&self) -> Limits {
        // A picture of 512×512.
        Limits { max_tensor_bytes: isize::MAX as usize, batch_positions: 64 * 64 }
    }

    fn prepare(&self, graph: &Arc<Graph>, weights: &Weights) -> Result<Box<dyn Plan>, DeviceError> {
        Ok(Box::new(plan::CpuPlan::new(&self.0, graph, weights)?))
    }

    fn release(&self) {
        self.0.arena.release();
    }

    fn reserve(&self, bytes: usize) {
        self.0.reserve(bytes);
    }

    fn peak_memory(&self) -> Option<usize> {
        Some(self.0.arena.peak())
    }

    fn begin_peak(&self) {
        self.0.arena.begin_peak();
    }
}

impl From<OutOfMemory> for DeviceError {
    fn from(OutOfMemory(bytes): OutOfMemory) -> Self {
        Self::OutOfMemory(bytes)
    }
}

impl From<Stopped> for DeviceError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::OutOfMemory(error) => error.into(),
            Stopped::Cancelled => Self::Cancelled,
        }
    }
}
