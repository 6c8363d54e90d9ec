//! A buffer's memory, while kernels work with it.

use std::marker::PhantomData;

use super::Buffer;

/// Some of a buffer's bytes, which several workers use at once: each writes a part of its own, or all read what was
/// written before. It cannot outlive the buffer.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    begin: *mut u8,
    bytes: usize,
    buffer: PhantomData<&'a Buffer>,
}

// SAFETY: a region is an address and a length; whoever reads or writes there says at that place which bytes are its own.
unsafe impl Send for Region<'_> {}
// SAFETY: as above.
unsafe impl Sync for Region<'_> {}

impl Buffer {
    /// All bytes that were asked for.
    pub(crate) fn region(&self) -> Region<'_> {
        Region { begin: self.ptr(), bytes: self.asked, buffer: PhantomData }
    }
}

impl<'a> Region<'a> {
    /// `bytes` bytes from `begin` on.
    ///
    /// # Panics
    /// When they do not lie inside.
    #[inline]
    pub(crate) fn part(self, begin: usize, bytes: usize) -> Self {
        let inside = begin.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "{bytes} bytes from {begin} on are not inside a region of {}", self.bytes);
        Self { begin: self.begin.wrapping_add(begin), bytes, ..self }
    }

    /// All bytes from `begin` on.
    ///
    /// # Panics
    /// When there are none.
    #[inline]
    pub(crate) fn from(self, begin: usize) -> Self {
        assert!(begin < self.bytes, "byte {begin} is not inside a region of {}", self.bytes);
        Self { begin: self.begin.wrapping_add(begin), bytes: self.bytes - begin, ..self }
    }

    /// Part `index` of equal parts of `bytes` bytes.
    ///
    /// # Panics
    /// When it does not lie inside.
    #[inline]
    pub(crate) fn nth(self, index: usize, bytes: usize) -> Self {
        self.part(index.saturating_mul(bytes), bytes)
    }

    /// The address of the first byte.
    #[inline(always)]
    pub(crate) fn ptr(self) -> *mut u8 {
        self.begin
    }

    /// The address of the first value, for memory that holds f32.
    #[inline(always)]
    pub(crate) fn values(self) -> *mut f32 {
        self.begin.cast()
    }

    /// Its bytes.
    ///
    /// # Safety
    /// Until the slice is dropped nobody else reads or writes any of these bytes.
    pub(crate) unsafe fn bytes_mut(self) -> &'a mut [u8] {
        // SAFETY: the buffer outlives 'a, has these bytes (see `part`), and they are initialised (see `Arena::take`);
        // that nobody else uses them is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.begin, self.bytes) }
    }

    /// Its values, as many as there are whole ones.
    ///
    /// # Safety
    /// As for [`Region::bytes_mut`]; and the region begins at a multiple of four bytes of its buffer.
    pub(crate) unsafe fn values_mut(self) -> &'a mut [f32] {
        assert!(self.begin.cast::<f32>().is_aligned(), "a region of f32 that begins in the middle of one");
        // SAFETY: as in `bytes_mut`; the address is aligned, and any bits are an f32.
        unsafe { std::slice::from_raw_parts_mut(self.values(), self.bytes / 4) }
    }
}
