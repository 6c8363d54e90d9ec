//! Large buffers, kept and handed out again.
//!
//! A decode touches gigabytes in all but needs few at a time, and fresh pages cost about as much as computing on
//! them. So buffers go back to an arena when they are dropped, and are handed out again to whoever asks for a similar
//! size; where none fits, kept ones are given to the system first, so that the peak stays near what is really live.

use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Advice, MmapMut, MmapOptions};

/// Keeps dropped buffers for reuse. Cloning shares it.
#[derive(Clone, Default)]
pub struct Arena(Arc<Mutex<Vec<MmapMut>>>);

/// Anonymous memory, page-aligned, of unspecified but initialised content. Returns to its arena when dropped.
pub struct Buffer {
    map: Option<MmapMut>,
    address: *mut u8,
    arena: Arena,
}

// SAFETY: the address is of memory that the buffer owns or, for an alias, that its maker keeps alive; access through
// it is the kernels' business, which say at each place why it is theirs.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// No memory could be had for a buffer of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory(pub usize);

impl Arena {
    /// A buffer of at least `bytes` bytes.
    ///
    /// # Errors
    /// When the system has not that much address space.
    pub fn take(&self, bytes: usize) -> Result<Buffer, OutOfMemory> {
        let bytes = bytes.max(4096);
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = (0..free.len())
            .filter(|&i| free[i].len() >= bytes && free[i].len() / 4 <= bytes)
            .min_by_key(|&i| free[i].len());
        if let Some(i) = fit {
            return Ok(Buffer::of(free.swap_remove(i), self.clone()));
        }
        let mut dropped = 0;
        while dropped < bytes
            && let Some(i) = (0..free.len()).max_by_key(|&i| free[i].len())
        {
            dropped += free.swap_remove(i).len();
        }
        drop(free);
        let map = MmapOptions::new().len(bytes).map_anon().map_err(|_| OutOfMemory(bytes))?;
        // Fewer faults and fewer misses of the address cache; where there are no huge pages nothing is lost.
        let _ = map.advise(Advice::HugePage);
        Ok(Buffer::of(map, self.clone()))
    }

    /// Gives all kept buffers back to the system.
    pub fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Bytes kept and not in use.
    pub fn kept(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|map| map.len()).sum()
    }
}

impl Buffer {
    fn of(map: MmapMut, arena: Arena) -> Self {
        Self { address: map.as_ptr().cast_mut(), map: Some(map), arena }
    }

    /// A second name for the same memory, which must not outlive `original`.
    pub(crate) fn alias(original: &Buffer) -> Self {
        Self { map: None, address: original.address, arena: original.arena.clone() }
    }

    /// The address of the first byte.
    pub(crate) fn ptr(&self) -> *mut u8 {
        self.address
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.arena.0.lock().unwrap_or_else(PoisonError::into_inner).push(map);
        }
    }
}
