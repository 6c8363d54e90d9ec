//! Numbers of bytes as people write them.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

/// A number of bytes above 0, such as `8GiB`, `64MiB` or `100kB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

impl FromStr for Size {
    type Err = String;

    /// A number without a unit is refused: `--memory-limit 8` hardly means eight bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim();
        if !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return Err(format!("it has no unit: write {number}GiB or {number}MiB, or {number}B for bytes"));
        }
        let size: ByteSize =
            text.parse().map_err(|_| "expected a size such as 8GiB, 64MiB or 100kB".to_owned())?;
        match usize::try_from(size.as_u64()) {
            Ok(0) => Err("it must be above 0".to_owned()),
            size => Ok(Self(size.unwrap_or(usize::MAX))),
        }
    }
}

impl fmt::Display for Size {
    /// In the largest unit that takes no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.into_iter().find(|(bits, _)| self.0 > 0 && self.0.trailing_zeros() >= *bits) {
            Some((bits, unit)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("8GiB", 8 << 30), ("64MiB", 64 << 20), ("1.5 KiB", 1536), ("100kB", 100_000), ("7B", 7)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for (text, words) in [
            ("8", "it has no unit: write 8GiB or 8MiB, or 8B for bytes"),
            (" 1.5 ", "write 1.5GiB"),
            ("67108864", "67108864B for bytes"),
            ("", "expected a size such as"),
            ("much", "expected a size such as"),
            ("-1GiB", "expected a size such as"),
            ("0MiB", "above 0"),
        ] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn they_are_printed_as_they_are_written() {
        for (bytes, text) in [(64 << 20, "64MiB"), (3 << 30, "3GiB"), (1536, "1536B"), (10 << 10, "10KiB")] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
    }
}
