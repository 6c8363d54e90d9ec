//! Reading .safetensors: the header first, then one tensor at a time, so that a file of thousands is no burden.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, bail, ensure};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use wire::{DType, Tensor};

use super::choose;

/// Bytes of a header at most, as the format's own library limits it.
const MAX_HEADER: u64 = 100_000_000;

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
        file.read_exact(&mut size).context("it is no safetensors file: it is too short")?;
        let size = u64::from_le_bytes(size);
        ensure!(
            size <= MAX_HEADER && size.checked_add(8).is_some_and(|start| start <= length),
            "it is no safetensors file, or cut off"
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

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.metadata.tensors().into_keys().collect();
        names.sort_unstable();
        names
    }

    pub(super) fn read(&self, name: &str) -> anyhow::Result<Tensor> {
        let Some(info) = self.metadata.info(name) else { bail!("it holds no tensor {name:?}") };
        let TensorInfo { dtype, shape, data_offsets: (begin, end) } = info;
        let dtype = floats(*dtype, name)?;
        let mut bytes = vec![0; end - begin];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start + *begin as u64))?;
        file.read_exact(&mut bytes)?;
        Ok(Tensor::new(dtype, shape.clone(), bytes.into())?)
    }
}

/// The tensor called `name`, or the only one, of a file in memory.
pub(super) fn from_bytes(bytes: &[u8], name: Option<&str>) -> anyhow::Result<Tensor> {
    let file = SafeTensors::deserialize(bytes).context("it is no safetensors file")?;
    let mut names = file.names();
    names.sort_unstable();
    let name = choose(name, &names)?;
    let view = file.tensor(name)?;
    let dtype = floats(view.dtype(), name)?;
    Ok(Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec().into())?)
}

/// The type of latents.
fn floats(dtype: Dtype, name: &str) -> anyhow::Result<DType> {
    match dtype {
        Dtype::F16 => Ok(DType::Float16),
        Dtype::BF16 => Ok(DType::BFloat16),
        Dtype::F32 => Ok(DType::Float32),
        other => bail!("its tensor {name:?} is of type {other}, but must be F16, BF16 or F32"),
    }
}
