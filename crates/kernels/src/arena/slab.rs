//! The range of addresses that an arena cuts its buffers from.

#[cfg(miri)]
pub(super) use interpreted::{Slab, could_have};
#[cfg(not(miri))]
pub(super) use mapped::{Slab, could_have};

/// Addresses that the system has promised, without pages.
#[cfg(not(miri))]
mod mapped {
    #[cfg(target_os = "linux")]
    use memmap2::Advice;
    use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};

    /// Never seen as a slice: workers write to parts of it while others are cut from it.
    pub(in super::super) struct Slab(MmapRaw);

    impl Slab {
        /// `bytes` bytes, if the system has so many addresses.
        pub(in super::super) fn new(bytes: usize) -> Option<Self> {
            // No page is promised, so that any size will do where the system does not count promises.
            let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon().ok()?;
            // Fewer faults and fewer misses of the address cache; where there are no huge pages nothing is lost.
            #[cfg(target_os = "linux")]
            let _ = map.advise(Advice::HugePage);
            Some(Self(map.into()))
        }

        /// The address of the first byte.
        pub(in super::super) fn ptr(&self) -> *mut u8 {
            self.0.as_mut_ptr()
        }

        /// Gives pages back: the range holds zeros when it is next touched.
        ///
        /// # Safety
        /// The range belongs to no buffer.
        pub(in super::super) unsafe fn release(&self, begin: usize, bytes: usize) {
            // SAFETY: by the caller's promise nobody looks at what these pages hold. The range is checked by the callee.
            // A failure only costs memory, so it is not reported.
            let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, begin, bytes) };
        }
    }

    /// Whether the system can have so many bytes at all.
    pub(in super::super) fn could_have(bytes: usize) -> bool {
        MmapOptions::new().len(bytes).map_anon().is_ok()
    }
}

/// Miri has no memory to map: a small block of the allocator's instead.
#[cfg(miri)]
mod interpreted {
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    use super::super::GRAIN;

    pub(in super::super) struct Slab(*mut u8, Layout);

    // SAFETY: it owns the block, and hands out addresses only.
    unsafe impl Send for Slab {}

    impl Slab {
        pub(in super::super) fn new(bytes: usize) -> Option<Self> {
            let layout = Layout::from_size_align(bytes, GRAIN).ok()?;
            // SAFETY: the layout is not empty, as `bytes` is at least a grain.
            let block = unsafe { alloc_zeroed(layout) };
            (!block.is_null()).then_some(Self(block, layout))
        }

        pub(in super::super) fn ptr(&self) -> *mut u8 {
            self.0
        }

        pub(in super::super) unsafe fn release(&self, begin: usize, bytes: usize) {
            assert!(begin + bytes <= self.1.size());
            // SAFETY: inside the block, and nobody's by the caller's promise.
            unsafe { self.0.add(begin).write_bytes(0, bytes) };
        }
    }

    impl Drop for Slab {
        fn drop(&mut self) {
            // SAFETY: it was allocated with this layout, and each buffer keeps its arena, so none is left.
            unsafe { dealloc(self.0, self.1) };
        }
    }

    pub(in super::super) fn could_have(bytes: usize) -> bool {
        bytes <= super::super::RESERVE
    }
}
