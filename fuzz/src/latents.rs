//! Files of latents, as the program reads them.

use std::error::Error;
use std::fs;

use latents::{LatentsError, LatentsFile};

use crate::{MIB, sentence, within};

/// Tensors of a file that are read.
const MAX_TENSORS: usize = 8;

/// Deflate makes of a byte this many at most.
const DEFLATE: usize = 1032;

/// What the program says of an error.
fn said(error: &LatentsError) -> String {
    let (mut said, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

/// A safetensors, .npy, .npz or .pt file, or a .pt file in gzip; the first bytes say which.
pub fn latents(input: &[u8]) {
    let (endings, memory): (&[_], _) = match input {
        [0x93, b'N', ..] => (&["npy"], 16 * input.len()),
        [b'P', b'K', ..] => (&["npz", "pt"], 4 * DEFLATE * input.len()),
        [0x1f, 0x8b, ..] => (&["pt"], 4 * DEFLATE * DEFLATE * input.len()),
        _ => (&["safetensors"], 64 * input.len()),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for ending in endings {
        let path = folder.path().join(format!("latents.{ending}"));
        fs::write(&path, input).expect("a temporary file");
        within(memory + MIB, || match LatentsFile::open(&path) {
            Err(error) => sentence(&said(&error)),
            Ok(file) => {
                for entry in file.entries().iter().take(MAX_TENSORS) {
                    file.layout(&entry.name);
                    match file.read(Some(&entry.name)) {
                        Err(error) => sentence(&said(&error)),
                        Ok(tensor) => assert_eq!(tensor.bytes.len(), tensor.head.byte_len()),
                    }
                }
            }
        });
    }
}
