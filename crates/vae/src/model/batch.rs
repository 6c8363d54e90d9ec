//! Batches that are worked off in parts.

use crate::{DeviceError, HostTensor, VaeError};

/// Runs `work` on a batch in parts of at most `together` items, and joins what it gives along the first axis.
pub(super) fn in_parts(
    batch: &HostTensor,
    together: usize,
    mut work: impl FnMut(HostTensor) -> Result<HostTensor, VaeError>,
) -> Result<HostTensor, VaeError> {
    let items = batch.shape[0];
    let size = batch.data.len() / items;
    let (mut shape, mut data) = (Vec::new(), Vec::new());
    for part in batch.data.chunks(together.clamp(1, items) * size) {
        let mut part_shape = batch.shape.clone();
        part_shape[0] = part.len() / size;
        let result = work(HostTensor::new(part_shape, part.to_vec()))?;
        if data.is_empty() {
            (shape, data) = (result.shape, result.data);
            let rest = data.len() / shape[0] * (items - shape[0]);
            data.try_reserve_exact(rest)
                .map_err(|_| DeviceError::OutOfMemory((data.len() + rest) * size_of::<f32>()))?;
        } else {
            data.extend_from_slice(&result.data);
        }
    }
    shape[0] = items;
    Ok(HostTensor::new(shape, data))
}

/// Bytes that [`in_parts`] has on the host at its peak, for `items` of which each takes `input` bytes and gives
/// `output` bytes.
pub(super) fn memory(items: usize, together: usize, input: usize, output: usize) -> usize {
    let together = together.clamp(1, items);
    // All inputs and one part of them; all outputs and, where they are put together, one part of them.
    let inputs = input.saturating_mul(items + together);
    let joined = if together < items { items + together } else { items };
    inputs.saturating_add(output.saturating_mul(joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_together_in_order() {
        let batch = HostTensor::new(vec![5, 2], (0..10).map(|i| i as f32).collect());
        for (together, sizes) in [(0, vec![1; 5]), (2, vec![2, 2, 1]), (9, vec![5])] {
            let mut seen = Vec::new();
            let joined = in_parts(&batch, together, |part| {
                seen.push(part.shape[0]);
                Ok(part)
            });
            assert_eq!((joined.unwrap(), seen), (batch.clone(), sizes));
        }
    }
}
