//! Zip archives, which is what .npz and .pt files are.

use std::fs::File;
use std::io::{BufReader, Read};

use anyhow::{Context, bail, ensure};
use rawzip::{CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder};

/// Bytes of one file in an archive at most: far more than latents are, and less than would bring a machine down.
const MAX_FILE: u64 = 4 << 30;

/// Files in an archive at most.
const MAX_FILES: usize = 1_000_000;

/// An archive whose table of contents has been read.
#[derive(Debug)]
pub(super) struct Zip {
    archive: ZipArchive<FileReader>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    place: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
    size: u64,
}

impl Zip {
    pub(super) fn open(file: File) -> anyhow::Result<Self> {
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
        Ok(Self { archive, entries })
    }

    /// The names of the files in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The content of one file, checked.
    pub(super) fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let found = self.entries.iter().find(|entry| entry.name == name);
        let Some(Entry { place, method, size, .. }) = found else { bail!("it holds no file {name:?}") };
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
