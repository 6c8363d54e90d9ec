//! Whole numbers as people write them.

use std::ops::RangeInclusive;

/// Any number that the machine can count to.
pub(crate) const ANY: RangeInclusive<u64> = 0..=u64::MAX;

/// Numbers of ports.
pub(crate) const PORTS: RangeInclusive<u64> = 0..=65535;

/// Reads a whole number of this range.
pub(crate) fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| match (range.start(), range.end()) {
            (0, &u64::MAX) => "expected a whole number".to_owned(),
            (start, &u64::MAX) => format!("expected a whole number from {start} on"),
            (start, end) => format!("expected a whole number from {start} to {end}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers() {
        assert_eq!(whole(ANY)("0"), Ok(0_u64));
        assert_eq!(whole(1..=100)("100"), Ok(100_u8));
        for (text, range, words) in [
            ("abc", ANY, "expected a whole number"),
            ("-1", ANY, "expected a whole number"),
            ("1.5", ANY, "expected a whole number"),
            ("0", 1..=u64::MAX, "expected a whole number from 1 on"),
            ("70000", 0..=65535, "expected a whole number from 0 to 65535"),
            ("", 1..=100, "expected a whole number from 1 to 100"),
        ] {
            assert_eq!(whole::<usize>(range)(text), Err(words.to_owned()), "{text}");
        }
    }
}
