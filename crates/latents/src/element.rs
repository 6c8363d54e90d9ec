//! Types of values that files have, and what travels instead of those that have no name in the protocol.

use torchfile::Element;
use wire::{DType, Tensor};

/// Whether these are floats that latents are saved as. Float8 is for weights.
pub(super) fn is_of_latents(element: Element) -> bool {
    matches!(element, Element::Float16 | Element::BFloat16 | Element::Float32 | Element::Float64)
}

/// The tensor of these little-endian values. Float64 becomes float32: no model computes in more. `None` where
/// [`is_of_latents`] says no.
pub(super) fn tensor(element: Element, shape: Vec<usize>, bytes: Vec<u8>) -> anyhow::Result<Option<Tensor>> {
    let (dtype, bytes) = match element {
        Element::Float16 => (DType::Float16, bytes),
        Element::BFloat16 => (DType::BFloat16, bytes),
        Element::Float32 => (DType::Float32, bytes),
        Element::Float64 => {
            let (values, _) = bytes.as_chunks();
            let single = values.iter().flat_map(|value| (f64::from_le_bytes(*value) as f32).to_le_bytes());
            (DType::Float32, single.collect())
        }
        Element::Float8E4M3 | Element::Float8E5M2 => return Ok(None),
    };
    Ok(Some(Tensor::new(dtype, shape, bytes.into())?))
}
