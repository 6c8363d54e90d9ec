//! One file of weights: what its table of contents says, and its bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kernels::Bytes;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use torchfile::{Element, Stored, TorchFile};

use super::foreign;
use crate::weight::WeightBytes;
use crate::{LoadError, LoadMode};

/// Bytes of a safetensors header at most, as the format's own library limits it.
const MAX_HEADER: u64 = 100_000_000;

/// How much of a file is looked at to say what it is.
const START: u64 = 512;

/// The type of a tensor's elements in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    F64,
    F32,
    F16,
    Bf16,
    /// One sign, four bits of exponent, three of mantissa; no infinity.
    E4m3,
    /// The upper byte of an f16.
    E5m2,
    /// One that weights do not have, by its name.
    Other(String),
}

/// A tensor as the table of contents describes it.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Type,
    pub(crate) shape: Vec<usize>,
    pub(crate) place: Place,
}

/// Where a tensor's values are.
#[derive(Clone)]
pub(crate) enum Place {
    /// In this part of the file.
    Range(Range<u64>),
    /// Somewhere in a file of PyTorch, not in one piece.
    Scattered(Stored),
}

/// A file that was opened and whose table of contents was read.
pub(crate) struct WeightFile {
    path: PathBuf,
    source: Source,
    mapped: OnceLock<Arc<Bytes>>,
}

enum Source {
    File(File),
    Torch(File, TorchFile),
    Static(&'static [u8]),
}

impl WeightFile {
    /// Opens the file, of whatever name, and lists its tensors.
    ///
    /// # Errors
    /// It cannot be read, it is cut off, or it is something else.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Entry>), LoadError> {
        let io = |source| LoadError::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(io(std::io::ErrorKind::IsADirectory.into()));
        }
        let mut start = Vec::new();
        (&file).take(START).read_to_end(&mut start).map_err(io)?;
        (&file).rewind().map_err(io)?;
        let wrong = |message: String| LoadError::Weights { path: path.to_path_buf(), message };
        // A zip archive, or a pickle of protocol 2 and up: what torch.save has written, today or long ago.
        if start.starts_with(b"PK\x03\x04") || matches!(start[..], [0x80, 2..=5, ..]) {
            let copy = file.try_clone().map_err(io)?;
            let torch = TorchFile::open(copy).map_err(|error| wrong(error.to_string()))?;
            let entries = of_torch(&torch).map_err(wrong)?;
            let source = Source::Torch(file, torch);
            return Ok((Self { path: path.to_path_buf(), source, mapped: OnceLock::new() }, entries));
        }
        let entries = of_safetensors(&file, metadata.len()).map_err(|message| {
            wrong(match foreign::kind(path, &start) {
                Some(kind) => format!("it is {kind}; {}", foreign::READABLE),
                None => message,
            })
        })?;
        Ok((Self { path: path.to_path_buf(), source: Source::File(file), mapped: OnceLock::new() }, entries))
    }

    /// Weights that are part of the program.
    ///
    /// # Errors
    /// They are no safetensors file.
    pub(crate) fn embedded(path: &Path, bytes: &'static [u8]) -> Result<(Self, Vec<Entry>), LoadError> {
        let entries = of_safetensors(std::io::Cursor::new(bytes), bytes.len() as u64)
            .map_err(|message| LoadError::Weights { path: path.to_path_buf(), message })?;
        let source = Source::Static(bytes);
        Ok((Self { path: path.to_path_buf(), source, mapped: OnceLock::new() }, entries))
    }

    /// Whether this file is to be mapped.
    pub(crate) fn is_mapped(&self, mode: LoadMode) -> bool {
        match (&self.source, mode) {
            (Source::Static(_), _) | (_, LoadMode::Map) => true,
            (_, LoadMode::Copy) => false,
            (_, LoadMode::Auto) => is_read_only(&self.path),
        }
    }

    /// The values of the tensor at `place`.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn bytes(
        &self,
        place: &Place,
        element_size: usize,
        map: bool,
    ) -> Result<WeightBytes, LoadError> {
        match (place, &self.source) {
            (Place::Range(range), _) if map => {
                let range = range.start as usize..range.end as usize;
                Ok(WeightBytes::Mapped(self.map()?, range))
            }
            (Place::Range(range), Source::File(file) | Source::Torch(file, _)) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let mut file = file;
                let read = file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes));
                read.map_err(|source| LoadError::Io { path: self.path.clone(), source })?;
                Ok(WeightBytes::Owned(bytes.into()))
            }
            (Place::Range(range), Source::Static(bytes)) => {
                let bytes = &bytes[range.start as usize..range.end as usize];
                Ok(WeightBytes::Owned(bytes.into()))
            }
            (Place::Scattered(stored), Source::Torch(_, torch)) => {
                let bytes =
                    torch.read(stored, element_size).map_err(|error| self.wrong(error.to_string()))?;
                Ok(WeightBytes::Owned(bytes.into()))
            }
            (Place::Scattered(_), _) => Err(self.wrong("a tensor of it is in no storage".to_owned())),
        }
    }

    fn map(&self) -> Result<Arc<Bytes>, LoadError> {
        if let Some(mapped) = self.mapped.get() {
            return Ok(Arc::clone(mapped));
        }
        let bytes = match &self.source {
            Source::Static(bytes) => Bytes::Static(bytes),
            Source::File(file) | Source::Torch(file, _) => {
                Bytes::map(file).map_err(|source| LoadError::Io { path: self.path.clone(), source })?
            }
        };
        Ok(Arc::clone(self.mapped.get_or_init(|| Arc::new(bytes))))
    }

    fn wrong(&self, message: String) -> LoadError {
        LoadError::Weights { path: self.path.clone(), message }
    }
}

/// Whether this process could not change the file: then others are not likely to either.
#[cfg(unix)]
fn is_read_only(path: &Path) -> bool {
    let writable = rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    // The superuser may write whatever the file says.
    !writable || std::fs::metadata(path).is_ok_and(|found| found.permissions().readonly())
}

/// Whether the file says that it must not be changed.
#[cfg(not(unix))]
fn is_read_only(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.permissions().readonly())
}

/// The tensors of a safetensors file of `length` bytes: each lies within it and has the size that its shape says.
fn of_safetensors(mut file: impl Read, length: u64) -> Result<Vec<Entry>, String> {
    if length == 0 {
        return Err("it is empty".to_owned());
    }
    let no_safetensors = || {
        "its content is not that of a safetensors file, whatever its name says: download or copy it again"
            .to_owned()
    };
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| no_safetensors())?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER {
        return Err(no_safetensors());
    }
    let cut_off = |what: String| format!("it is cut off: {what}; download or copy it again");
    let Some(rest) = length.checked_sub(8 + size) else {
        return Err(cut_off(format!("its header has {size} bytes, and the whole file {length}")));
    };
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(|_| no_safetensors())?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| format!("it is no safetensors file: its header cannot be read: {error}"))?;
    let expected = metadata.data_len() as u64;
    if expected > rest {
        return Err(cut_off(format!("its header speaks of {expected} bytes of tensors, and {rest} follow")));
    }
    if expected < rest {
        return Err(format!(
            "it is damaged: its header speaks of {expected} bytes of tensors, but {rest} follow; download or copy it again"
        ));
    }
    let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (start, end) = info.data_offsets;
        let place = Place::Range(8 + size + start as u64..8 + size + end as u64);
        Entry { name, dtype: Type::of_safetensors(info.dtype), shape: info.shape.clone(), place }
    };
    Ok(metadata.tensors().into_iter().map(entry).collect())
}

/// The tensors of a file of PyTorch.
fn of_torch(torch: &TorchFile) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (name, stored) in torch.tensors() {
        let shape = stored.shape.clone();
        let (dtype, place) = match stored.element() {
            Some(element) => {
                let place = torch
                    .place(stored, element.size())
                    .map_err(|error| format!("tensor {name:?}: {error}"))?;
                let place = place.map_or_else(|| Place::Scattered(stored.clone()), Place::Range);
                (Type::of_torch(element), place)
            }
            // Counters and the like: nobody reads them.
            None => (Type::Other(stored.class.clone()), Place::Scattered(stored.clone())),
        };
        entries.push(Entry { name: name.clone(), dtype, shape, place });
    }
    Ok(entries)
}

impl Type {
    /// Bytes of one element; 0 of a type that weights do not have.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E4m3 | Self::E5m2 => 1,
            Self::Other(_) => 0,
        }
    }

    fn of_torch(element: Element) -> Self {
        match element {
            Element::Float64 => Self::F64,
            Element::Float32 => Self::F32,
            Element::Float16 => Self::F16,
            Element::BFloat16 => Self::Bf16,
            Element::Float8E4M3 => Self::E4m3,
            Element::Float8E5M2 => Self::E5m2,
        }
    }

    fn of_safetensors(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::F8_E4M3 => Self::E4m3,
            Dtype::F8_E5M2 => Self::E5m2,
            other => Self::Other(other.to_string()),
        }
    }
}
