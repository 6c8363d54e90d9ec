//! What every kernel runs with.

use crate::arena::Arena;
use crate::features::Storage;
use crate::pool::Pool;
use crate::simd::Isa;

/// How exact convolutions have to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Winograd's filtering wherever its error bound holds.
    #[default]
    Fast,
    /// Direct convolution everywhere.
    Strict,
}

/// Instruction set, threads, memory and choices.
pub struct Context {
    /// Which kernels run.
    pub isa: Isa,
    /// Who runs them.
    pub pool: Pool,
    /// Where feature maps and scratch come from.
    pub arena: Arena,
    /// How feature maps lie in memory.
    pub storage: Storage,
    /// How exact convolutions have to be.
    pub numerics: Numerics,
}

impl Context {
    /// The best instruction set, f32 storage, fast numerics.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Ok(Self {
            isa: Isa::best(),
            pool: Pool::new(threads)?,
            arena: Arena::default(),
            storage: Storage::default(),
            numerics: Numerics::default(),
        })
    }
}
