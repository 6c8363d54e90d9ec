//! Text files that people write, with whatever editor they have.

use std::io;
use std::path::Path;

/// A file's text, in UTF-8, or in UTF-16 as some editors and shells of Windows write it; without a byte order mark.
///
/// # Errors
/// A file that cannot be read or is no text.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    decode(&std::fs::read(path)?)
}

fn decode(bytes: &[u8]) -> io::Result<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let text = String::from_utf16(&units.iter().map(|pair| unit(*pair)).collect::<Vec<_>>());
        text.ok().filter(|_| rest.is_empty())
    };
    let text = match bytes {
        [0xEF, 0xBB, 0xBF, text @ ..] => String::from_utf8(text.to_vec()).ok(),
        [0xFF, 0xFE, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xFE, 0xFF, text @ ..] => utf16(text, u16::from_be_bytes),
        text => String::from_utf8(text.to_vec()).ok(),
    };
    text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        for bytes in [&b"key"[..], b"\xEF\xBB\xBFkey", b"\xFF\xFEk\0e\0y\0", b"\xFE\xFF\0k\0e\0y"] {
            assert_eq!(decode(bytes).unwrap(), "key", "{bytes:?}");
        }
        for bytes in [&b"\xFFkey"[..], b"\xFF\xFEk\0e", b"\xFF\xFE\0\xD8"] {
            assert!(decode(bytes).unwrap_err().to_string().contains("UTF-8"), "{bytes:?}");
        }
    }
}
