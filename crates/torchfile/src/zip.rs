//! Zip archives, which is what .npz and .pt files are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use rawzip::{CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder};

use crate::Error;

/// Bytes of one file in an archive at most: far more than latents are, and less than would bring a machine down.
const MAX_FILE: u64 = 4 << 30;

/// Files in an archive at most.
const MAX_FILES: usize = 1_000_000;

/// An archive whose table of contents has been read.
#[derive(Debug)]
pub struct Zip {
    archive: ZipArchive<FileReader>,
    entries: Vec<Entry>,
    /// From names to entries.
    index: HashMap<String, usize>,
    /// Bytes of the file.
    length: u64,
}

#[derive(Debug)]
struct Entry {
    name: String,
    place: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
    size: u64,
}

impl Zip {
    /// Reads the table of contents.
    ///
    /// # Errors
    /// It is no zip archive, or says of itself what cannot be.
    pub fn open(file: File) -> Result<Self, Error> {
        Ok(Self::look_into(file)?)
    }

    fn look_into(file: File) -> anyhow::Result<Self> {
        let length = file.metadata()?.len();
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let archive = ZipArchive::from_file(file, &mut buffer)?;
        let mut entries = Vec::new();
        let mut list = archive.entries(&mut buffer);
        while let Some(entry) = list.next_entry()? {
            ensure!(entries.len() < MAX_FILES, "it holds more than {MAX_FILES} files");
            let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
            let (method, size) = (entry.compression_method(), entry.uncompressed_size_hint());
            let stored = method == CompressionMethod::STORE;
            ensure!(
                size <= MAX_FILE && (!stored || size <= length),
                "its file {name:?} cannot be of {size} bytes"
            );
            entries.push(Entry { name, place: entry.wayfinder(), method, size });
        }
        let index = entries.iter().enumerate().rev().map(|(at, entry)| (entry.name.clone(), at)).collect();
        Ok(Self { archive, entries, index, length })
    }

    /// The names of the files in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    fn find(&self, name: &str) -> anyhow::Result<&Entry> {
        let found = self.index.get(name).and_then(|at| self.entries.get(*at));
        found.with_context(|| format!("it holds no file {name:?}"))
    }

    /// Where in the archive the content of one file lies, as it is; `None` when it is compressed.
    ///
    /// # Errors
    /// There is no such file, or it is cut off.
    pub fn stored(&self, name: &str) -> Result<Option<Range<u64>>, Error> {
        Ok(self.look_for(name)?)
    }

    fn look_for(&self, name: &str) -> anyhow::Result<Option<Range<u64>>> {
        let Entry { place, method, size, .. } = self.find(name)?;
        if *method != CompressionMethod::STORE {
            return Ok(None);
        }
        let (start, end) = self.archive.get_entry(*place)?.compressed_data_range();
        let whole = end.checked_sub(start) == Some(*size) && end <= self.length;
        ensure!(whole, "its file {name:?} is cut off or damaged");
        Ok(Some(start..end))
    }

    /// The content of one file, checked.
    ///
    /// # Errors
    /// There is no such file, or it is damaged.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        Ok(self.content(name)?)
    }

    fn content(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let Entry { place, method, size, .. } = self.find(name)?;
        let entry = self.archive.get_entry(*place)?;
        let raw = BufReader::new(entry.reader());
        let mut content = Vec::new();
        // One byte more than announced: a file that goes on is noticed, not read to its end.
        let limit = size + 1;
        match *method {
            CompressionMethod::STORE => entry.verifying_reader(raw).take(limit).read_to_end(&mut content),
            CompressionMethod::DEFLATE => entry
                .verifying_reader(flate2::bufread::DeflateDecoder::new(raw))
                .take(limit)
                .read_to_end(&mut content),
            other => bail!("its file {name:?} is compressed by {other:?}, which is not known here"),
        }
        .with_context(|| format!("its file {name:?} is damaged"))?;
        ensure!(content.len() as u64 == *size, "its file {name:?} is damaged: it is not as long as it says");
        Ok(content)
    }
}
