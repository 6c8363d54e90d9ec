//! Work that ends early when nobody waits for it any longer.

use std::io::{self, BufRead, Cursor, Read, Seek, SeekFrom};

/// Called now and then during long work. It ends soon with [`MediaError::Cancelled`](crate::MediaError::Cancelled) after the
/// first `false`, which must stay `false`.
pub type IsWanted<'a> = dyn Fn() -> bool + 'a;

/// Bytes of a file that a decoder gets at once. Those of a file that compresses well take it milliseconds.
const PART: usize = 8 << 10;

/// A file that cannot be read on once it is not wanted any longer.
pub(crate) struct WatchedFile<'a> {
    file: Cursor<&'a [u8]>,
    is_wanted: &'a IsWanted<'a>,
}

impl<'a> WatchedFile<'a> {
    pub(crate) fn new(file: &'a [u8], is_wanted: &'a IsWanted<'a>) -> Self {
        Self { file: Cursor::new(file), is_wanted }
    }
}

impl BufRead for WatchedFile<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if !(self.is_wanted)() {
            // Not `Interrupted`, after which a reader tries again.
            return Err(io::Error::other("nobody waits for this file any longer"));
        }
        let rest = self.file.fill_buf()?;
        Ok(&rest[..rest.len().min(PART)])
    }

    fn consume(&mut self, amount: usize) {
        self.file.consume(amount);
    }
}

impl Read for WatchedFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = self.fill_buf()?;
        let length = part.len().min(buffer.len());
        buffer[..length].copy_from_slice(&part[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl Seek for WatchedFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
