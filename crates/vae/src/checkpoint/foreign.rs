//! What a file is that holds no weights that can be read: told by its bytes, whatever its ending.

use std::path::Path;

/// Beginnings of files, and what such files are.
const MAGIC: [(&[u8], &str); 17] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS, not the file itself: run `git lfs pull` where it was cloned, or download the file",
    ),
    (
        b"/annex/objects/",
        "a pointer of git-annex, not the file itself: run `git annex get` where it was cloned",
    ),
    (b"GGUF", "a GGUF file, whose weights are packed for llama.cpp and stable-diffusion.cpp"),
    (b"\x89HDF", "an HDF5 file, as Keras saves weights"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (
        b"<?xml",
        "an XML document, such as the error page of a file store; look into it, and download the file again",
    ),
    (b"{", "JSON, not weights"),
    (b"[", "JSON, not weights"),
];

/// Endings of files that have no beginning by which they are known.
const ENDINGS: [(&str, &str); 6] = [
    ("onnx", "an ONNX model"),
    ("msgpack", "weights of Flax"),
    ("engine", "a TensorRT engine"),
    ("plan", "a TensorRT engine"),
    ("mlmodel", "a Core ML model"),
    ("tflite", "a TensorFlow Lite model"),
];

/// What the file that begins with `start` is, if that is known: `a GGUF file, ...`.
pub(crate) fn kind(path: &Path, start: &[u8]) -> Option<&'static str> {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let tag = text.get(..5).unwrap_or(text).to_ascii_lowercase();
    // Before XML and JSON: this is what a page says that asks for a login.
    if [&b"<!doc"[..], b"<html", b"<head", b"<body"].contains(&tag.as_slice()) {
        return Some(
            "an HTML page, perhaps one that asks for a login or says why there is no download; look at it in a browser, \
             and download the file again",
        );
    }
    let begins = |magic: &[u8]| start.starts_with(magic) || text.starts_with(magic);
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| begins(magic)) {
        return Some(kind);
    }
    let ending = path.extension()?.to_ascii_lowercase();
    ENDINGS.iter().find(|(known, _)| ending == *known).map(|(_, kind)| *kind)
}

/// The endings of files that are tried.
pub(crate) const READABLE: &str =
    "expected a .safetensors file, or a .ckpt, .pt, .pth or .bin file of PyTorch";
