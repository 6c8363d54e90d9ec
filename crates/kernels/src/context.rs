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

/// Instruction set, threads, memory and choices. Cloning shares threads and memory.
#[derive(Clone)]
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

    /// The same, for a rehearsal: kernels take and return the memory that they would need and choose their algorithms, as
    /// for inputs without bright spots, but compute nothing and touch nothing of it. [`Arena::peak`] then tells what the
    /// work would take. Values are not to be looked at.
    pub fn rehearsal(&self) -> Self {
        Self { pool: Pool::absent(&self.pool), arena: Arena::rehearsal(), ..*self }
    }

    /// Whether this is one of [`Context::rehearsal`].
    pub fn is_rehearsal(&self) -> bool {
        self.arena.is_rehearsal()
    }
}
