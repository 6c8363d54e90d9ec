//! Reading .safetensors: the header first, then one tensor at a time, so that a file of thousands is no burden.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, bail, ensure};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use torchfile::Element;
use wire::Tensor;

use super::choose::{Entry, choose};
use super::element;

/// Bytes of a header at most. That of ComfyUI holds the whole workflow, which may have some megabytes.
const MAX_HEADER: u64 = 32 << 20;

/// A file whose header has been read.
#[derive(Debug)]
pub(super) struct File {
    file: fs::File,
    metadata: Metadata,
    /// Where the values begin.
    start: u64,
}

impl File {
    pub(super) fn open(mut file: fs::File) -> anyhow::Result<Self> {
        let length = file.metadata()?.len();
        let mut size = [0; 8];
        ensure!(length >= size.len() as u64, "it is no safetensors file: it has only {length} bytes");
        file.read_exact(&mut size).context("it is no safetensors file")?;
        let size = u64::from_le_bytes(size);
        ensure!(
            size.checked_add(8).is_some_and(|start| start <= length),
            "it is no safetensors file, or cut off"
        );
        ensure!(
            size <= MAX_HEADER,
            "its header has {} MiB, but may have {} at most",
            size >> 20,
            MAX_HEADER >> 20
        );
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).context("it is no safetensors file")?;
        let metadata: Metadata = serde_json::from_slice(&header).context("it is no safetensors file")?;
        let start = 8 + size;
        ensure!(
            metadata.data_len() as u64 == length - start,
            "it is cut off or damaged: its header speaks of {} bytes, but {} follow",
            metadata.data_len(),
            length - start
        );
        Ok(Self { file, metadata, start })
    }

    /// What its header says of the tensors, sorted by their names.
    pub(super) fn entries(&self) -> Vec<Entry> {
        entries(&self.metadata)
    }

    /// What its metadata say under this name.
    pub(super) fn says(&self, name: &str) -> Option<String> {
        self.metadata.metadata().as_ref()?.get(name).cloned()
    }

    pub(super) fn read(&self, name: &str) -> anyhow::Result<Tensor> {
        let Some(info) = self.metadata.info(name) else { bail!("it holds no tensor {name:?}") };
        let TensorInfo { dtype, shape, data_offsets: (begin, end) } = info;
        let element = floats(*dtype, name)?;
        let mut bytes = vec![0; end - begin];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start + *begin as u64))?;
        file.read_exact(&mut bytes)?;
        element::tensor(element, shape.clone(), bytes)?.context("it holds no floats")
    }
}

fn entries(metadata: &Metadata) -> Vec<Entry> {
    let mut entries: Vec<_> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Entry { name, shape: info.shape.clone(), is_float: known(info.dtype).is_some() })
        .collect();
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The tensor called `name`, or the only latents, of a file in memory.
pub(super) fn from_bytes(bytes: &[u8], name: Option<&str>) -> anyhow::Result<Tensor> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).context("it is no safetensors file")?;
    let file = SafeTensors::deserialize(bytes).context("it is no safetensors file")?;
    let entries = entries(&metadata);
    let name = &choose(name, &entries)?.name;
    let view = file.tensor(name)?;
    let element = floats(view.dtype(), name)?;
    element::tensor(element, view.shape().to_vec(), view.data().to_vec())?.context("it holds no floats")
}

fn known(dtype: Dtype) -> Option<Element> {
    match dtype {
        Dtype::F16 => Some(Element::Float16),
        Dtype::BF16 => Some(Element::BFloat16),
        Dtype::F32 => Some(Element::Float32),
        Dtype::F64 => Some(Element::Float64),
        _ => None,
    }
}

/// The type of latents.
fn floats(dtype: Dtype, name: &str) -> anyhow::Result<Element> {
    known(dtype)
        .with_context(|| format!("its tensor {name:?} is of type {dtype}, but must be F16, BF16, F32 or F64"))
}
