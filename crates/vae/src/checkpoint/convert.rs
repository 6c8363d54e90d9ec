//! Weights of types that the kernels do not read, and weights with scales, as values that they do read.

use std::sync::Arc;

use super::file::Type;
use crate::DType;

/// What one value, or each row of a weight, is multiplied with.
pub(super) enum Scale {
    All(f32),
    Rows(Vec<f32>),
}

/// The type that the kernels read, for one that they read as it is.
pub(super) fn as_it_is(dtype: &Type) -> Option<DType> {
    match dtype {
        Type::F32 => Some(DType::F32),
        Type::F16 => Some(DType::F16),
        Type::Bf16 => Some(DType::Bf16),
        Type::F64 | Type::E4m3 | Type::E5m2 | Type::Other(_) => None,
    }
}

/// The values of `bytes`: f16 for those of eight bits, which it has exactly, else f32.
pub(super) fn converted(dtype: &Type, bytes: &[u8], scale: Option<&Scale>) -> Option<(DType, Arc<[u8]>)> {
    let plain: (DType, Vec<u8>) = match dtype {
        Type::E4m3 => {
            (DType::F16, bytes.iter().flat_map(|&value| f16_of_e4m3(value).to_le_bytes()).collect())
        }
        Type::E5m2 => (DType::F16, bytes.iter().flat_map(|&value| [0, value]).collect()),
        Type::F64 => {
            let values = bytes.as_chunks().0.iter().map(|value| f64::from_le_bytes(*value) as f32);
            (DType::F32, values.flat_map(f32::to_le_bytes).collect())
        }
        other => (as_it_is(other)?, bytes.to_vec()),
    };
    let Some(scale) = scale else { return Some((plain.0, plain.1.into())) };
    let mut values = floats(plain.0, &plain.1);
    drop(plain);
    match scale {
        Scale::All(scale) => values.iter_mut().for_each(|value| *value *= scale),
        Scale::Rows(scales) => {
            let row = (values.len() / scales.len().max(1)).max(1);
            for (values, scale) in values.chunks_mut(row).zip(scales) {
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }
    Some((DType::F32, values.into_iter().flat_map(f32::to_le_bytes).collect()))
}

/// Values as f32.
pub(super) fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    kernels::WeightView::new(dtype, bytes).to_f32()
}

/// The bits of the f16 with the value of this `float8_e4m3fn` (Open Compute Project, OFP8, revision 1.0): a bias of 7, and
/// neither infinities nor more than one pattern that is no number.
fn f16_of_e4m3(value: u8) -> u16 {
    let sign = u16::from(value & 0x80) << 8;
    let (exponent, mantissa) = (u16::from(value >> 3 & 15), u16::from(value & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => 0x7e00,
        (0, 0) => 0,
        // mantissa × 2^-9, which has an exponent of its own in f16.
        (0, _) => {
            let top = 15 - mantissa.leading_zeros() as u16;
            (top + 6) << 10 | (mantissa << (10 - top) & 0x3ff)
        }
        _ => (exponent + 8) << 10 | mantissa << 7,
    };
    sign | magnitude
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn eight_bits_have_the_values_of_their_definition() {
        for code in 0..=255u8 {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
            let magnitude = match (exponent, code & 7) {
                (15, 7) => f32::NAN,
                (0, _) => mantissa / 8.0 * 2f32.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
            };
            let expected = if code < 0x80 { magnitude } else { -magnitude };
            let found = f16::from_bits(f16_of_e4m3(code)).to_f32();
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{code:#x}: {found}"
            );
        }
        // The corners that the definition names.
        let value = |dtype: Type, code| {
            let (dtype, bytes) = converted(&dtype, &[code], None).unwrap();
            floats(dtype, &bytes)[0]
        };
        assert_eq!(
            [value(Type::E4m3, 0x7e), value(Type::E4m3, 0x08), value(Type::E4m3, 0x01)],
            [448.0, 0.015_625, 0.001_953_125]
        );
        assert_eq!(
            [value(Type::E5m2, 0x7b), value(Type::E5m2, 0x04), value(Type::E5m2, 0x81)],
            [57344.0, 2f32.powi(-14), -2f32.powi(-16)]
        );
        assert!(value(Type::E5m2, 0x7c).is_infinite() && value(Type::E5m2, 0x7f).is_nan());
    }

    #[test]
    fn scales_are_of_all_values_or_of_rows() {
        let bytes: Vec<u8> = [1.0f64, 2.0, 3.0, 4.0].into_iter().flat_map(f64::to_le_bytes).collect();
        let scaled = |scale: &Scale| {
            let (dtype, bytes) = converted(&Type::F64, &bytes, Some(scale)).unwrap();
            floats(dtype, &bytes)
        };
        assert_eq!(scaled(&Scale::All(0.5)), [0.5, 1.0, 1.5, 2.0]);
        assert_eq!(scaled(&Scale::Rows(vec![1.0, 10.0])), [1.0, 2.0, 30.0, 40.0]);
    }
}
