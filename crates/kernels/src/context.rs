//! What every kernel runs with.

use crate::arena::{Arena, Buffer, OutOfMemory};
use crate::features::Storage;
use crate::pool::Pool;
use crate::simd::Isa;

/// How exact convolutions have to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Winograd's filtering, and products of bf16 parts on processors with AMX, wherever their error bounds hold.
    #[default]
    Fast,
    /// Direct convolution in f32 everywhere.
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

    /// Touches memory for work of so many bytes and keeps it, so that the work need not wait for fresh pages: clearing
    /// them takes about a tenth of a decode. Without so much memory nothing happens.
    pub fn reserve(&self, bytes: usize) {
        const PAGE: usize = 4096;
        const PART: usize = 8 << 20;
        let Ok(buffer) = self.arena.take(bytes) else { return };
        let pages = buffer.region();
        self.pool.run(bytes.div_ceil(PART), |_, part| {
            for at in (part * PART..bytes.min((part + 1) * PART)).step_by(PAGE) {
                // SAFETY: one byte of the buffer, which only this task touches.
                unsafe { pages.part(at, 1).ptr().write_volatile(0) };
            }
        });
    }

    /// Memory of `bytes` bytes for each worker.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Vec<Buffer>, OutOfMemory> {
        (0..self.pool.threads()).map(|_| self.arena.take(bytes)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_memory_is_there_and_free() {
        let context = Context::new(2).expect("threads");
        let bytes = (20 << 20) + 1;
        context.reserve(bytes);
        assert!(context.arena.resident() >= bytes);
        let resident = context.arena.resident();
        let buffer = context.arena.take(bytes).expect("memory");
        assert_eq!(context.arena.resident(), resident, "no fresh page is needed");
        drop(buffer);
        context.arena.release();
        assert_eq!(context.arena.resident(), 0);
        context.reserve(usize::MAX / 2);
        assert_eq!(context.arena.resident(), 0, "what cannot be had is left out");
    }
}
