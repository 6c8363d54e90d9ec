//! Large buffers, cut from one range of addresses and handed out again.
//!
//! A decode touches gigabytes in all but needs few at a time, and fresh pages cost about as much as computing on
//! them: they have to be cleared, and a virtual machine has to find them first. So the arena reserves one long range
//! of addresses, cuts buffers from it, and remembers which parts have pages. A new buffer goes where it needs the
//! fewest fresh ones. Pages of holes that no buffer fits into go back to the system as far as needed to stay near the
//! most that was ever in use at once, so that holes hardly add to the peak.
//!
//! In debug builds a buffer is handed out full of NaNs, so that a kernel that reads what nobody wrote gives NaNs, and what
//! lies between its end and the next buffer is looked at when it is dropped: a kernel that writes past the end panics.

mod books;
mod region;
mod slab;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use books::Books;
pub(crate) use region::Region;

/// Buffers are multiples of this, the size of a huge page. Miri's memory is small.
const GRAIN: usize = if cfg!(miri) { 4 << 10 } else { 2 << 20 };
/// Addresses to reserve; fewer where the system refuses.
const RESERVE: usize = if cfg!(miri) { 32 << 20 } else { 1 << 40 };
/// Above this many fresh bytes the system is asked whether it can ever have them.
const ASK: usize = 64 << 20;

/// Keeps dropped buffers for reuse. Cloning shares it.
#[derive(Clone, Default)]
pub struct Arena(Arc<Mutex<Books>>);

/// What fills new buffers in debug builds: a NaN in f32 and in f16.
const POISON: u8 = 0xff;

/// Page-aligned memory of unspecified but initialised content. Returns to its arena when dropped.
pub struct Buffer {
    address: *mut u8,
    /// Bytes that were asked for.
    asked: usize,
    /// Where it lies in the slab.
    at: Range<usize>,
    arena: Arena,
}

// SAFETY: the address is of memory that this buffer alone was given until it is dropped, of a slab that its arena keeps;
// reads and writes go through a `Region`, and say at each place which of its bytes are theirs.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// No memory could be had for a buffer of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory(pub usize);

impl Arena {
    /// An arena that keeps its books like any other, for kernels that touch none of its buffers
    /// ([`Context::rehearsal`](crate::Context::rehearsal)): what they would take is known without taking it.
    pub(crate) fn rehearsal() -> Self {
        Self(Arc::new(Mutex::new(Books { rehearsal: true, ..Books::default() })))
    }

    /// Whether this is one of [`Arena::rehearsal`].
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.lock().rehearsal
    }

    /// A buffer of at least `bytes` bytes.
    ///
    /// # Errors
    /// When the system has not that much memory or address space.
    pub fn take(&self, bytes: usize) -> Result<Buffer, OutOfMemory> {
        let (refused, asked) = (OutOfMemory(bytes), bytes);
        let bytes = bytes.max(1).checked_next_multiple_of(GRAIN).ok_or(refused)?;
        let mut books = self.lock();
        books.reserve().ok_or(refused)?;
        let at = books.place(bytes).ok_or(refused)?;
        if !books.rehearsal && books.fresh(&at) >= ASK && !slab::could_have(bytes) {
            return Err(refused);
        }
        books.hand_out(at.clone());
        books.give_back_holes();
        let address = books.address(at.start).ok_or(refused)?;
        let rehearsal = books.rehearsal;
        drop(books);
        if cfg!(debug_assertions) && !rehearsal {
            // SAFETY: `bytes` bytes from `address` on are the range of the slab that was just handed out to this buffer.
            unsafe { address.write_bytes(POISON, bytes) };
        }
        Ok(Buffer { address, asked, at, arena: self.clone() })
    }

    /// Gives the pages of all free memory back to the system, also those of the allocator's heap.
    pub fn release(&self) {
        let mut books = self.lock();
        books.most = books.live;
        books.give_back(usize::MAX);
        let rehearsal = books.rehearsal;
        drop(books);
        if !rehearsal {
            crate::trim_heap();
        }
    }

    /// Bytes that have pages, in use or kept for reuse.
    pub fn resident(&self) -> usize {
        self.lock().resident
    }

    /// The most bytes that were ever in use at once, since the last [`Arena::release`].
    pub fn most_in_use(&self) -> usize {
        self.lock().most
    }

    /// The most bytes that were in use at once since the last [`Arena::begin_peak`].
    pub fn peak(&self) -> usize {
        self.lock().peak
    }

    /// Lets [`Arena::peak`] begin anew.
    pub fn begin_peak(&self) {
        let mut books = self.lock();
        books.peak = books.live;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Whether nobody may touch it.
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.arena.is_rehearsal()
    }

    /// The address of the first byte.
    pub(crate) fn ptr(&self) -> *mut u8 {
        self.address
    }

    /// Keeps the first `bytes` bytes and gives the rest back to the arena.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let end = self.at.start + bytes.max(1).next_multiple_of(GRAIN);
        if end < self.at.end {
            self.arena.lock().put_back(end..self.at.end);
            self.at.end = end;
            // What lies behind it now was written as long as the buffer was longer.
            self.asked = self.at.len();
        }
    }

    /// Whether nothing was written between the bytes that were asked for and the next buffer.
    fn is_intact_behind(&self) -> bool {
        let behind = self.at.len().saturating_sub(self.asked);
        // SAFETY: inside the buffer, whose bytes are all initialised: `take` filled them, in debug builds.
        let behind =
            unsafe { std::slice::from_raw_parts(self.address.add(self.asked.min(self.at.len())), behind) };
        behind.iter().all(|&byte| byte == POISON)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Not while another panic is on its way, which would hide that one.
        if cfg!(debug_assertions) && !std::thread::panicking() && !self.is_rehearsal() {
            assert!(self.is_intact_behind(), "a kernel wrote past the end of its {} bytes", self.asked);
        }
        self.arena.lock().put_back(self.at.clone());
    }
}

#[cfg(test)]
mod tests;
