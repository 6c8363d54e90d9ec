//! What the values of a tensor show of how they came about, seen in one pass over its bytes.

use half::{bf16, f16};

use crate::{DType, Tensor};

/// Values at the start that are compared with the others: what is left in memory that was freed lies in its first
/// bytes.
const START: usize = 64;
/// How many times beyond all others the first values must be, to be impossible.
const BEYOND: f32 = 1e3;
/// Positions that are told.
const TOLD: usize = 3;

/// What the values of a tensor show.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    shape: Vec<usize>,
    count: usize,
    non_finite: usize,
    /// Where the first of these are.
    first: Vec<usize>,
    /// Of bytes, nothing is odd.
    is_bytes: bool,
    /// The largest magnitude among the first values.
    start: f32,
    /// The largest magnitude among the others, if there are any.
    rest: Option<f32>,
    has_negative: bool,
}

impl Survey {
    /// Looks at every value once.
    pub fn of(tensor: &Tensor) -> Self {
        let bytes = &tensor.bytes;
        match tensor.head.dtype {
            DType::Float16 => Self::look(tensor, bytes.as_chunks().0, half_bits, 0x7C00, |bits| {
                f16::from_bits(bits as u16).to_f32()
            }),
            DType::BFloat16 => Self::look(tensor, bytes.as_chunks().0, half_bits, 0x7F80, |bits| {
                bf16::from_bits(bits as u16).to_f32()
            }),
            DType::Float32 => {
                Self::look(tensor, bytes.as_chunks().0, i32::from_le_bytes, 0x7F80_0000, single)
            }
            // As the models take them. What is too large for that is infinite to them.
            DType::Float64 => Self::look(
                tensor,
                bytes.as_chunks().0,
                |bytes| (f64::from_le_bytes(bytes) as f32).to_bits() as i32,
                0x7F80_0000,
                single,
            ),
            DType::UInt8 => Self {
                shape: tensor.head.shape.clone(),
                count: bytes.len(),
                non_finite: 0,
                first: Vec::new(),
                is_bytes: true,
                start: f32::from(u8::MAX),
                rest: None,
                has_negative: false,
            },
        }
    }

    /// `bits` gives the bits of a value, whose sign is that of the number. Those of magnitudes are in the order of the
    /// magnitudes, with infinity and then NaN above all others.
    fn look<const N: usize>(
        tensor: &Tensor,
        values: &[[u8; N]],
        bits: impl Fn([u8; N]) -> i32,
        infinity: i32,
        value: impl Fn(i32) -> f32,
    ) -> Self {
        // All ones below the sign, in as many bits as the type has.
        let magnitude = if infinity > 0xFFFF { 0x7FFF_FFFF } else { 0x7FFF };
        let largest = |values: &[[u8; N]]| {
            values.iter().fold((0, 0), |(largest, signs), &value| {
                let bits = bits(value);
                (largest.max(bits & magnitude), signs | bits)
            })
        };
        let (start, rest) = values.split_at(values.len().min(START));
        let ((start, signs), (others, more_signs)) = (largest(start), largest(rest));
        let odd = |bytes: [u8; N]| bits(bytes) & magnitude >= infinity;
        let (mut non_finite, mut first) = (0, Vec::new());
        if start.max(others) >= infinity {
            non_finite = values.iter().filter(|&&bytes| odd(bytes)).count();
            let positions = values.iter().enumerate().filter(|&(_, &bytes)| odd(bytes));
            first = positions.map(|(position, _)| position).take(TOLD).collect();
        }
        Self {
            shape: tensor.head.shape.clone(),
            count: values.len(),
            non_finite,
            first,
            is_bytes: false,
            start: value(start),
            rest: (!rest.is_empty()).then(|| value(others)),
            has_negative: (signs | more_signs) < 0,
        }
    }

    /// How many values are NaN or infinite, and where the first are; `None` when all are finite. `what` names the tensor.
    pub fn non_finite(&self, what: &str) -> Option<String> {
        if self.non_finite == 0 {
            return None;
        }
        let positions: Vec<_> = self.first.iter().map(|&at| format!("{:?}", self.indices(at))).collect();
        let positions = match positions.as_slice() {
            [one] => format!("at {one}"),
            several => format!("the first at {}", several.join(", ")),
        };
        let are = if self.non_finite == 1 { "is" } else { "are" };
        Some(format!(
            "{} of the {} values of {what} {are} NaN or infinite, {positions}",
            self.non_finite, self.count
        ))
    }

    /// Whether one of the first values is NaN or infinite.
    pub fn starts_non_finite(&self) -> bool {
        self.first.first().is_some_and(|&at| at < START)
    }

    /// That the first values are finite but far beyond all others, if they are. `usual` is a magnitude that such values
    /// may have in any case.
    pub fn impossible_start(&self, what: &str, usual: f32) -> Option<String> {
        let rest = self.rest.filter(|_| !self.is_bytes && self.non_finite == 0)?;
        let bound = BEYOND * rest.max(usual);
        (self.start > bound).then(|| {
            format!(
                "the first {START} values of {what} go up to {:e}, and all others up to {:e}",
                self.start, rest
            )
        })
    }

    /// The largest magnitude of a finite value.
    pub fn largest(&self) -> f32 {
        self.rest.map_or(self.start, |rest| rest.max(self.start))
    }

    /// Whether all values lie where those of pictures do: in [-1, 1], or none below 0. Latents never do: they are spread
    /// around 0, with values beyond 1.
    pub fn may_be_picture(&self) -> bool {
        self.non_finite == 0 && (!self.has_negative || self.largest() <= 1.0)
    }

    /// From the place in C order to one number an axis.
    fn indices(&self, mut place: usize) -> Vec<usize> {
        let mut indices: Vec<_> = self
            .shape
            .iter()
            .rev()
            .map(|&length| {
                let index = place % length.max(1);
                place /= length.max(1);
                index
            })
            .collect();
        indices.reverse();
        indices
    }
}

/// The bits of a type of 16 bits, with its sign.
fn half_bits(bytes: [u8; 2]) -> i32 {
    i32::from(i16::from_le_bytes(bytes))
}

fn single(bits: i32) -> f32 {
    f32::from_bits(bits as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [DType; 4] = [DType::Float16, DType::BFloat16, DType::Float32, DType::Float64];

    fn survey(values: &[f32], dtype: DType) -> Survey {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&value| match dtype {
                DType::Float16 => f16::from_f32(value).to_le_bytes().to_vec(),
                DType::BFloat16 => bf16::from_f32(value).to_le_bytes().to_vec(),
                DType::Float32 => value.to_le_bytes().to_vec(),
                DType::Float64 => f64::from(value).to_le_bytes().to_vec(),
                DType::UInt8 => vec![value as u8],
            })
            .collect();
        Survey::of(&Tensor::new(dtype, vec![1, 4, values.len() / 4], bytes.into()).unwrap())
    }

    /// Values such as latents have: both signs, up to 3.
    fn latents(count: usize) -> Vec<f32> {
        (0..count).map(|index| (index * 37 % 97) as f32 / 16.0 - 3.0).collect()
    }

    #[test]
    fn ordinary_values_show_nothing() {
        for dtype in TYPES {
            for count in [4, 64, 68, 4096] {
                let survey = survey(&latents(count), dtype);
                assert_eq!(survey.non_finite("x"), None);
                assert!(!survey.starts_non_finite());
                assert_eq!(survey.impossible_start("x", 0.0), None, "{dtype} {count}");
            }
            assert_eq!(survey(&latents(97 * 4), dtype).largest(), 3.0);
        }
    }

    #[test]
    fn what_is_no_number_is_counted_and_found() {
        for dtype in TYPES {
            for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = latents(400);
                values[99] = odd;
                let one = survey(&values, dtype);
                assert_eq!(
                    one.non_finite("x").unwrap(),
                    "1 of the 400 values of x is NaN or infinite, at [0, 0, 99]"
                );
                assert!(!one.starts_non_finite(), "it is no first value");
                values[63] = odd;
                values[399] = -odd;
                values[398] = odd;
                let four = survey(&values, dtype);
                assert_eq!(
                    four.non_finite("x").unwrap(),
                    "4 of the 400 values of x are NaN or infinite, the first at [0, 0, 63], [0, 0, 99], [0, 3, 98]"
                );
                assert!(four.starts_non_finite());
                assert_eq!(four.impossible_start("x", 0.0), None, "one reason is enough");
                assert!(!four.may_be_picture());
            }
        }
        // float64 goes further than what models take.
        let bytes: Vec<u8> = [1.0, 1e39].iter().flat_map(|value: &f64| value.to_le_bytes()).collect();
        let large = Survey::of(&Tensor::new(DType::Float64, vec![2], bytes.into()).unwrap());
        assert_eq!(large.non_finite("x").unwrap(), "1 of the 2 values of x is NaN or infinite, at [1]");
        assert_eq!(survey(&[255.0; 400], DType::UInt8).non_finite("x"), None);
    }

    #[test]
    fn a_start_beyond_all_others_is_found() {
        for dtype in TYPES {
            for (index, value, found) in
                [(0, 3100.0, true), (63, -3100.0, true), (0, 2900.0, false), (64, 3100.0, false)]
            {
                let mut values = latents(400);
                values[index] = value;
                let sentence = survey(&values, dtype).impossible_start("x", 0.0);
                assert_eq!(sentence.is_some(), found, "{dtype} {index} {value}: {sentence:?}");
            }
            // There is nothing to compare with.
            assert_eq!(survey(&[1000.0; 64], dtype).impossible_start("x", 0.0), None);
        }
        let mut values = latents(400);
        values[1] = 1e20;
        assert_eq!(
            survey(&values, DType::Float32).impossible_start("x", 0.0).unwrap(),
            "the first 64 values of x go up to 1e20, and all others up to 3e0"
        );
        // A black picture with a white first row.
        let mut picture = vec![0.0; 400];
        picture[..20].fill(1.0);
        assert_eq!(survey(&picture, DType::Float32).impossible_start("x", 1.0), None);
        assert_eq!(survey(&[[255.0; 64], [0.0; 64]].concat(), DType::UInt8).impossible_start("x", 0.0), None);
    }

    #[test]
    fn values_of_pictures_are_told_from_latents() {
        for dtype in TYPES {
            let unit: Vec<_> = (0..400).map(|index| (index % 7) as f32 / 6.0).collect();
            let full: Vec<_> = unit.iter().map(|value| 2.0 * value - 1.0).collect();
            let bytes: Vec<_> = unit.iter().map(|value| value * 255.0).collect();
            for picture in [unit, full, bytes, vec![0.0; 400]] {
                assert!(survey(&picture, dtype).may_be_picture());
            }
            assert!(!survey(&latents(400), dtype).may_be_picture());
        }
        assert!(survey(&[200.0; 400], DType::UInt8).may_be_picture());
    }
}
