//! Tensors whose values do not lie one behind the other: transposed ones, and Fortran order.

use anyhow::{Context, ensure};

use crate::Error;

/// The strides of a tensor in C order, in elements.
///
/// # Errors
/// A shape with more elements than there can be.
pub fn contiguous(shape: &[usize]) -> Result<Vec<usize>, Error> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].checked_mul(shape[axis]).context("its shape is impossible")?;
    }
    Ok(strides)
}

/// The elements of `size` bytes that a tensor has in `data`, in C order. `offset` and `strides` count elements.
///
/// # Errors
/// A tensor that reaches beyond its data, or one that repeats elements: it may be of any size.
pub fn gather(
    data: &[u8],
    size: usize,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
) -> Result<Vec<u8>, Error> {
    Ok(gathered(data, size, offset, shape, strides)?)
}

fn gathered(
    data: &[u8],
    size: usize,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
) -> anyhow::Result<Vec<u8>> {
    ensure!(shape.len() == strides.len(), "its shape {shape:?} does not fit its strides {strides:?}");
    ensure!(!shape.contains(&0), "its shape {shape:?} has an axis of length 0");
    let has = data.len() / size;
    let count = shape.iter().try_fold(1usize, |count, &axis| count.checked_mul(axis));
    let last = shape.iter().zip(strides).try_fold(offset, |last, (&axis, &stride)| {
        (axis - 1).checked_mul(stride).and_then(|reach| last.checked_add(reach))
    });
    let (Some(count), Some(last)) = (count, last) else { anyhow::bail!("its shape {shape:?} is impossible") };
    ensure!(last < has, "it is cut off: a tensor of shape {shape:?} needs more than its {has} values");
    ensure!(
        count <= has,
        "it repeats values to fill its shape {shape:?}; save what .contiguous() makes of it"
    );

    if strides == contiguous(shape)? {
        return Ok(data[offset * size..(offset + count) * size].to_vec());
    }
    let mut gathered = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = offset;
    for _ in 0..count {
        gathered.extend_from_slice(&data[at * size..(at + 1) * size]);
        // One step forward, the last axis first.
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= shape[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    Ok(gathered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_gathered() {
        let data: Vec<u8> = (0..24).collect();
        assert_eq!(contiguous(&[2, 3, 4]).unwrap(), [12, 4, 1]);
        assert_eq!(gather(&data, 1, 0, &[2, 3, 4], &[12, 4, 1]).unwrap(), data);
        assert_eq!(gather(&data, 2, 1, &[3], &[1]).unwrap(), data[2..8]);
        assert_eq!(gather(&data, 1, 0, &[2, 3], &[1, 2]).unwrap(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(gather(&data, 2, 0, &[2, 2], &[1, 2]).unwrap(), [0, 1, 4, 5, 2, 3, 6, 7]);
        assert_eq!(gather(&data, 1, 5, &[2, 1, 2], &[10, 7, 3]).unwrap(), [5, 8, 15, 18]);
        assert_eq!(gather(&data, 1, 9, &[], &[]).unwrap(), [9]);
    }

    #[test]
    fn nothing_is_read_that_is_not_there() {
        let data = [0; 24];
        for (offset, shape, strides) in [
            (0, &[25][..], &[1][..]),
            (1, &[24], &[1]),
            (0, &[2, 3], &[22, 1]),
            (usize::MAX, &[1, 1], &[1, 1]),
            (0, &[usize::MAX, 2], &[1, 1]),
            (0, &[2], &[usize::MAX]),
            (0, &[1 << 40], &[0]),
            (0, &[25], &[0]),
            (0, &[2, 0], &[1, 1]),
            (0, &[2, 2], &[1]),
        ] {
            assert!(gather(&data, 1, offset, shape, strides).is_err(), "{offset} {shape:?} {strides:?}");
        }
    }
}
