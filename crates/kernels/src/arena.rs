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

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};

/// Buffers are multiples of this, the size of a huge page.
const GRAIN: usize = 2 << 20;
/// Addresses to reserve; fewer where the system refuses.
const RESERVE: usize = 1 << 40;
/// Above this many fresh bytes the system is asked whether it can ever have them.
const ASK: usize = 64 << 20;

/// Keeps dropped buffers for reuse. Cloning shares it.
#[derive(Clone, Default)]
pub struct Arena(Arc<Mutex<Books>>);

/// What an arena has.
#[derive(Default)]
struct Books {
    /// The reserved addresses; none before the first buffer.
    slab: Option<MmapMut>,
    /// What of them is free, in order, neighbours merged if they are alike.
    free: Vec<Hole>,
    /// Bytes handed out, the most that ever were, and bytes that have pages.
    live: usize,
    most: usize,
    resident: usize,
    /// The most bytes that were handed out at once, since the last [`Arena::begin_peak`].
    peak: usize,
    /// Nobody touches what is handed out: see [`Arena::rehearsal`].
    rehearsal: bool,
}

/// A free part of the slab.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hole {
    at: Range<usize>,
    /// Whether it has pages.
    resident: bool,
}

/// What fills new buffers in debug builds: a NaN in f32 and in f16.
const POISON: u8 = 0xff;

/// Page-aligned memory of unspecified but initialised content. Returns to its arena when dropped.
pub struct Buffer {
    address: *mut u8,
    /// Bytes that were asked for; none for an alias.
    asked: usize,
    /// Where it lies in the slab; empty for an alias.
    at: Range<usize>,
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
        if !books.rehearsal && books.fresh(&at) >= ASK && MmapOptions::new().len(bytes).map_anon().is_err() {
            return Err(refused);
        }
        books.hand_out(at.clone());
        books.give_back_holes();
        let address = books.address(at.start).ok_or(refused)?;
        let rehearsal = books.rehearsal;
        drop(books);
        if cfg!(debug_assertions) && !rehearsal {
            // SAFETY: the range was just handed out, to this buffer alone.
            unsafe { address.write_bytes(POISON, bytes) };
        }
        Ok(Buffer { address, asked, at, arena: self.clone() })
    }

    /// Gives the pages of all free memory back to the system.
    pub fn release(&self) {
        let mut books = self.lock();
        books.most = books.live;
        books.give_back(usize::MAX);
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

impl Books {
    /// Reserves the addresses, if that was not done before.
    fn reserve(&mut self) -> Option<()> {
        if self.slab.is_none() {
            let mut size = RESERVE;
            let slab = loop {
                // No page is promised, so that any size will do where the system does not count promises.
                match MmapOptions::new().len(size).no_reserve_swap().map_anon() {
                    Ok(slab) => break slab,
                    Err(_) => size = (size / 2 >= GRAIN).then_some(size / 2)?,
                }
            };
            // Fewer faults and fewer misses of the address cache; where there are no huge pages nothing is lost.
            #[cfg(target_os = "linux")]
            let _ = slab.advise(Advice::HugePage);
            // Whole grains, so that a huge page never belongs to two buffers.
            let begin = slab.as_ptr().addr().next_multiple_of(GRAIN) - slab.as_ptr().addr();
            let end = begin + (size - begin) / GRAIN * GRAIN;
            self.free = vec![Hole { at: begin..end, resident: false }];
            self.slab = Some(slab);
        }
        Some(())
    }

    fn address(&mut self, offset: usize) -> Option<*mut u8> {
        Some(self.slab.as_mut()?.as_mut_ptr().wrapping_add(offset))
    }

    /// Where `bytes` should go: at the beginning or the end of some free run, with the fewest fresh pages; among equals
    /// in the shortest run.
    fn place(&self, bytes: usize) -> Option<Range<usize>> {
        let mut best: Option<((usize, usize), Range<usize>)> = None;
        let mut first = 0;
        while first < self.free.len() {
            let mut last = first;
            while last + 1 < self.free.len() && self.free[last + 1].at.start == self.free[last].at.end {
                last += 1;
            }
            let run = self.free[first].at.start..self.free[last].at.end;
            first = last + 1;
            if run.len() < bytes {
                continue;
            }
            for at in [run.start..run.start + bytes, run.end - bytes..run.end] {
                let cost = (self.fresh(&at), run.len());
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, at));
                }
            }
        }
        best.map(|(_, at)| at)
    }

    /// Bytes of a free range that have no pages.
    fn fresh(&self, at: &Range<usize>) -> usize {
        let inside = |hole: &Hole| {
            hole.at.end.min(at.end).saturating_sub(hole.at.start.max(at.start)) * usize::from(!hole.resident)
        };
        self.free.iter().map(inside).sum()
    }

    /// Takes a free range out of the books.
    fn hand_out(&mut self, at: Range<usize>) {
        self.resident += self.fresh(&at);
        self.live += at.len();
        self.most = self.most.max(self.live);
        self.peak = self.peak.max(self.live);
        let cut = |hole: Hole| {
            let before = hole.at.start..hole.at.end.min(at.start);
            let after = hole.at.start.max(at.end)..hole.at.end;
            [before, after].map(|at| Hole { at, resident: hole.resident })
        };
        self.free = self.free.drain(..).flat_map(cut).filter(|hole| !hole.at.is_empty()).collect();
    }

    /// Puts a range back.
    fn put_back(&mut self, at: Range<usize>) {
        if at.is_empty() {
            return;
        }
        self.live -= at.len();
        let index = self.free.partition_point(|hole| hole.at.start < at.start);
        self.free.insert(index, Hole { at, resident: true });
        self.merge();
    }

    /// Merges neighbours that are alike.
    fn merge(&mut self) {
        self.free.dedup_by(|next, hole| {
            let alike = hole.at.end == next.at.start && hole.resident == next.resident;
            if alike {
                hole.at.end = next.at.end;
            }
            alike
        });
    }

    /// Keeps what has pages near the most that was ever in use.
    fn give_back_holes(&mut self) {
        let allowed = self.most + self.most / 16;
        if self.resident > allowed {
            self.give_back(self.resident - allowed);
        }
    }

    /// Gives pages of free memory back, the longest holes first, until `bytes` are given or nothing is left.
    fn give_back(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(slab) = &self.slab else { break };
            let resident = (0..self.free.len()).filter(|&i| self.free[i].resident);
            let Some(index) = resident.max_by_key(|&i| self.free[i].at.len()) else { break };
            let hole = self.free[index].at.clone();
            let size = hole.len().min(bytes.div_ceil(GRAIN).saturating_mul(GRAIN));
            let given = hole.end - size..hole.end;
            // SAFETY: these pages belong to nobody: whoever gets them next expects unspecified content.
            // A failure only costs memory, so it is not reported.
            let _ = unsafe { slab.unchecked_advise_range(UncheckedAdvice::DontNeed, given.start, size) };
            self.free[index].at.end = given.start;
            self.free.insert(index + 1, Hole { at: given, resident: false });
            self.resident -= size;
            bytes = bytes.saturating_sub(size);
            self.free.retain(|hole| !hole.at.is_empty());
            self.merge();
        }
    }
}

impl Buffer {
    /// A second name for the same memory, which must not outlive `original`.
    pub(crate) fn alias(original: &Buffer) -> Self {
        Self { address: original.address, asked: 0, at: 0..0, arena: original.arena.clone() }
    }

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
mod tests {
    use super::*;

    fn take(arena: &Arena, grains: usize) -> Buffer {
        let buffer = arena.take(grains * GRAIN).expect("memory");
        // SAFETY: the buffer is that long.
        unsafe { buffer.ptr().add(grains * GRAIN - 1).write(1) };
        buffer
    }

    #[test]
    fn pages_are_used_again_before_fresh_ones() {
        let arena = Arena::default();
        let (a, b) = (take(&arena, 8), take(&arena, 2));
        let address = a.ptr();
        drop(a);
        assert_eq!(arena.resident(), 10 * GRAIN);
        let again = take(&arena, 5);
        assert_eq!(again.ptr(), address);
        let rest = take(&arena, 3);
        assert_eq!(rest.ptr(), address.wrapping_add(5 * GRAIN));
        assert_eq!(arena.resident(), 10 * GRAIN);
        drop((again, rest, b));
        let whole = take(&arena, 10);
        assert_eq!(whole.ptr(), address, "neighbours that were dropped are one hole again");
        assert_eq!((arena.resident(), arena.most_in_use()), (10 * GRAIN, 10 * GRAIN));
        drop(whole);
        arena.release();
        assert_eq!(arena.resident(), 0);
    }

    #[test]
    fn holes_that_nothing_fits_into_hardly_add_to_the_peak() {
        let arena = Arena::default();
        let (a, b) = (take(&arena, 40), take(&arena, 40));
        drop(a);
        // Does not fit into the hole, so the hole's pages make room.
        let c = take(&arena, 60);
        assert_eq!(arena.most_in_use(), 100 * GRAIN);
        assert!(arena.resident() <= 106 * GRAIN, "{} MiB", arena.resident() >> 20);
        drop((b, c));
    }

    #[test]
    fn a_shrunk_buffer_leaves_its_tail_to_others() {
        let arena = Arena::default();
        let mut a = take(&arena, 8);
        a.shrink(3 * GRAIN - 5);
        let b = take(&arena, 5);
        assert_eq!(b.ptr(), a.ptr().wrapping_add(3 * GRAIN));
        assert_eq!(arena.resident(), 8 * GRAIN);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn debug_builds_see_reads_of_nothing_and_writes_past_the_end() {
        let arena = Arena::default();
        // Whatever the memory held before.
        for _ in 0..2 {
            let buffer = take(&arena, 1);
            // SAFETY: the buffer is that long, and poisoned.
            assert!(unsafe { buffer.ptr().cast::<f32>().read() }.is_nan());
            // SAFETY: as above.
            unsafe { buffer.ptr().cast::<f32>().write(1.0) };
        }
        let mut buffer = arena.take(100).expect("memory");
        assert!(buffer.is_intact_behind());
        // SAFETY: a buffer has a whole grain; the byte is one that nobody asked for.
        unsafe { buffer.ptr().add(100).write(0) };
        assert!(!buffer.is_intact_behind());
        buffer.asked = 101;
        assert!(buffer.is_intact_behind());
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        let arena = Arena::default();
        assert_eq!(arena.take(usize::MAX / 2).err(), Some(OutOfMemory(usize::MAX / 2)));
        assert!(arena.take(1).is_ok());
    }
}
