//! Latents in files that `torch.save` writes.

use anyhow::Context;
use torchfile::{Stored, TorchFile};
use wire::Tensor;

use super::choose::Entry;
use super::element::{is_of_latents, tensor};

/// What its pickle says of the tensors, in its order.
pub(super) fn entries(file: &TorchFile) -> Vec<Entry> {
    let entry = |(name, stored): &(String, Stored)| Entry {
        name: name.clone(),
        shape: stored.shape.clone(),
        is_float: stored.element().is_some_and(is_of_latents),
    };
    file.tensors().iter().map(entry).collect()
}

/// The tensor called `name`.
pub(super) fn read(file: &TorchFile, name: &str) -> anyhow::Result<Tensor> {
    let found = file.tensors().iter().find(|(known, _)| known == name);
    let (_, stored) = found.with_context(|| format!("it holds no tensor {name:?}"))?;
    let read = || {
        let Some(element) = stored.element().filter(|element| is_of_latents(*element)) else {
            return Ok(None);
        };
        tensor(element, stored.shape.clone(), file.read(stored, element.size())?)
    };
    read()?.with_context(|| {
        format!(
            "its tensor {name:?} is in a {:?}, but must be float16, bfloat16, float32 or float64",
            stored.class
        )
    })
}
