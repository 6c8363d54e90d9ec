//! Files that `torch.save` writes (`.pt`, `.pth`, `.ckpt`, `.bin`): which tensors are in them, and where their values lie.
//! The pickle in such a file is a program; it is never run.
//!
//! The zip archive and the reader of strided tensors are public, because NumPy's `.npz` and `.npy` files need them too.
#![forbid(unsafe_code)]

mod pickle;
mod strided;
mod tensors;
mod zip;

use std::fmt;

pub use strided::{contiguous, gather};
pub use tensors::{Element, Stored, TorchFile};
pub use zip::Zip;

/// A file that cannot be read. It says what is wrong with the file, in one line, and does not name the file.
pub struct Error(anyhow::Error);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}
