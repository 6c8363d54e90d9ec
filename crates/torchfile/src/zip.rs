//! Zip archives, which is what .npz and .pt files are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use rawzip::{
    CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive, ZipArchiveEntryWayfinder,
    ZipLocator,
};

use crate::Error;

/// Bytes of one file in an archive at most: far more than latents are, and less than would bring a machine down.
const MAX_FILE: u64 = 4 << 30;

/// Bytes that anything compressed may unpack to: a video's latents, and pictures of 4096 x 4096 as float32 pixels.
const FREE: u64 = 256 << 20;

/// What is larger than [`FREE`] may unpack to this many times its size. Deflate makes 1032 of one at most, of zeros;
/// floats that mean something become hardly smaller than half.
const MAX_RATIO: u64 = 100;

/// Files in an archive at most.
const MAX_FILES: usize = 1_000_000;

/// Where an archive is.
#[derive(Debug)]
enum Source {
    File(FileReader),
    Memory(Vec<u8>),
}

impl ReaderAt for Source {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read_at(buffer, offset),
            Self::Memory(bytes) => bytes.as_slice().read_at(buffer, offset),
        }
    }
}

/// An archive whose table of contents has been read.
#[derive(Debug)]
pub struct Zip {
    archive: ZipArchive<Source>,
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
        let look = || {
            let length = file.metadata()?.len();
            Self::look_into(Source::File(file.into()), length)
        };
        Ok(look()?)
    }

    /// Reads the table of contents of an archive that is compressed by gzip as a whole.
    ///
    /// # Errors
    /// As for [`Zip::open`], and an archive that unpacks to much more than tensors do.
    pub(crate) fn open_gzip(file: File) -> anyhow::Result<Self> {
        let limit = FREE.max(file.metadata()?.len().saturating_mul(MAX_RATIO)).min(MAX_FILE);
        let mut bytes = Vec::new();
        let unpacked = flate2::read::GzDecoder::new(BufReader::new(file));
        unpacked.take(limit + 1).read_to_end(&mut bytes).context("what gzip has made of it is damaged")?;
        let length = bytes.len() as u64;
        ensure!(length <= limit, "it unpacks to more than {} MiB", limit >> 20);
        Self::look_into(Source::Memory(bytes), length)
    }

    /// Whether the whole archive lies in its file as it is, so that [`Zip::stored`] means places in the file.
    fn is_plain(&self) -> bool {
        matches!(self.archive.get_ref(), Source::File(_))
    }

    fn look_into(source: Source, length: u64) -> anyhow::Result<Self> {
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let archive =
            ZipLocator::new().locate_in_reader(source, &mut buffer, length).map_err(|(_, error)| error)?;
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
            let packed = entry.compressed_size_hint().min(length);
            ensure!(
                stored || size <= FREE || size / MAX_RATIO <= packed,
                "its file {name:?} unpacks to {} MiB, {} times its size, which no latents do; save it again without \
                 compression if it is meant so",
                size >> 20,
                size / packed.max(1)
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
        if *method != CompressionMethod::STORE || !self.is_plain() {
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

    /// As [`Zip::read`], of a file that has no reason to be larger than `limit` bytes.
    ///
    /// # Errors
    /// As for [`Zip::read`], and when it is larger.
    pub fn read_up_to(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let read = || {
            let size = self.find(name)?.size;
            ensure!(size <= limit, "its file {name:?} has {size} bytes, but may have {limit} at most");
            self.content(name)
        };
        Ok(read()?)
    }

    /// The first bytes of one file, `length` at most and not checked: enough for the header of an array.
    ///
    /// # Errors
    /// There is no such file, or its beginning is damaged.
    pub fn beginning(&self, name: &str, length: usize) -> Result<Vec<u8>, Error> {
        let read = || {
            let Entry { place, method, .. } = self.find(name)?;
            let raw = BufReader::new(self.archive.get_entry(*place)?.reader());
            let mut content = Vec::new();
            match *method {
                CompressionMethod::DEFLATE => {
                    flate2::bufread::DeflateDecoder::new(raw).take(length as u64).read_to_end(&mut content)
                }
                _ => raw.take(length as u64).read_to_end(&mut content),
            }
            .with_context(|| format!("its file {name:?} is damaged"))?;
            anyhow::Ok(content)
        };
        Ok(read()?)
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
