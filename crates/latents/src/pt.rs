//! Latents in files that `torch.save` writes.

use anyhow::{Context, bail};
use torchfile::{Element, TorchFile};
use wire::{DType, Tensor};

/// The tensor called `name`.
pub(super) fn read(file: &TorchFile, name: &str) -> anyhow::Result<Tensor> {
    let found = file.tensors().iter().find(|(known, _)| known == name);
    let (_, stored) = found.with_context(|| format!("it holds no tensor {name:?}"))?;
    let dtype = match stored.element() {
        Some(Element::Float16) => DType::Float16,
        Some(Element::BFloat16) => DType::BFloat16,
        Some(Element::Float32) => DType::Float32,
        _ => {
            bail!("its tensor {name:?} is in a {:?}, but must be float16, bfloat16 or float32", stored.class)
        }
    };
    let bytes = file.read(stored, dtype.size())?;
    Ok(Tensor::new(dtype, stored.shape.clone(), bytes.into())?)
}
