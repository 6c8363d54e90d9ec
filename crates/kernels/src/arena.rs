//! Large buffers, kept and handed out again.
//!
//! A decode touches gigabytes in all but needs few at a time, and fresh pages cost about as much as computing on
//! them. So buffers go back to an arena when they are dropped, and are handed out again to whoever asks for a similar
//! size. Where none fits a new one is made, and kept ones are given to the system as far as needed to stay below the
//! most that was ever live at once: what is kept never adds to the peak.

use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Advice, MmapMut, MmapOptions};

/// Keeps dropped buffers for reuse. Cloning shares it.
#[derive(Clone, Default)]
pub struct Arena(Arc<Mutex<Books>>);

/// What an arena has.
#[derive(Default)]
struct Books {
    /// Kept buffers.
    free: Vec<MmapMut>,
    /// Bytes kept, bytes handed out, and the most that was ever handed out.
    kept: usize,
    live: usize,
    most: usize,
}

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
        let mut books = self.lock();
        let free = &books.free;
        let fit = (0..free.len())
            .filter(|&i| free[i].len() >= bytes && free[i].len() / 4 <= bytes)
            .min_by_key(|&i| free[i].len());
        if let Some(i) = fit {
            let map = books.free.swap_remove(i);
            books.kept -= map.len();
            books.hand_out(map.len());
            return Ok(Buffer::of(map, self.clone()));
        }
        books.hand_out(bytes);
        while books.live + books.kept > books.most
            && let Some(i) = (0..books.free.len()).max_by_key(|&i| books.free[i].len())
        {
            let map = books.free.swap_remove(i);
            books.kept -= map.len();
        }
        drop(books);
        let map = MmapOptions::new().len(bytes).map_anon().map_err(|_| {
            self.lock().live -= bytes;
            OutOfMemory(bytes)
        })?;
        // Fewer faults and fewer misses of the address cache; where there are no huge pages nothing is lost.
        let _ = map.advise(Advice::HugePage);
        Ok(Buffer::of(map, self.clone()))
    }

    /// Gives all kept buffers back to the system.
    pub fn release(&self) {
        let mut books = self.lock();
        books.free.clear();
        books.kept = 0;
        books.most = books.live;
    }

    /// Bytes kept and not in use.
    pub fn kept(&self) -> usize {
        self.lock().kept
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn hand_out(&mut self, bytes: usize) {
        self.live += bytes;
        self.most = self.most.max(self.live);
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
            let mut books = self.arena.lock();
            books.live -= map.len();
            books.kept += map.len();
            books.free.push(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_kept_is_reused_and_never_adds_to_the_peak() {
        let arena = Arena::default();
        let (a, b) = (arena.take(8 * MIB).expect("memory"), arena.take(2 * MIB).expect("memory"));
        let address = a.ptr();
        drop(a);
        assert_eq!(arena.kept(), 8 * MIB);
        // A smaller request takes the kept buffer whole; a tiny one would waste it.
        let again = arena.take(5 * MIB).expect("memory");
        assert_eq!(again.ptr(), address);
        drop((again, b));
        assert_eq!(arena.kept(), 10 * MIB);
        let tiny = arena.take(4096).expect("memory");
        assert_eq!(arena.kept(), 2 * MIB, "10 MiB were the most ever live: the largest makes room");
        drop(tiny);
        // Nothing kept fits, and there would be more than ever was live: the kept ones go.
        let large = arena.take(20 * MIB).expect("memory");
        assert_eq!(arena.kept(), 0);
        drop(large);
        arena.release();
        assert_eq!(arena.kept(), 0);
    }
}
