//! Memory that outlives one kernel: mapped files and large buffers.

use std::fs::File;
use std::ops::Range;

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

/// Read-only bytes: a mapped file, or bytes that are part of the program.
pub enum Bytes {
    /// A file, mapped.
    Mapped(Mmap),
    /// Bytes in the program itself.
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps a whole file for reading.
    ///
    /// The file must not be changed while it is mapped: a file cut short underneath ends the process with SIGBUS,
    /// as in every program that maps its weights.
    ///
    /// # Errors
    /// What the system says when the file cannot be mapped.
    pub fn map(file: &File) -> std::io::Result<Self> {
        // SAFETY: the mapping is private and read-only; that nobody changes the file meanwhile is the documented
        // contract of serving a checkpoint, which no process can enforce.
        let map = unsafe { MmapOptions::new().map(file)? };
        Ok(Self::Mapped(map))
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }

    /// Lets the system take back the pages that lie wholly inside `range`. They are read from the file again when
    /// they are next touched.
    pub fn release(&self, range: Range<usize>) {
        const PAGE: usize = 4096;
        let start = range.start.next_multiple_of(PAGE);
        let end = range.end / PAGE * PAGE;
        if let Self::Mapped(map) = self
            && start < end
        {
            // SAFETY: the mapping is of a file, private and never written, so dropping its pages cannot lose data:
            // the next read faults the same bytes in again.
            // A failure only costs memory, so it is not reported.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}
